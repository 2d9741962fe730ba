package jsjson

import (
	"bytes"
	"math"
	"math/big"
	"slices"
	"strconv"
	"sync"
)

// number writes a number as JavaScript does: the shortest form that reads back as the same float64,
// with an exponent below 1e-6 and from 1e21 on. -0 is 0, and what is too large for a float64 is
// null.
func (n *normalizer) number(dst []byte) []byte {
	negative := n.src[n.pos] == '-'
	if negative {
		n.pos++
	}
	start := n.pos
	for n.pos < len(n.src) && isNumber(n.src[n.pos]) {
		n.pos++
	}
	f := n.float(n.src[start:n.pos])
	switch {
	case f == 0:
		return append(dst, '0')
	case math.IsInf(f, 1):
		return append(dst, "null"...)
	case negative:
		dst = append(dst, '-')
	}
	if f >= 1e-6 && f < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	at := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if e := at + bytes.IndexByte(dst[at:], 'e'); dst[e+2] == '0' { // Go pads the exponent to two digits
		dst = slices.Delete(dst, e+2, e+3)
	}
	return dst
}

func isNumber(b byte) bool {
	return b >= '0' && b <= '9' || b == '-' || b == '+' || b == '.' || b == 'e' || b == 'E'
}

const (
	maxDigits    = 800  // more than any float64 has, or any number half-way between two
	minMagnitude = -330 // numbers below 10^-330 are 0
	maxMagnitude = 310  // numbers from 10^310 on are infinite
)

// float returns the float64 nearest to a literal without a sign. ParseFloat takes up to 30 µs over
// one that has more than 19 digits or is next to zero, a hundred times as long as over others, and
// is wrong about more than 800 digits before the point: those are computed here.
func (n *normalizer) float(literal []byte) float64 {
	if len(literal) > 19 || bytes.IndexByte(literal, '-') >= 0 {
		digits, exp := n.decimal(literal)
		magnitude := len(digits) + exp // the number is below 10^magnitude, but not below a tenth of that
		slow := len(digits) > 19 || len(digits) > 0 && magnitude < -300
		if slow && magnitude >= minMagnitude && magnitude <= maxMagnitude {
			return n.nearest(digits, exp)
		}
	}
	f, _ := strconv.ParseFloat(string(literal), 64) // infinite if out of range
	return f
}

// decimal takes a literal apart: its value is digits times 10^exp. There are no leading zeros, and
// maxDigits digits at most.
func (n *normalizer) decimal(literal []byte) (digits []byte, exp int) {
	if e := bytes.IndexAny(literal, "eE"); e >= 0 {
		exp, _ = strconv.Atoi(string(literal[e+1:]))
		exp = min(max(exp, -1<<30), 1<<30)
		literal = literal[:e]
	}
	whole, fraction, _ := bytes.Cut(literal, []byte{'.'})
	n.digits = append(append(n.digits[:0], whole...), fraction...)
	digits, exp = bytes.TrimLeft(n.digits, "0"), exp-len(fraction)
	if rest := len(digits) - maxDigits; rest > 0 {
		if len(bytes.Trim(digits[maxDigits:], "0")) > 0 {
			digits[maxDigits-1] |= 1 // an odd digit keeps what stays off any half-way number
		}
		digits, exp = digits[:maxDigits], exp+rest
	}
	return digits, exp
}

// nearest rounds digits times 10^exp to a float64, half to even.
func (n *normalizer) nearest(digits []byte, exp int) float64 {
	num, _ := n.num.SetString(string(digits), 10)
	num.Mul(num, powersOfTen()[max(exp, 0)])
	den := powersOfTen()[max(-exp, 0)]
	// The quotient of num*2^shift and den has 63 or 64 bits, more than a float64. Next to zero,
	// where a float64 is a multiple of 2^-1074, it has two bits more than the float.
	shift := min(63-num.BitLen()+den.BitLen(), 1074+2)
	if shift >= 0 {
		num.Lsh(num, uint(shift))
	} else {
		den = n.den.Lsh(den, uint(-shift))
	}
	n.quo.QuoRem(num, den, &n.rem)
	q := n.quo.Uint64()
	if n.rem.Sign() > 0 {
		q |= 1 // more than half, however little more, is not half
	}
	if q < 1<<54 { // a subnormal number: its bits are the multiple
		return math.Float64frombits((q + 1 + q>>2&1) >> 2)
	}
	return math.Ldexp(float64(q), -shift)
}

// powersOfTen are those that nearest can need, 300 kB once it is called.
var powersOfTen = sync.OnceValue(func() []*big.Int {
	powers := []*big.Int{big.NewInt(1)}
	for len(powers) <= maxDigits-minMagnitude {
		powers = append(powers, new(big.Int).Mul(powers[len(powers)-1], big.NewInt(10)))
	}
	return powers
})
