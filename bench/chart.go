package main

import (
	"bytes"
	"image/color"
	"math"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// writeChart draws the events/s of every sender, the fastest on top, on a logarithmic scale: the figures
// span three orders of magnitude.
func (t *endToEndTable) writeChart(file string) error {
	var names []string
	for _, r := range routes {
		if t.figures[r.name] != nil {
			names = append(names, r.name)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { // the chart counts from below
		return int(math.Copysign(1, t.rate(a).median()-t.rate(b).median()))
	})
	plot.DefaultFont.Variant = "Sans"
	plotter.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text = "Events per second to a receiver on loopback, median, logarithmic scale"
	p.Title.Padding = vg.Points(8)
	p.X.Tick.Marker = plot.ConstantTicks{
		{Value: barLength(1e3), Label: "1 000"}, {Value: barLength(1e4), Label: "10 000"},
		{Value: barLength(1e5), Label: "100 000"}, {Value: barLength(1e6), Label: "1 000 000"},
		{Value: barLength(1e7), Label: "10 000 000"},
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	p.Add(grid)
	p.Y.Padding = vg.Points(34) // room for a font that is wider after all
	if err := t.addBars(p, names); err != nil {
		return err
	}
	p.NominalY(names...)
	p.X.Min, p.X.Max = 0, barLength(2e7) // room for the figures behind the bars
	return drawSVG(p, vg.Points(800), vg.Points(60+26*float64(len(names))), file)
}

// drawSVG draws p inside a margin. An SVG names its font only, and leaves it to the viewer's machine: so the
// font is one whose widths others share, and those are named too.
func drawSVG(p *plot.Plot, width, height vg.Length, file string) error {
	canvas := vgsvg.New(width, height)
	margin := vg.Points(12)
	p.Draw(draw.Crop(draw.New(canvas), margin, -margin, margin, -margin))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	text := strings.ReplaceAll(svg.String(), "font-family:Liberation Sans", "font-family:Arial,Helvetica,Liberation Sans,sans-serif")
	return os.WriteFile(file, []byte(text), 0o644)
}

// barLength puts the start of all bars at 1 000 events/s: a logarithmic scale has no zero.
func barLength(rate float64) float64 { return max(0, math.Log10(rate)-3) }

// addBars draws a bar and its figure for each name, ours in a colour of their own.
func (t *endToEndTable) addBars(p *plot.Plot, names []string) error {
	ours, theirs := make(plotter.Values, len(names)), make(plotter.Values, len(names))
	labels := plotter.XYLabels{}
	for i, name := range names {
		rate := t.rate(name).median()
		length := barLength(rate)
		if name == thousand || name == hundred || name == single {
			ours[i] = length
		} else {
			theirs[i] = length
		}
		labels.XYs = append(labels.XYs, plotter.XY{X: length, Y: float64(i)})
		labels.Labels = append(labels.Labels, number(rate))
	}
	for _, group := range []struct {
		values plotter.Values
		colour color.Color
	}{
		{theirs, color.RGBA{R: 0x9a, G: 0xa5, B: 0xb1, A: 0xff}},
		{ours, color.RGBA{R: 0x30, G: 0x0d, B: 0x4f, A: 0xff}},
	} {
		bars, err := plotter.NewBarChart(group.values, vg.Points(16))
		if err != nil {
			return err
		}
		bars.Horizontal = true
		bars.Color = group.colour
		bars.LineStyle.Width = 0
		p.Add(bars)
	}
	text, err := plotter.NewLabels(labels)
	if err != nil {
		return err
	}
	text.Offset.X, text.Offset.Y = vg.Points(4), vg.Points(-4)
	p.Add(text)
	return nil
}
