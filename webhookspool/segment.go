package webhookspool

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/pusherhooks/webhook"
)

// A segment is a file of deliveries, one a line.
type segment struct {
	path string
	size int64            // bytes
	apps map[string]int64 // and whose they are; nil until it was read

	away bool           // a flight has it
	full map[int64]bool // where those begin that found no room there
}

// segmentBytes is the size beyond which a segment gets no more. A segment is rewritten as a whole.
const segmentBytes = 64 << 20

// maxRecord bounds a line, and so what a reader holds of a file that is none of ours.
const maxRecord = 32 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumBytes is how long a line's checksum is, in hexadecimal and with its space.
const checksumBytes = 9

// An encoder makes lines, in memory that it uses again.
type encoder struct{ buf bytes.Buffer }

// line returns a delivery's line, which is valid until the next call.
func (e *encoder) line(d *webhook.Delivery) ([]byte, error) {
	e.buf.Reset()
	e.buf.WriteString("00000000 ")
	if err := json.NewEncoder(&e.buf).Encode(d); err != nil { // writes the line's end, too
		return nil, err
	}
	line := e.buf.Bytes()
	if len(line) > maxRecord {
		return nil, fmt.Errorf("the delivery has %d bytes, at most %d are stored", len(line), maxRecord)
	}
	sum := crc32.Checksum(line[checksumBytes:len(line)-1], castagnoli)
	hex.Encode(line, []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return line, nil
}

// parse returns the delivery of a line, or nil if it is broken.
func parse(line []byte) *webhook.Delivery {
	if len(line) <= checksumBytes || len(line) > maxRecord || line[checksumBytes-1] != ' ' || line[len(line)-1] != '\n' {
		return nil
	}
	text := line[checksumBytes : len(line)-1]
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:checksumBytes-1]); err != nil {
		return nil
	}
	if crc32.Checksum(text, castagnoli) != uint32(sum[0])<<24|uint32(sum[1])<<16|uint32(sum[2])<<8|uint32(sum[3]) {
		return nil
	}
	var d *webhook.Delivery // remains nil for null
	if json.Unmarshal(text, &d) != nil {
		return nil
	}
	return d
}

// A record is a line that is whole.
type record struct {
	at       int64 // where it begins
	line     []byte
	delivery *webhook.Delivery
}

// A span is a part of a file, from one offset to another.
type span struct{ from, to int64 }

// scan calls visit for each record, which is lent, and returns what else there is: broken lines, neighbours
// together. A visit that returns false makes its record a broken one. The error is the reader's or visit's.
func scan(r io.Reader, visit func(record) (ok bool, err error)) (broken []span, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for at := int64(0); err == nil; {
		var n int64
		line, n, err = readLine(in, line[:0])
		if n == 0 || err != nil && err != io.EOF {
			break
		}
		ok := false
		if d := parse(line); d != nil {
			var fault error
			if ok, fault = visit(record{at, line, d}); fault != nil {
				return broken, fault
			}
		}
		if last := len(broken) - 1; !ok && last >= 0 && broken[last].to == at {
			broken[last].to = at + n
		} else if !ok {
			broken = append(broken, span{at, at + n})
		}
		at += n
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return broken, err
}

// readLine appends a line to buf and returns how long it is. Of one that is too long it appends the beginning only.
func readLine(in *bufio.Reader, buf []byte) (line []byte, n int64, err error) {
	for {
		part, err := in.ReadSlice('\n')
		n += int64(len(part))
		if len(buf) <= maxRecord {
			buf = append(buf, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, n, err
		}
	}
}

// store writes a delivery at the end of the current segment, or loses it and says why. s.mu is held, as in the
// functions below.
func (s *Spool) store(d *webhook.Delivery) error {
	err := s.write(d)
	if err == nil {
		s.stats.Stored++
		return nil
	}
	s.stats.Lost++
	if len(s.flights) > 0 {
		s.tainted[d.AppID] = true // it may be one of theirs: so the old copy has to stay
	}
	return err
}

func (s *Spool) write(d *webhook.Delivery) error {
	if s.closed {
		return errClosed
	}
	line, err := s.record.line(d)
	if err != nil {
		return err
	}
	n := int64(len(line))
	if err := s.admit(d.AppID, n); err != nil {
		return err
	}
	if s.current != nil && s.current.size >= segmentBytes {
		_ = s.seal() // a fault is noted, and this delivery has nothing to do with it
	}
	if s.current == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(line); err != nil {
		// A part of a line must not spoil the next one. If it cannot be cut off, it ends this segment, and its reader
		// will find it broken.
		if s.file.Truncate(s.current.size) != nil {
			err = errors.Join(err, s.seal())
		}
		return fmt.Errorf("%w: free space on the disk", err)
	}
	s.current.size += n
	s.current.apps[d.AppID] += n
	return nil
}

// admit is the rule by which apps share the disk. It needs no limit per app: an app may hold as much as is free.
func (s *Spool) admit(appID string, n int64) error {
	free, own := s.cfg.MaxBytes, int64(0)
	for _, seg := range s.segments {
		free -= seg.size
		own += seg.apps[appID]
	}
	if own+n > free {
		return fmt.Errorf("%w, which is %d: raise it, or see why so much is undelivered", ErrNoRoom, s.cfg.MaxBytes)
	}
	return nil
}

// begin makes the next segment.
func (s *Spool) begin() error {
	path := fmt.Sprintf("%s%c%08d.spool", s.dir, os.PathSeparator, s.next+1)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("%w: make the directory writable, or free space on the disk", err)
	}
	s.next++
	s.file, s.current = file, &segment{path: path, apps: make(map[string]int64)}
	s.segments = append(s.segments, s.current)
	return syncDir(s.dir)
}

// seal ends the current segment. If it cannot be synced, flights stay on disk.
func (s *Spool) seal() error {
	if s.current == nil {
		return nil
	}
	err := s.file.Sync()
	if err != nil {
		s.tainted[""] = true
	}
	err = errors.Join(err, s.file.Close())
	if s.current.size == 0 {
		s.segments = s.segments[:len(s.segments)-1]
		err = errors.Join(err, os.Remove(s.current.path))
	}
	s.file, s.current = nil, nil
	return err
}

// sync makes all that was stored outlive the machine. s.mu is not held.
func (s *Spool) sync() error {
	s.mu.Lock()
	file := s.file
	s.mu.Unlock()
	if file == nil {
		return nil
	}
	err := file.Sync()
	if errors.Is(err, os.ErrClosed) {
		return nil // it was sealed meanwhile, and so synced
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tainted[""] = true
		return fmt.Errorf("webhookspool: %w: see to the disk", err)
	}
	return nil
}
