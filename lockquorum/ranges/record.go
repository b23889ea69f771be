package ranges

import (
	"time"

	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// record is what the store knows of one log's parts of a range.
type record struct {
	asked bool   // for one part more, which this device may not have heard of
	parts []part // ascending
}

// part is a part of a range, and how far it was used.
type part struct {
	min, max, increment int64
	next                int64 // the first number that was not given; beyond max: all were
	void                bool  // what is left of it was taken back
	from                int64 // if void: the first number that was not given, as the quorum knows it
}

// of returns a part of which nothing was given.
func of(p lockquorum.Part) part {
	return part{min: p.Min, max: p.Max, increment: p.Increment, next: p.Min, void: p.Void, from: p.From}
}

// size returns how many numbers a part has, and left how many of them may still be given.
func (p part) size() int64 { return (p.max-p.min)/p.increment + 1 }

func (p part) left() int64 {
	if p.void || p.next > p.max {
		return 0
	}
	return (p.max-p.next)/p.increment + 1
}

// find returns the place of the part that begins with a number; -1: there is none.
func (r record) find(lo int64) int {
	for i, p := range r.parts {
		if p.min == lo {
			return i
		}
	}
	return -1
}

// add puts a part in its place.
func (r *record) add(p part) {
	at := 0
	for at < len(r.parts) && r.parts[at].min < p.min {
		at++
	}
	r.parts = append(r.parts[:at:at], append([]part{p}, r.parts[at:]...)...)
}

// marshal writes: 1 | asked | count | min, max, increment, next, void, from if void …
func (r record) marshal() []byte {
	var w wire.Writer
	w.Byte(1)
	w.Bool(r.asked)
	w.Uvarint(uint64(len(r.parts)))
	for _, p := range r.parts {
		w.Uvarint(uint64(p.min))
		w.Uvarint(uint64(p.max))
		w.Uvarint(uint64(p.increment))
		w.Uvarint(uint64(p.next))
		if w.Bool(p.void); p.void {
			w.Uvarint(uint64(p.from))
		}
	}
	return w.Bytes()
}

func parseRecord(b []byte) (rec record, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	rec.asked = r.Bool()
	before := int64(-1)
	for range r.Uvarint(lockquorum.MaxGrants) {
		p := part{min: readNumber(r), max: readNumber(r), increment: readNumber(r), next: int64(r.Uvarint(2 * lockquorum.MaxNumber))}
		if p.void = r.Bool(); p.void {
			p.from = int64(r.Uvarint(lockquorum.MaxNumber + 1))
		}
		if p.min <= before || p.max < p.min || p.increment == 0 || p.next < p.min || p.next > p.max+p.increment || (p.next-p.min)%max(p.increment, 1) != 0 ||
			p.void && (p.from < p.min || p.from > p.max+1) {
			r.Fail("a part")
		}
		if r.Err() != nil {
			return record{}, r.Err()
		}
		rec.parts, before = append(rec.parts, p), p.max
	}
	return rec, r.Close()
}

func readNumber(r *wire.Reader) int64 { return int64(r.Uvarint(lockquorum.MaxNumber)) }

// gift is what is known of a number that was given.
type gift struct {
	at   time.Time
	item string // empty: none was said
}

// marshal writes: 1 | milliseconds since 1970 | item.
func (g gift) marshal() []byte {
	var w wire.Writer
	w.Byte(1)
	w.Varint(g.at.UnixMilli())
	w.String(g.item)
	return w.Bytes()
}

func parseGift(b []byte) (g gift, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	g.at = time.UnixMilli(r.Varint()).UTC()
	g.item = r.String(MaxItem)
	if err := r.Close(); err != nil {
		return gift{}, err
	}
	return g, nil
}

// marshalNumber writes: 1 | number.
func marshalNumber(n int64) []byte {
	var w wire.Writer
	w.Byte(1)
	w.Uvarint(uint64(n))
	return w.Bytes()
}

func parseNumber(b []byte) (int64, error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	n := readNumber(r)
	return n, r.Close()
}
