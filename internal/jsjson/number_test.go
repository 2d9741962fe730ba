package jsjson

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireFloat compares a literal's value with that of ParseFloat, which is slow but right.
func requireFloat(t *testing.T, literal string) {
	t.Helper()
	var n normalizer
	want, _ := strconv.ParseFloat(literal, 64)
	require.Equal(t, want, n.float([]byte(literal)), "%s", literal)
	digits, exp := n.decimal([]byte(literal))
	if m := len(digits) + exp; len(digits) > 0 && m >= minMagnitude && m <= maxMagnitude {
		require.Equal(t, want, n.nearest(digits, exp), "%s", literal)
	}
}

// randomFloat is of any magnitude, and often subnormal.
func randomFloat(random *rand.Rand) float64 {
	f := math.Float64frombits(random.Uint64() >> 1)
	if random.IntN(3) == 0 {
		f = math.Float64frombits(random.Uint64N(1 << 53))
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0.1
	}
	return f
}

// halfway is the number half-way from f to the next float64, digit for digit.
func halfway(f float64) string {
	const exact = 2200 // bits
	x := new(big.Float).SetPrec(exact).SetFloat64(f)
	ulp := new(big.Float).SetPrec(exact).SetFloat64(math.Nextafter(f, 0))
	ulp.Sub(x, ulp)
	return x.Add(x, ulp.Quo(ulp, big.NewFloat(2))).Text('e', maxDigits-10)
}

func TestFloats(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		f := randomFloat(random)
		requireFloat(t, strconv.FormatFloat(f, 'e', random.IntN(25), 64))
		requireFloat(t, strconv.FormatFloat(f, 'f', -1, 64))
	}
	for range 200 {
		tie := halfway(randomFloat(random))
		requireFloat(t, tie)
		requireFloat(t, strings.Replace(tie, "e", strings.Repeat("0", random.IntN(900))+"1e", 1)) // just above
	}
}

func TestFloatsAtTheEdges(t *testing.T) {
	for exp := -345; exp <= 312; exp++ {
		for _, mantissa := range []string{
			"0", "1", "9.9", "0.000001", "2.4703282292062327", "2.4703282292062328", "17976931348623157",
			"00000000000000000000.1", "2.2250738585072011", "1.7976931348623158079372897140530341507993413271003782693617377898044497",
		} {
			requireFloat(t, fmt.Sprintf("%se%d", mantissa, exp))
		}
	}
}

// ParseFloat is wrong about more than 800 digits before the point.
func TestFloatsOfManyDigits(t *testing.T) {
	zeros := strings.Repeat("0", 2000)
	for literal, want := range map[string]float64{
		"1" + zeros + "e-2000":                  1,
		"1" + zeros:                             math.Inf(1),
		"0." + zeros + "1e2001":                 1,
		"0." + zeros + "e5":                     0,
		"0." + zeros + "1e-2001":                0,
		"1." + zeros + "1":                      1,
		"9007199254740993." + zeros:             9007199254740992,
		"9007199254740993." + zeros + "1":       9007199254740994,
		"9007199254740993" + zeros + "1e-2001":  9007199254740994,
		"1e99999999999999999999":                math.Inf(1),
		"1e-99999999999999999999":               0,
		"0.00000000000000000001e-9999999999999": 0,
	} {
		var n normalizer
		require.Equal(t, want, n.float([]byte(literal)), "%s", literal)
	}
}

func FuzzFloat(f *testing.F) {
	f.Add(uint64(90071992547409930), uint64(1), 284)
	f.Add(uint64(2), uint64(2250738585072011), -308)
	f.Fuzz(func(t *testing.T, whole, fraction uint64, exp int) {
		requireFloat(t, fmt.Sprintf("%d.%de%d", whole, fraction, exp))
	})
}
