package webhookspool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pusherhooks/webhook"
)

// lines are some deliveries as they are stored.
func lines(t testing.TB, n int) (lines [][]byte) {
	t.Helper()
	var e encoder
	for i := range n {
		line, err := e.line(delivery("app", "http://127.0.0.1/hooks?token=hidden", i, 0))
		require.NoError(t, err)
		lines = append(lines, bytes.Clone(line))
	}
	return lines
}

// A taker is a dispatcher that takes all that is redelivered, and delivers it to taken.
func taker(t *testing.T) (d *webhook.Dispatcher, taken func() []string) {
	t.Helper()
	ids := make(chan string, 10_000)
	cfg := testConfig(testApp("app", "http://127.0.0.1"))
	cfg.Sender = webhook.SenderFunc(func(_ context.Context, d *webhook.Delivery) error {
		ids <- d.ID
		return nil
	})
	d, err := webhook.New(cfg)
	require.NoError(t, err)
	return d, func() (got []string) {
		require.NoError(t, d.Flush(t.Context()))
		for len(ids) > 0 {
			got = append(got, <-ids)
		}
		return got
	}
}

// restart opens a directory that holds one segment with this content, redelivers it, and returns the ids that were
// taken and what was moved aside. No segment is left, and no other file.
func restart(t *testing.T, content []byte) (ids []string, aside []byte) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000007.spool"), content, 0o600))
	s := open(t, dir, Config{})
	d, taken := taker(t)
	require.NoError(t, s.Redeliver(d))
	ids = taken()
	require.NoError(t, s.Close(t.Context(), d))
	require.Empty(t, segments(t, dir))
	broken := asides(t, dir)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1+len(broken), "the lock, and what is aside")
	if len(broken) > 0 {
		require.Len(t, broken, 1)
		aside, err = os.ReadFile(broken[0])
		require.NoError(t, err)
	}
	return ids, aside
}

// found scans content, and returns the ids of its records and what is broken.
func found(t *testing.T, content []byte) (ids []string, broken []byte) {
	t.Helper()
	parts, err := scan(bytes.NewReader(content), func(r record) (bool, error) {
		ids = append(ids, r.delivery.ID)
		return true, nil
	})
	require.NoError(t, err)
	for _, part := range parts {
		broken = append(broken, content[part.from:part.to]...)
	}
	return ids, broken
}

// A whole start follows every thirtieth time: it takes its time.
const everyStart = 30

func TestTruncatedAtEveryByte(t *testing.T) {
	three := lines(t, 3)
	whole := bytes.Join(three, nil)
	for n := range len(whole) + 1 {
		var want []string
		rest := whole[:n]
		for i, line := range three {
			if len(rest) < len(line) {
				break
			}
			want, rest = append(want, "id-"+strconv.Itoa(i)), rest[len(line):]
		}
		check := func(ids []string, aside []byte) {
			require.Equal(t, want, ids, "truncated to %d bytes", n)
			require.Equal(t, string(rest), string(aside), "truncated to %d bytes", n)
		}
		check(found(t, whole[:n]))
		if n%everyStart == 0 || len(rest) < 2 {
			check(restart(t, whole[:n]))
		}
	}
}

// Whatever happens to a byte in the middle, it costs the one delivery, or two where it joins two lines.
func TestOneBrokenByteCostsOneDelivery(t *testing.T) {
	three := lines(t, 3)
	for i := range three[1] {
		broken := bytes.Clone(three[1])
		broken[i] ^= 0x15
		want, rest := []string{"id-0", "id-2"}, string(broken)
		if i == len(broken)-1 {
			want, rest = []string{"id-0"}, string(broken)+string(three[2])
		}
		check := func(ids []string, aside []byte) {
			require.Equal(t, want, ids, "byte %d", i)
			require.Equal(t, rest, string(aside), "byte %d", i)
		}
		content := bytes.Join([][]byte{three[0], broken, three[2]}, nil)
		check(found(t, content))
		if i%everyStart == 0 || i == len(broken)-1 {
			check(restart(t, content))
		}
	}
}

