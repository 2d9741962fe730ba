package jsjson

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	costSize  = 60_000
	costRatio = 8
)

// fill repeats items between start and end, with commas, up to size bytes.
func fill(size int, start, end string, item func(i int) string) string {
	var b strings.Builder
	b.WriteString(start + item(0))
	for i := 1; ; i++ {
		next := "," + item(i)
		if b.Len()+len(next)+len(end) > size {
			return b.String() + end
		}
		b.WriteString(next)
	}
}

func array(size int, item string) string {
	return fill(size, `[`, `]`, func(int) string { return item })
}

func object(size int, format string, number func(i int) int) string {
	return fill(size, `{`, `}`, func(i int) string { return fmt.Sprintf(format, number(i)) })
}

// hostile are values that cost much where something is done once for each object, member, level or
// number.
func hostile(size int) map[string]string {
	payload := strings.Repeat("x", size/MaxDepth-20)
	up := func(i int) int { return i }
	down := func(i int) int { return 99_999 - i }
	scrambled := func(i int) int { return i * 7919 % 10_007 }
	same := func(int) int { return 7 }
	return map[string]string{
		"index keys nested":             nested(`{"1":`, `0`, `,"0":"`+payload+`"}`, MaxDepth),
		"index keys nested, no payload": array(size, nested(`{"1":`, `0`, `,"0":0}`, MaxDepth-1)),
		"index keys in siblings":        array(size, `{"1":0}`),
		"swapped siblings":              array(size, `{"1":0,"0":0}`),
		"swapped siblings, deep down": nested(`{"1":`, array(size-12*(MaxDepth-2), `{"1":0,"0":0}`), `,"0":1}`,
			MaxDepth-2),
		"index keys upwards":          object(size, `"%d":0`, up),
		"index keys downwards":        object(size, `"%d":0`, down),
		"index keys scrambled":        object(size, `"%d":0`, scrambled),
		"names scrambled":             object(size, `"x%d":0`, scrambled),
		"long names, all but alike":   object(size, `"`+payload[:100]+`%d":0`, scrambled),
		"duplicates of one name":      object(size, `"%d":0`, same),
		"duplicates of the empty one": fill(size, `{`, `}`, func(int) string { return `"":0` }),
		"duplicates in duplicates":    object(size, `"%d":{"a":0,"a":1}`, same),
		"duplicates in siblings":      array(size, `{"":0,"":0}`),
		"duplicates nested":           nested(`{"a":"`+payload+`","a":`, `0`, `}`, MaxDepth),
		"duplicates nested, dropped":  nested(`{"a":`, `0`, `,"a":"`+payload+`"}`, MaxDepth),
		"empty objects":               array(size, `{}`),
		"escapes":                     `"` + strings.Repeat(`\u0041\ud800`, size/12) + `"`,
		"broken UTF-8":                `"` + strings.Repeat("\xff", size-2) + `"`,
		"one long number":             strings.Repeat("9", size),
		"numbers that grow":           array(size, `1e20`),
		"numbers of all digits":       array(size, `1.7976931348623157e308`),
		"numbers next to zero":        array(size, `5e-324`),
		"numbers half-way":            array(size, `9007199254740993000000001e284`),
		"numbers of twenty digits":    array(size, `0.12345678901234567891`),
		"numbers of many digits":      array(size, `4`+strings.Repeat("9", 700)+`e-1020`),
	}
}

// A cost is the least of several runs: others use the machine too, and the garbage collector
// empties pools.
type cost struct {
	bytes uint64
	time  time.Duration
}

func measure(t *testing.T, src string) cost {
	t.Helper()
	least := cost{1 << 60, 1 << 60}
	for range 10 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := Append(nil, []byte(src))
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		least = cost{min(least.bytes, after.TotalAlloc-before.TotalAlloc), min(least.time, took)}
	}
	return least
}

// No value of a size costs much more than a flat one, an array of small numbers.
func TestCostIsBounded(t *testing.T) {
	flat := measure(t, array(costSize, `1`))
	for name, src := range hostile(costSize) {
		t.Run(name, func(t *testing.T) {
			require.InDelta(t, costSize, len(src), costSize/20)
			got := measure(t, src)
			bytes, time := float64(got.bytes)/float64(flat.bytes), float64(got.time)/float64(flat.time)
			t.Logf("%.1f times the bytes, %.1f times the time", bytes, time)
			require.Less(t, bytes, float64(costRatio))
			require.Less(t, time, float64(costRatio))
		})
	}
}
