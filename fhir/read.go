package fhir

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Item is one resource of a file, or what was in its place.
type Item struct {
	// Bundle counts the file's units from 0: each unpacked Bundle is one, and so is each run of at most MaxRun other
	// resources. What belongs to one unit is meant to be imported together.
	Bundle int
	Line   int // the line in which it begins, from 1
	Entry  int // its index in Bundle.entry, or -1

	Resource Object // with an id, and with references to others of its Bundle resolved
	Raw      []byte // the same in canonical form

	// Err says why there is no resource; the rest of the file goes on.
	Err error
}

// ReadFile calls fn with each resource of a file, in its order. The file may be gzipped, and holds one resource, one
// Bundle, or NDJSON (a resource or Bundle a line); which of them is found out from its content, since names lie. The
// name is for errors alone.
//
// Bundles of type transaction, batch and collection are unpacked (docs/spec/fhir-mapping.md says which ids their
// entries get); any other Bundle is a resource. What is refused is an Item with Err. ReadFile itself fails when the file
// cannot be read on, when it exceeds a cap, or with the error of fn.
func ReadFile(name string, r io.Reader, fn func(Item) error) error {
	f := &file{fn: fn, seen: map[[32]byte]int{}}
	if err := f.read(r); err != nil {
		if f.stopped != nil {
			return f.stopped
		}
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

type file struct {
	fn      func(Item) error
	stopped error // fn's error
	in      *bufio.Reader
	line    int              // lines read
	unit    int              // ordinal of the unit that is open
	inUnit  int              // its resources
	seen    map[[32]byte]int // how often the content of a resource without an id came
}

func (f *file) emit(it Item) error {
	if err := f.fn(it); err != nil {
		f.stopped = err
		return err
	}
	return nil
}

func (f *file) read(r io.Reader) error {
	f.in = bufio.NewReaderSize(r, 64<<10)
	if magic, _ := f.in.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(f.in)
		if err != nil {
			return fmt.Errorf("open gzip: %w", err)
		}
		f.in = bufio.NewReaderSize(&capped{r: z, left: MaxFile}, 64<<10)
	} else {
		f.in = bufio.NewReaderSize(&capped{r: f.in, left: MaxFile}, 64<<10)
	}
	if bom, _ := f.in.Peek(3); bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = f.in.Discard(3)
	}
	first, from, err := f.nextLine()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	if first != nil && !complete(first) {
		return f.pretty(first, from)
	}
	second, from2, err := f.nextLine()
	if err == io.EOF && first != nil {
		return f.document(first, from)
	}
	if err := f.ndjsonLine(first, from); err != nil {
		return err
	}
	for ; err == nil; second, from2, err = f.nextLine() {
		if err := f.ndjsonLine(second, from2); err != nil {
			return err
		}
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// pretty reads a file whose first line is no resource by itself: a document over several lines, or NDJSON with a bad
// first line.
func (f *file) pretty(first []byte, from int) error {
	rest, err := io.ReadAll(io.LimitReader(f.in, MaxDocument+1))
	if err != nil {
		return err
	}
	if len(first)+len(rest) > MaxDocument {
		return fmt.Errorf("a document of more than %d bytes: %w", MaxDocument, ErrTooLarge)
	}
	data := append(first, rest...)
	if complete(data) || !resourceLine(rest) {
		return f.document(data, from)
	}
	for line := range bytes.Lines(data) {
		if blank(line) {
			from++
			continue
		}
		if err := f.ndjsonLine(line, from); err != nil {
			return err
		}
		from++
	}
	return nil
}

// resourceLine reports whether some line of data is a resource by itself.
func resourceLine(data []byte) bool {
	for line := range bytes.Lines(data) {
		if complete(line) && glance(line).resourceType != "" {
			return true
		}
	}
	return false
}

func blank(line []byte) bool { return skipSpace(line, 0) == len(line) }

// nextLine returns the next line that is not blank and its number; a nil line was longer than MaxDocument. The error is
// io.EOF when there is none.
func (f *file) nextLine() ([]byte, int, error) {
	for {
		var line []byte
		size := 0
		for {
			part, err := f.in.ReadSlice('\n')
			if size += len(part); size <= MaxDocument {
				line = append(line, part...)
			} else {
				line = nil
			}
			if err == bufio.ErrBufferFull {
				continue
			}
			if err == io.EOF && size > 0 {
				err = nil
			}
			if err != nil {
				return nil, 0, err
			}
			break
		}
		f.line++
		if size > MaxDocument {
			return nil, f.line, nil
		}
		if !blank(line) {
			return line, f.line, nil
		}
	}
}

// head is what a glance at a resource shows.
type head struct{ resourceType, id, bundleType string }

// glance stops as soon as it has seen all that it looks for: a Bundle's type, any other resource's id.
func glance(data []byte) (h head) {
	seen := 0
	_ = members(data, func(key string, from, to int) error {
		switch key {
		case "resourceType":
			h.resourceType = stringAt(data[from:to])
			seen |= 1
		case "id":
			h.id = stringAt(data[from:to])
			seen |= 2
		case "type":
			h.bundleType = stringAt(data[from:to])
			seen |= 4
		}
		if seen == 7 || seen == 3 && h.resourceType != "Bundle" {
			return errStop
		}
		return nil
	})
	return h
}

// errStop ends a scan that has seen enough.
var errStop = errors.New("stop")

func unpacked(h head) bool {
	return h.resourceType == "Bundle" &&
		(h.bundleType == "transaction" || h.bundleType == "batch" || h.bundleType == "collection")
}

func (f *file) ndjsonLine(line []byte, number int) error {
	if line == nil {
		return f.emitRun(Item{Line: number, Entry: -1, Err: fmt.Errorf("a line of more than %d bytes: %w", MaxDocument, ErrTooLarge)})
	}
	if bytes.Contains(line, []byte(`"Bundle"`)) && unpacked(glance(line)) {
		if f.inUnit > 0 {
			f.unit, f.inUnit = f.unit+1, 0
		}
		return f.bundle(line, number)
	}
	return f.single(line, number)
}

func (f *file) document(data []byte, line int) error {
	if unpacked(glance(data)) {
		return f.bundle(data, line)
	}
	return f.single(data, line)
}

// single hands out a resource that stands by itself.
func (f *file) single(data []byte, line int) error {
	it := Item{Line: line, Entry: -1}
	data = bytes.TrimRight(data, " \t\r\n") // so that an unexpected end is said of the last line
	o, err := Parse(data)
	if syntax, ok := errors.AsType[*SyntaxError](err); ok {
		it.Line += bytes.Count(data[:syntax.Offset], []byte("\n"))
	}
	if err == nil && o["id"] == nil {
		delete(o, "id")
		sum := sha256.Sum256(AppendCanonical([]byte("chartmesh resource id 1\x00"), o))
		f.seen[sum]++
		o["id"] = derivedID(sum, f.seen[sum])
	}
	it.Resource, it.Err = o, err
	return f.emitRun(it)
}

func (f *file) emitRun(it Item) error {
	if f.inUnit == MaxRun {
		f.unit, f.inUnit = f.unit+1, 0
	}
	f.inUnit++
	it.Bundle = f.unit
	return f.finish(it)
}

// finish checks the resource's name, adds its canonical form and hands it out.
func (f *file) finish(it Item) error {
	if it.Err == nil {
		_, _, it.Err = Name(it.Resource)
	}
	if it.Err == nil {
		it.Raw = Canonical(it.Resource)
		if len(it.Raw) > MaxResource { // by the id or the references that it was given
			it.Err = fmt.Errorf("a resource of %d bytes: %w", len(it.Raw), ErrTooLarge)
		}
	}
	if it.Err != nil {
		it.Resource, it.Raw = nil, nil
	}
	return f.emit(it)
}

// derivedID makes an id for what has none: a hash of the content and of a number that tells equal contents apart.
func derivedID(content [32]byte, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "chartmesh derived id 1\x00%x %d", content, n))
	return hex.EncodeToString(sum[:16])
}

// capped fails, instead of ending, when more than left bytes come.
type capped struct {
	r    io.Reader
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, fmt.Errorf("more than %d bytes inflated: %w", int64(MaxFile), ErrTooLarge)
	}
	return n, err
}
