package lockquorum

import (
	"bytes"

	"chartmesh/wire"
)

// Define says which numbers a range has, and which of them a device takes at a time. Said again it holds from then on: what was granted stays
// granted.
type Define struct {
	Range       RangeID
	First, Last int64
	Increment   int64 // from one number to the next
	Part        int64 // how many numbers a device takes when it asks for more; 0: an administrator grants them
}

// Take has a device have one part more, under the log that it writes: one that was set aside for it, or, where Define says how many it takes, the
// lowest numbers that nobody has. Asked again it is the same part.
type Take struct {
	Range RangeID
	Log   [32]byte
	Have  uint64 // how many parts of that log the device knows of
}

// GiveBack is the Void of a part by the device that has it.
type GiveBack struct{ Void }

// definition is what a range was defined as.
type definition struct {
	first, last, increment, size int64
	by                           DeviceID
}

func (*Define) Op() Op   { return OpDefine }
func (*Take) Op() Op     { return OpTake }
func (*GiveBack) Op() Op { return OpGiveBack }

func (o *Define) append(w *wire.Writer) {
	w.Raw(o.Range[:])
	w.Uvarint(uint64(o.First))
	w.Uvarint(uint64(o.Last))
	w.Uvarint(uint64(o.Increment))
	w.Uvarint(uint64(o.Part))
}

func (o *Define) read(r *wire.Reader) {
	r.Fixed(o.Range[:])
	o.First, o.Last, o.Increment, o.Part = readNumber(r), readNumber(r), readNumber(r), readNumber(r)
}

func (o *Take) append(w *wire.Writer) {
	w.Raw(o.Range[:])
	w.Raw(o.Log[:])
	w.Uvarint(o.Have)
}

func (o *Take) read(r *wire.Reader) {
	r.Fixed(o.Range[:])
	r.Fixed(o.Log[:])
	o.Have = r.Uvarint(MaxGrants)
}

func (o *Define) valid() bool {
	return validNumber(o.First) && validNumber(o.Last) && o.First <= o.Last && validSteps(o.Increment, o.Part)
}

// validSteps reports whether so many numbers at such a distance are none beyond the largest number.
func validSteps(increment, size int64) bool {
	return increment > 0 && increment <= MaxNumber && size >= 0 && size <= MaxNumber/increment
}

func (o *Take) valid() bool { return o.Log != [32]byte{} && o.Have <= MaxGrants }

func (o *Define) apply(s *State, c *Command) Result {
	d := s.ranges[o.Range]
	if d == nil {
		if len(s.ranges) >= MaxRanges {
			return Result{Code: CodeFull}
		}
		d = &division{}
		s.ranges[o.Range] = d
	}
	d.defined, d.definition = true, definition{o.First, o.Last, o.Increment, o.Part, c.Device}
	return Result{Code: CodeDone}
}

func (o *Take) apply(s *State, c *Command) Result {
	d := s.ranges[o.Range]
	if d == nil {
		return Result{Code: CodeUnknown}
	}
	have, aside := uint64(0), -1
	for i, p := range d.parts {
		switch {
		case p.owner != c.Device:
		case p.log == o.Log:
			have++
		case aside < 0 && !p.void && p.log == [32]byte{}:
			aside = i
		}
	}
	switch {
	case have > o.Have: // asked again
		return Result{Code: CodeDone}
	case aside >= 0:
		d.parts[aside].log = o.Log
		return Result{Code: CodeDone, Number: d.parts[aside].min}
	case !d.defined || d.size == 0:
		return Result{Code: CodeExhausted}
	case len(d.parts) >= MaxGrants:
		return Result{Code: CodeFull}
	}
	at, lo, hi := d.free(d.size)
	if at < 0 {
		return Result{Code: CodeExhausted}
	}
	d.parts = append(d.parts[:at:at], append([]part{{min: lo, max: hi, increment: d.increment, owner: c.Device, log: o.Log}}, d.parts[at:]...)...)
	return Result{Code: CodeDone, Number: lo}
}

// free returns the lowest part of so many numbers that nobody has, or of fewer, and at which place it is to stand; -1: there is none.
func (d *division) free(size int64) (at int, lo, hi int64) {
	lo = d.first
	for i := 0; ; i++ {
		end := d.last
		if i < len(d.parts) {
			end = min(end, d.parts[i].min-1)
		}
		if lo > d.last {
			return -1, 0, 0
		}
		if lo <= end {
			return i, lo, min(end, lo+size*d.increment-1)
		}
		if next := d.parts[i].max + 1; next > lo { // the first one after it that is some steps from the first
			lo = d.first + (next-d.first+d.increment-1)/d.increment*d.increment
		}
	}
}

