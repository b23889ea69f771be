package lockquorum

import (
	"bytes"
	"slices"
)

// circle gives numbers without gaps, in one series after another. A number is named by its series and itself.
type circle struct {
	series []series
	items  map[ItemID]place
}

type series struct {
	epoch       uint64 // that began it
	first, last int64
	closed      How // zero: it gives numbers. SealReseeded: it may have given more than is known here.
	given
	pages []*page // all are full but the last
}

// given counts the numbers that a series gave, and those of them that are used and void.
type given struct{ count, used, void int }

// place says where an item's number stands: in which series, and at which place from its first.
type place struct{ series, at int }

// id names one of a circle's series.
func (c *circle) id(at int) SeriesID { return SeriesID{c.series[at].epoch, uint64(at + 1)} }

// number is what is known of a number that was given.
type number struct {
	item  ItemID
	state NumberState
	by    DeviceID // who asked for it
	clock int64
	note  []byte // sealed, of who resolved it
}

// NumberState says what became of a number. The numbers are part of the format.
type NumberState uint8

const (
	NumberReserved NumberState = 1 // it was given
	NumberUsed     NumberState = 2 // what it was given to exists
	NumberVoid     NumberState = 3 // it does not, and the note says why; the number is never given again
)

func (n NumberState) String() string {
	switch n {
	case NumberReserved:
		return "reserved"
	case NumberUsed:
		return "used"
	case NumberVoid:
		return "void"
	}
	return "unknown"
}

func (o *OpenCircle) apply(s *State, _ *Command) Result {
	c := s.circles[o.Circle]
	if c == nil {
		if len(s.circles) >= MaxCircles {
			return Result{Code: CodeFull}
		}
		c = &circle{items: map[ItemID]place{}}
		s.circles[o.Circle] = c
	}
	now := len(c.series) - 1
	if now >= 0 && c.series[now].closed == 0 {
		if open := c.series[now]; open.first != o.First || open.last != o.Last {
			return Result{Code: CodeExists, Series: c.id(now)}
		}
		return Result{Code: CodeDone, Series: c.id(now)}
	}
	if len(c.series) >= MaxSeries {
		return Result{Code: CodeFull}
	}
	c.series = append(c.series, series{epoch: s.epoch, first: o.First, last: o.Last})
	return Result{Code: CodeDone, Series: c.id(now + 1)}
}

func (o *CloseCircle) apply(s *State, _ *Command) Result {
	c := s.circles[o.Circle]
	if c == nil {
		return Result{Code: CodeUnknown}
	}
	now := len(c.series) - 1
	if c.series[now].closed == 0 {
		c.series[now].closed = SealReleased
	}
	return Result{Code: CodeDone, Series: c.id(now)}
}

func (o *Assign) apply(s *State, cmd *Command) Result {
	c := s.circles[o.Circle]
	if c == nil {
		return Result{Code: CodeUnknown}
	}
	if p, ok := c.items[o.Item]; ok { // one item, one number, for ever
		return Result{Code: CodeDone, Series: c.id(p.series), Number: c.series[p.series].first + int64(p.at)}
	}
	n := len(c.series) - 1
	now := &c.series[n]
	next := now.first + int64(now.count)
	switch {
	case now.closed != 0:
		return Result{Code: CodeClosed, Series: c.id(n)}
	case next > now.last:
		return Result{Code: CodeExhausted, Series: c.id(n)}
	case len(c.items) >= MaxItems:
		return Result{Code: CodeFull, Series: c.id(n)}
	}
	c.items[o.Item] = place{n, now.count}
	now.add(number{item: o.Item, state: NumberReserved, by: cmd.Device, clock: s.clock})
	return Result{Code: CodeDone, Series: c.id(n), Number: next}
}

func (o *Resolve) apply(s *State, _ *Command) Result {
	c := s.circles[o.Circle]
	if c == nil {
		return Result{Code: CodeUnknown}
	}
	p, ok := c.items[o.Item]
	if !ok {
		return Result{Code: CodeUnknown}
	}
	in := &c.series[p.series]
	r := Result{Code: CodeDone, Series: c.id(p.series), Number: in.first + int64(p.at)}
	switch in.at(p.at).state {
	case NumberReserved:
		in.resolve(p.at, o.To, bytes.Clone(o.Note))
	case o.To: // again
	default:
		r.Code = CodeResolved
	}
	return r
}

// division is how a number space is divided. Its parts never overlap, and what was taken back is given to nobody.
type division struct {
	defined bool // by an administrator, since version 2
	definition
	parts []part // ascending
}

// part is delegated to one log of a device.
type part struct {
	min, max, increment int64
	owner               DeviceID
	log                 [32]byte
	void                bool
	from                int64 // if void: the first number that was not given
	note                []byte
}

func (o *Grant) apply(s *State, _ *Command) Result {
	d := s.ranges[o.Range]
	if d == nil {
		if len(s.ranges) >= MaxRanges {
			return Result{Code: CodeFull}
		}
		d = &division{}
	}
	if d.defined && (o.Min < d.first || o.Max > d.last) {
		return Result{Code: CodeUnknown}
	}
	at, _ := slices.BinarySearchFunc(d.parts, o.Min, func(p part, n int64) int { return int(min(1, max(-1, p.min-n))) })
	if at < len(d.parts) && d.parts[at].min <= o.Max || at > 0 && d.parts[at-1].max >= o.Min {
		if at < len(d.parts) && d.parts[at].same(o) {
			return Result{Code: CodeDone}
		}
		return Result{Code: CodeOverlap}
	}
	if len(d.parts) >= MaxGrants {
		return Result{Code: CodeFull}
	}
	s.ranges[o.Range] = d
	d.parts = slices.Insert(d.parts, at, part{min: o.Min, max: o.Max, increment: o.Increment, owner: o.Owner, log: o.Log})
	return Result{Code: CodeDone}
}

func (p part) same(o *Grant) bool {
	return !p.void && p.min == o.Min && p.max == o.Max && p.increment == o.Increment && p.owner == o.Owner && p.log == o.Log
}

func (o *Void) apply(s *State, _ *Command) Result {
	d := s.ranges[o.Range]
	if d == nil {
		return Result{Code: CodeUnknown}
	}
	at := slices.IndexFunc(d.parts, func(p part) bool { return p.min == o.Min })
	if at < 0 {
		return Result{Code: CodeUnknown}
	}
	p := &d.parts[at]
	switch {
	case p.void && p.from == o.From: // again
	case p.void:
		return Result{Code: CodeResolved, Number: p.from}
	case o.From < p.min || o.From > p.max+1:
		return Result{Code: CodeUnknown}
	default:
		p.void, p.from, p.note = true, o.From, bytes.Clone(o.Note)
	}
	return Result{Code: CodeDone, Number: p.from}
}
