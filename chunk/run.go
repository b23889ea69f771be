package chunk

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Place names a chunk by where it stands, and by what it is.
type Place struct {
	Log     LogID
	Counter uint64
	ID      ID
}

func (p Place) append(w *wire.Writer) {
	w.Raw(p.Log[:])
	w.Uvarint(p.Counter)
	w.Raw(p.ID[:])
}

func (p *Place) read(r *wire.Reader) {
	r.Fixed(p.Log[:])
	if p.Counter = r.Uvarint(1<<63 - 1); p.Counter == 0 {
		r.Fail("counter")
	}
	r.Fixed(p.ID[:])
}

// AppendBinary appends the place's 65 to 73 bytes. It never fails.
func (p Place) AppendBinary(b []byte) ([]byte, error) {
	var w wire.Writer
	p.append(&w)
	return append(b, w.Bytes()...), nil
}

// ReadPlace takes off r what AppendBinary wrote.
func ReadPlace(r *wire.Reader) (p Place) {
	p.read(r)
	return p
}

// Run is a stretch of a log: the chunks From to To. Last is the ID of the last one.
type Run struct {
	Log      LogID
	From, To uint64
	Last     ID
}

func (r Run) ok() bool { return r.From > 0 && r.From <= r.To && r.To < 1<<63 }

// Covered is a run with the tips of its chunks, so that a chunk that comes when they are gone, or a log that shall go on
// over them, is told from another history of the log by whoever holds no more than this.
type Covered struct {
	Run
	// Tips are where the log stands before From (zero if From is 1) and after each chunk but the last: To−From+1 in all.
	Tips []Tip
}

// TipAt returns where the log stands at a counter from From−1 to To.
func (c Covered) TipAt(counter uint64) (tip Tip, ok bool) {
	switch {
	case counter == c.To:
		return At(c.To, c.Last).Tip, true
	case counter+1 < c.From || counter > c.To:
		return tip, false
	}
	return c.Tips[counter+1-c.From], true
}

// Joins reports whether a log that stands at p goes on with what is left of the run.
func (c Covered) Joins(p Position) bool {
	tip, ok := c.TipAt(p.Counter)
	return ok && p.Counter < c.To && tip == p.Tip
}

// Covers are stretches of logs, ascending, with at least one chunk between two of one log.
type Covers []Covered

// Len returns how many chunks they name.
func (s Covers) Len() (n uint64) {
	for _, c := range s {
		n += c.To - c.From + 1
	}
	return n
}

// Find returns the run that a chunk belongs to.
func (s Covers) Find(log LogID, counter uint64) (Covered, bool) {
	i, _ := slices.BinarySearchFunc(s, Run{Log: log, To: counter}, func(a Covered, b Run) int {
		if c := a.Log.Compare(b.Log); c != 0 {
			return c
		}
		return cmp.Compare(a.To, b.To)
	})
	if i == len(s) || s[i].Log != log || s[i].From > counter {
		return Covered{}, false
	}
	return s[i], true
}

// Holds reports whether a chunk belongs to one of the runs.
func (s Covers) Holds(log LogID, counter uint64) bool {
	_, ok := s.Find(log, counter)
	return ok
}

func (s Covers) check() error {
	if len(s) > MaxRuns {
		return fmt.Errorf("%w: runs: too many", wire.ErrMalformed)
	}
	for i, c := range s {
		ok := c.ok() && len(c.Tips) <= MaxParts && uint64(len(c.Tips)) == c.To-c.From+1 && (c.From == 1) == (c.Tips[0] == Tip{})
		if i > 0 {
			order := s[i-1].Log.Compare(c.Log)
			ok = ok && (order < 0 || order == 0 && s[i-1].To+1 < c.From)
		}
		if !ok {
			return fmt.Errorf("%w: runs: order", wire.ErrMalformed)
		}
	}
	return nil
}

func (s Covers) append(w *wire.Writer) {
	w.Uvarint(uint64(len(s)))
	for _, c := range s {
		w.Raw(c.Log[:])
		w.Uvarint(c.From)
		w.Uvarint(c.To - c.From)
		for _, tip := range c.Tips {
			w.Raw(tip[:])
		}
		w.Raw(c.Last[:])
	}
}