func TestForeignFilesAreMovedAsideAndKept(t *testing.T) {
	dir := t.TempDir()
	for i, content := range []string{"[]", "{", "\x00\x01\x02", "[]"} {
		path := filepath.Join(dir, "00000001.spool")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o600))
		s := open(t, dir, Config{})
		d, taken := taker(t)
		require.NoError(t, s.Redeliver(d))
		require.Empty(t, taken())
		require.Len(t, asides(t, dir), i+1)
		require.NoFileExists(t, path)
		s.Undelivered(delivery("app", "http://127.0.0.1", 1, 0), errors.New("no answer"))
		require.NotContains(t, segments(t, dir), path, "a number is not used twice")
		require.NoError(t, s.Redeliver(d))
		require.Equal(t, []string{"id-1"}, taken())
		require.NoError(t, s.Close(t.Context(), d))
	}
	var kept []string
	for _, path := range asides(t, dir) {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		kept = append(kept, string(content))
	}
	require.ElementsMatch(t, []string{"[]", "{", "\x00\x01\x02", "[]"}, kept)
	require.FileExists(t, filepath.Join(dir, "notes.txt"))
}

// A whole line whose delivery no dispatcher takes is broken too: it is not tried for ever.
func TestInvalidDeliveryIsMovedAside(t *testing.T) {
	invalid := delivery("app", "ftp://127.0.0.1", 1, 0)
	var e encoder
	line, err := e.line(invalid)
	require.NoError(t, err)
	ids, aside := restart(t, append(bytes.Clone(line), lines(t, 1)[0]...))
	require.Equal(t, []string{"id-0"}, ids)
	require.Equal(t, string(line), string(aside))
}

// What was not finished when a process died does no harm: the original is there.
func TestUnfinishedRewriteIsForgotten(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Join(lines(t, 2), nil)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000001.spool"), content, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000001.spool.new"), content[:50], 0o600))
	s := open(t, dir, Config{})
	d, taken := taker(t)
	require.NoError(t, s.Redeliver(d))
	require.Equal(t, []string{"id-0", "id-1"}, taken())
	require.NoError(t, s.Close(t.Context(), d))
	require.NoFileExists(t, filepath.Join(dir, "00000001.spool.new"))
}

// A file that cannot be read stops nothing else, and stays.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000001.spool"), lines(t, 1)[0], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000002.spool"), lines(t, 2)[1], 0o600))
	s := open(t, dir, Config{})
	require.NoError(t, os.Remove(filepath.Join(dir, "00000001.spool"))) // root may read everything, so it is gone
	d, taken := taker(t)
	err := s.Redeliver(d)
	require.ErrorContains(t, err, "00000001.spool")
	require.ErrorContains(t, err, "move it away")
	require.Equal(t, []string{"id-1"}, taken())
}

// A line without an end, from a file that is none of ours, is not read into memory.
func TestEndlessLine(t *testing.T) {
	const size = 2 * maxRecord
	var longest int
	broken, err := scan(&zeros{size}, func(r record) (bool, error) {
		longest = max(longest, len(r.line))
		return true, nil
	})
	require.NoError(t, err)
	require.Equal(t, []span{{0, size}}, broken)
	require.Zero(t, longest)
	var e encoder
	_, err = e.line(delivery("app", "http://127.0.0.1", 1, maxRecord))
	require.ErrorContains(t, err, "at most")
}

type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), z.left)
	clear(p[:n])
	if z.left -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Whatever is before, between and behind records on lines of its own, all records are found, and everything else is
// broken; every byte is one or the other.
func FuzzScan(f *testing.F) {
	two := lines(f, 2)
	f.Add([]byte(""), []byte("{}\n"), []byte("torn"))
	f.Add([]byte("00000000 null\n"), two[0][:20], two[1])
	f.Fuzz(func(t *testing.T, before, between, behind []byte) {
		content := bytes.Join([][]byte{before, two[0], between, two[1], behind}, []byte("\n"))
		content = bytes.ReplaceAll(content, []byte("\n\n"), []byte("\n"))
		var found, covered int64
		var ids []string
		broken, err := scan(bytes.NewReader(content), func(r record) (bool, error) {
			if !bytes.Equal(content[r.at:r.at+int64(len(r.line))], r.line) {
				t.Fatal("a record is not where it says")
			}
			found += int64(len(r.line))
			ids = append(ids, r.delivery.ID)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		last := int64(-1)
		for _, part := range broken {
			if part.from <= last || part.to <= part.from {
				t.Fatal("broken parts are not in order", broken)
			}
			last, covered = part.to, covered+part.to-part.from
		}
		if found+covered != int64(len(content)) {
			t.Fatal("bytes are neither a record nor broken")
		}
		first, second := bytes.Contains(content, two[0]), bytes.Contains(content, two[1])
		if first && second && len(ids) < 2 {
			t.Fatal("a record was not found", ids)
		}
	})
}
