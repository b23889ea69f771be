package lockquorum

import (
	"bytes"
	"slices"
	"sync"

	"chartmesh/wire"
)

// pageSize is how many numbers a page has. It is part of the format: a page is a piece of a snapshot.
const pageSize = 256

// page is some numbers of a series. One that a Frozen has is never changed: it is copied before.
type page struct {
	numbers []number
	frozen  bool // of the State alone

	once sync.Once
	sum  Sum // of what it is written as, once it is frozen
}

func (in *series) at(i int) *number { return &in.pages[i/pageSize].numbers[i%pageSize] }

func (in *series) number(i int) Number {
	n := in.at(i)
	return Number{in.first + int64(i), n.item, n.state, n.by, n.clock, n.note}
}

// own returns a page that may be changed.
func (in *series) own(i int) *page {
	p := in.pages[i]
	if p.frozen {
		p = &page{numbers: append(make([]number, 0, pageSize), p.numbers...)}
		in.pages[i] = p
	}
	return p
}

// add appends a number.
func (in *series) add(n number) {
	if in.count%pageSize == 0 {
		in.pages = append(in.pages, &page{})
	}
	p := in.own(len(in.pages) - 1)
	p.numbers = append(p.numbers, n)
	in.counts(n.state)
}

// counts counts a number that was given.
func (g *given) counts(state NumberState) {
	g.count++
	switch state {
	case NumberUsed:
		g.used++
	case NumberVoid:
		g.void++
	}
}

// resolve says what became of a number that is reserved.
func (in *series) resolve(i int, to NumberState, note []byte) {
	n := &in.own(i / pageSize).numbers[i%pageSize]
	n.state, n.note = to, note
	in.count--
	in.counts(to)
}

func (p *page) append(w *wire.Writer) {
	for i := range p.numbers {
		p.numbers[i].append(w)
	}
}

func (n *number) append(w *wire.Writer) {
	w.Raw(n.item[:])
	w.Byte(byte(n.state))
	w.Raw(n.by[:])
	w.Uvarint(uint64(n.clock))
	w.Blob(n.note)
}

func readGiven(r *wire.Reader) (n number) {
	r.Fixed(n.item[:])
	if n.state = NumberState(r.Byte()); n.state < NumberReserved || n.state > NumberVoid {
		r.Fail("what became of a number")
	}
	r.Fixed(n.by[:])
	n.clock = int64(r.Uvarint(MaxClock))
	n.note = bytes.Clone(r.Blob(MaxNote))
	return n
}

// bytes returns what a frozen page is written as.
func (p *page) bytes() []byte {
	var w wire.Writer
	p.append(&w)
	return w.Bytes()
}

// sumOf returns the sum of a frozen page, which is found once.
func (p *page) sumOf() Sum {
	p.once.Do(func() { p.sum = SumOf(p.bytes()) })
	return p.sum
}

// readPage reads a page of so many numbers.
func readPage(b []byte, count int) ([]number, error) {
	r := wire.NewReader(b)
	list := make([]number, 0, min(count, len(b)/minGiven))
	for range count {
		n := readGiven(r)
		if r.Err() != nil {
			return nil, r.Err()
		}
		list = append(list, n)
	}
	return slices.Clip(list), r.Close()
}

// minGiven is the least that a number is written as.
const minGiven = 32 + 1 + 32 + 1 + 1