func (o *GiveBack) apply(s *State, c *Command) Result {
	if d := s.ranges[o.Range]; d != nil {
		for _, p := range d.parts {
			if p.min == o.Min && p.owner == c.Device {
				return o.Void.apply(s, c)
			}
		}
	}
	return Result{Code: CodeUnknown}
}

// Definition is what a range was defined as.
type Definition struct {
	First, Last, Increment, Part int64 // as in Define
	By                           DeviceID
}

// Defined returns what a range was defined as; false if it was not.
func (s *State) Defined(id RangeID) (Definition, bool) {
	d := s.ranges[id]
	if d == nil || !d.defined {
		return Definition{}, false
	}
	return Definition{d.first, d.last, d.increment, d.size, d.by}, true
}

// Free counts the numbers of a range that are in no part; 0 for one that was not defined.
func (s *State) Free(id RangeID) (n int64) {
	d := s.ranges[id]
	if d == nil || !d.defined {
		return 0
	}
	count := func(lo, hi int64) { // those from lo to hi that are some steps from the first
		if lo = max(lo, d.first); lo <= min(hi, d.last) {
			n += (min(hi, d.last)-d.first)/d.increment - (lo-d.first+d.increment-1)/d.increment + 1
		}
	}
	at := d.first
	for _, p := range d.parts {
		count(at, p.min-1)
		at = max(at, p.max+1)
	}
	count(at, d.last)
	return n
}

// FreePart returns the lowest part of so many numbers of a range that nobody has, or of fewer; false: there is none.
func (s *State) FreePart(id RangeID, size int64) (lo, hi int64, ok bool) {
	d := s.ranges[id]
	if d == nil || !d.defined || size <= 0 || !validSteps(d.increment, size) {
		return 0, 0, false
	}
	at, lo, hi := d.free(size)
	return lo, hi, at >= 0
}

// version returns that of the State's snapshot.
func (s *State) version() byte {
	for _, d := range s.ranges {
		if d.defined {
			return 2
		}
	}
	return 1
}

func (d *definition) append(w *wire.Writer) {
	w.Uvarint(uint64(d.first))
	w.Uvarint(uint64(d.last))
	w.Uvarint(uint64(d.increment))
	w.Uvarint(uint64(d.size))
	w.Raw(d.by[:])
}

func readDefinition(r *wire.Reader) definition {
	d := definition{first: readNumber(r), last: readNumber(r), increment: readNumber(r), size: readNumber(r)}
	if r.Fixed(d.by[:]); r.Err() == nil && (d.first > d.last || !validSteps(d.increment, d.size)) {
		r.Fail("a range")
	}
	return d
}

func (d *division) append(w *wire.Writer, version byte) {
	if version > 1 {
		if w.Bool(d.defined); d.defined {
			d.definition.append(w)
		}
	}
	w.Uvarint(uint64(len(d.parts)))
	for _, p := range d.parts {
		w.Uvarint(uint64(p.min))
		w.Uvarint(uint64(p.max))
		w.Uvarint(uint64(p.increment))
		w.Raw(p.owner[:])
		w.Raw(p.log[:])
		if w.Bool(p.void); p.void {
			w.Uvarint(uint64(p.from))
			w.Blob(p.note)
		}
	}
}

func readDivision(r *wire.Reader, version byte) *division {
	d := &division{}
	if version > 1 {
		if d.defined = r.Bool(); d.defined {
			d.definition = readDefinition(r)
		}
	}
	for range r.Uvarint(MaxGrants) {
		p := part{min: readNumber(r), max: readNumber(r), increment: readNumber(r)}
		r.Fixed(p.owner[:])
		r.Fixed(p.log[:])
		if p.void = r.Bool(); p.void {
			p.from = int64(r.Uvarint(MaxNumber + 1))
			p.note = bytes.Clone(r.Blob(MaxNote))
		}
		n := len(d.parts)
		if p.min > p.max || p.increment == 0 || n > 0 && d.parts[n-1].max >= p.min || p.void && (p.from < p.min || p.from > p.max+1) {
			r.Fail("a part of a range")
		}
		if r.Err() != nil {
			return nil
		}
		d.parts = append(d.parts, p)
	}
	if r.Err() == nil && len(d.parts) == 0 && !d.defined {
		r.Fail("a range without parts")
	}
	return d
}
