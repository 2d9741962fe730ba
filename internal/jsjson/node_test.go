package jsjson

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stringified asks a real JavaScript engine what it makes of JSON values, none of which has a line
// break.
func stringified(t *testing.T, values []string) []string {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node here")
	}
	cmd := exec.Command(node, "-e", `
		const lines = require('fs').readFileSync(0, 'utf8').split('\n');
		process.stdout.write(lines.map(line => JSON.stringify(JSON.parse(line))).join('\n'));`)
	cmd.Stdin = strings.NewReader(strings.Join(values, "\n"))
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.Split(string(out), "\n")
}

func TestJavaScriptAgrees(t *testing.T) {
	values := []string{
		`{"a":1}`, `"\ud800x\udc00"`, `{"__proto__":1,"10":1,"9":2,"a":{"b":[ ]},"a":3}`, `"\/\u003c\u2028\u001F"`,
		`[1.10,1e3,-0,1e999,1e-7,0.1e-6,123456789012345678,1e20,1e21,1.7976931348623157e308,5e-324,4.35,0.000001234]`,
		`{"4294967294":1,"4294967295":2,"-1":3,"1.5":4,"007":5,"0":6,"":7,"9007199254740993":8}`,
		`[` + strings.Repeat(`{"k":`, 50) + `null` + strings.Repeat(`}`, 50) + `]`,
		string(AppendString(nil, "<a>&'\"\\/\x00\b\t\n\f\r\x1f\x7f\u0080\u2028\u2029\ufeffé世🌍\U0010FFFF\xff\xc3(")),
	}
	for _, src := range hostile(costSize) {
		values = append(values, strings.ToValidUTF8(src, "\uFFFD")) // engines differ in how many U+FFFD they read
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		values = append(values, randomValue(random, 4))
	}
	for i, want := range stringified(t, values) {
		require.Equal(t, want, normalize(t, values[i]), "%s", values[i])
	}
}

// randomValue has many duplicate names and array indices.
func randomValue(random *rand.Rand, depth int) string {
	space := []string{"", "", "", " ", "\t\r "}[random.IntN(5)]
	kind := random.IntN(7)
	if depth == 0 {
		kind %= 3
	}
	switch kind {
	case 0:
		return space + []string{"true", "false", "null", "[]", "{ }"}[random.IntN(5)]
	case 1:
		return space + randomNumber(random) + space
	case 2:
		return space + randomString(random)
	case 3:
		return space + fill(random.IntN(100), `[`, `]`, func(int) string { return randomValue(random, depth-1) })
	}
	return space + fill(random.IntN(300), `{`, space+`}`, func(int) string {
		return randomName(random) + space + `:` + randomValue(random, depth-1)
	})
}

func randomName(random *rand.Rand) string {
	switch random.IntN(4) {
	case 0:
		return strconv.Quote(strconv.Itoa(random.IntN(12)))
	case 1:
		return fmt.Sprintf(`"429496729%d"`, random.IntN(10))
	case 2:
		names := []string{"a", `\u0061`, "b", "", "01", "-1", "1.5", "__proto__", `\u0031`, "length", "é", `\u00e9`}
		return `"` + names[random.IntN(len(names))] + `"`
	}
	return randomString(random)
}

func randomString(random *rand.Rand) string {
	pieces := []string{
		"a", "plain text", "é", "世", "🌍", "\u2028", "\x7f", `\"`, `\\`, `\/`, `\b`, `\f`, `\n`,
		`\r`, `\t`, `\u0000`, `\u001F`, `\u0022`, `\u0041`, `\u00E9`, `\ud83c`, `\udf0d`, `\ud83c\udf0d`, `\uDBFF`, `\uFFFF`, `\ufffd`,
	}
	var b strings.Builder
	for range random.IntN(5) {
		b.WriteString(pieces[random.IntN(len(pieces))])
	}
	return `"` + b.String() + `"`
}

func randomNumber(random *rand.Rand) string {
	sign := []string{"", "-"}[random.IntN(2)]
	switch f := randomFloat(random); random.IntN(5) {
	case 0:
		return sign + strconv.FormatFloat(f, 'e', random.IntN(30), 64)
	case 1:
		return sign + strconv.FormatFloat(f, 'f', -1, 64)
	case 2:
		return sign + halfway(f)
	}
	return fmt.Sprintf("%s%d.%dE%+d", sign, random.IntN(1000), random.IntN(1000), random.IntN(60)-30)
}