func parseCovers(b []byte) (Covers, error) {
	r := wire.NewReader(b)
	s := make(Covers, count(r, MaxRuns, 82))
	for i := range s {
		c := &s[i]
		r.Fixed(c.Log[:])
		c.From = r.Uvarint(1<<63 - 1)
		more := count(r, MaxParts-1, len(Tip{}))
		c.To = c.From + uint64(more)
		c.Tips = make([]Tip, more+1)
		for j := range c.Tips {
			r.Fixed(c.Tips[j][:])
		}
		r.Fixed(c.Last[:])
		if r.Err() != nil {
			break
		}
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("runs: %w", err)
	}
	return s, s.check()
}

// Skip stands in a log for chunks that were deleted since a checkpoint holds what they held. It is stored, and sent where
// the chunks would be. It is not signed: whoever takes one looks into the checkpoint, which is, whether it covers them, and
// into the word of the device whose log it is, which is too: nobody else can say what that device has written.
type Skip struct {
	Scope      trust.ScopeID
	Key        LogKey // whose log it is
	Run               // its Log is Key's
	Checkpoint Place
	Word       Place // of that device's COVER that finds the checkpoint good; zero if it made the checkpoint
}

var skipMagic = []byte{'c', 'm', 's', 1}

// IsSkip tells a skip from a chunk by its first bytes.
func IsSkip(b []byte) bool { return len(b) >= 3 && bytes.Equal(b[:3], skipMagic[:3]) }

// AppendBinary appends the skip's some 260 bytes, or some 190 without a word. It never fails.
func (s Skip) AppendBinary(b []byte) ([]byte, error) {
	var w wire.Writer
	w.Raw(skipMagic)
	w.Raw(s.Scope[:])
	w.Raw(s.Key.Device[:])
	w.Raw(s.Key.Nonce[:])
	w.Uvarint(s.From)
	w.Uvarint(s.To - s.From)
	w.Raw(s.Last[:])
	s.Checkpoint.append(&w)
	s.Word.append(&w)
	return append(b, w.Bytes()...), nil
}

// ParseSkip reads what AppendBinary wrote, and nothing else.
func ParseSkip(b []byte) (s Skip, err error) {
	r := wire.NewReader(b)
	if m := r.Raw(len(skipMagic)); len(m) == 4 && bytes.Equal(m[:3], skipMagic[:3]) && m[3] > skipMagic[3] {
		return s, fmt.Errorf("parse skip: version %d: %w", m[3], ErrNewer)
	} else if !bytes.Equal(m, skipMagic) {
		r.Fail("magic")
	}
	r.Fixed(s.Scope[:])
	r.Fixed(s.Key.Device[:])
	r.Fixed(s.Key.Nonce[:])
	s.Log = s.Key.ID()
	s.From = r.Uvarint(1<<63 - 1)
	s.To = s.From + r.Uvarint(1<<62)
	r.Fixed(s.Last[:])
	s.Checkpoint.read(r)
	r.Fixed(s.Word.Log[:])
	s.Word.Counter = r.Uvarint(1<<63 - 1)
	r.Fixed(s.Word.ID[:])
	if s.Word.Counter == 0 && s.Word != (Place{}) {
		r.Fail("word")
	}
	if err := r.Close(); err != nil {
		return Skip{}, fmt.Errorf("parse skip: %w", err)
	}
	if !s.ok() {
		return Skip{}, fmt.Errorf("parse skip: %w: run", wire.ErrMalformed)
	}
	return s, nil
}

// InPlace returns what is sent in the place of a checkpoint or word to who holds it loose already: a skip of that alone,
// which it names as its checkpoint.
func InPlace(s Sealed) Skip {
	c := s.header.Counter
	return Skip{Scope: s.header.Scope, Key: s.LogKey(), Run: Run{Log: s.log, From: c, To: c, Last: s.id}, Checkpoint: s.Place()}
}

// IsInPlace reports whether the skip stands for what it names as its checkpoint.
func (s Skip) IsInPlace() bool {
	c := s.Checkpoint
	return s.Run == Run{Log: c.Log, From: c.Counter, To: c.Counter, Last: c.ID}
}

// Position returns where the log stands after it.
func (s Skip) Position() Position { return At(s.To, s.Last) }
