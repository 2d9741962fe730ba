package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// A series is one figure, measured once a round.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// cell is the median and, where the rounds differ, the smallest and the largest.
func (s series) cell(unit func(float64) string) string {
	if len(s) == 0 {
		return "–"
	}
	median, low, high := unit(s.median()), unit(slices.Min(s)), unit(slices.Max(s))
	if low == high {
		return median
	}
	return fmt.Sprintf("%s (%s–%s)", median, low, high)
}

// over divides two series round by round: what the machine did in one round it did to both.
func (s series) over(other series) series {
	ratios := make(series, min(len(s), len(other)))
	for i := range ratios {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

// A ratio compares two series, for the table of ratios. What has an aim and no peer is there too, with its unit.
type ratio struct {
	what   string
	values series
	aim    string               // what the project wants it to be, as text
	unit   func(float64) string // nil: times
}

// number prints three significant digits, with spaces between thousands.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v == 0:
		return "0"
	case math.Abs(v) < 0.095:
		return fmt.Sprintf("%.3f", v)
	case math.Abs(v) < 9.95:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 99.5:
		return fmt.Sprintf("%.1f", v)
	}
	step := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
	return thousands(math.Round(v/step) * step)
}

// count prints every digit.
func count(v float64) string { return thousands(math.Round(v)) }

func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	if v < 0 {
		return "-" + digits
	}
	return digits
}

func times(v float64) string { return number(v) + "×" }

func inBytes(v float64) string { return number(v) + " B" }

func percent(v float64) string { return number(v) + " %" }

func microseconds(ns float64) string { return number(ns / 1e3) }

func milliseconds(ns float64) string { return number(ns / 1e6) }

func mebibytes(v float64) string { return number(v/(1<<20)) + " MiB" }

// A table is printed as Markdown, its figures to the right.
type table struct {
	title  string
	note   string
	header []string
	names  int // columns of text, to the left; at least 1
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n", t.title)
	if t.note != "" {
		fmt.Fprintf(&b, "%s\n\n", t.note)
	}
	names := max(1, t.names)
	fmt.Fprintf(&b, "| %s |\n|%s%s\n", strings.Join(t.header, " | "),
		strings.Repeat(" --- |", names), strings.Repeat(" ---: |", len(t.header)-names))
	for _, row := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printRatios(w io.Writer, title string, ratios []ratio) error {
	t := table{title: title, header: []string{"ratio", "measured", "aim"}}
	for _, r := range ratios {
		unit := r.unit
		if unit == nil {
			unit = times
		}
		t.add(r.what, r.values.cell(unit), r.aim)
	}
	return t.print(w)
}
