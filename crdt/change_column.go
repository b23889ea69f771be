package crdt

import "unicode/utf8"

// reader takes Automerge's numbers off untrusted bytes. All readers of one change share why: the first reason to
// refuse stays, and later reads return zeros. It reads a string and not a slice, so that keys and values can share the
// change's memory.
type reader struct {
	rest string
	why  *string
}

func (r *reader) fail(reason string) {
	if *r.why == "" {
		*r.why = reason
	}
	r.rest = ""
}

func (r *reader) failed() bool { return *r.why != "" }

// uint takes a minimal unsigned LEB128 number.
func (r *reader) uint() uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 {
		v := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(v)
	}
	var v uint64
	for i := 0; i < len(r.rest) && i < 10; i++ {
		b := r.rest[i]
		if i == 9 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 {
				break // a shorter form exists; a lone zero was taken above
			}
			r.rest = r.rest[i+1:]
			return v
		}
	}
	r.fail(ReasonEncoding)
	return 0
}

// int takes a minimal signed LEB128 number.
func (r *reader) int() int64 {
	var v int64
	for i := 0; i < len(r.rest) && i < 10; i++ {
		b := r.rest[i]
		if i == 9 && b != 0 && b != 0x7f {
			break
		}
		v |= int64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if i > 0 && (b == 0 && r.rest[i-1]&0x40 == 0 || b == 0x7f && r.rest[i-1]&0x40 != 0) {
				break // a shorter form exists
			}
			if b&0x40 != 0 && i < 9 {
				v |= -1 << (7 * (i + 1))
			}
			r.rest = r.rest[i+1:]
			return v
		}
	}
	r.fail(ReasonEncoding)
	return 0
}

// take takes n bytes.
func (r *reader) take(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.fail(ReasonEncoding)
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// capped takes a number and fails with the reason if it is over the limit.
func (r *reader) capped(limit uint64, reason string) uint64 {
	v := r.uint()
	if v > limit {
		r.fail(reason)
		return 0
	}
	return v
}

type columnKind uint8

const (
	uintColumn columnKind = iota
	deltaColumn
	stringColumn
)

type runKind uint8

const (
	noRun runKind = iota
	repeatRun
	literalRun
	nullRun
)

// column reads a run-length encoded column row by row and accepts only the form that Automerge's encoder writes: runs
// as long as they can be, a repetition from two rows on, no column of nulls alone. It matters, because the core
// encodes every change anew when it loads its saved form, and then must find the same hash.
//
// A column that is absent is all null.
type column struct {
	reader
	kind   columnKind
	absent bool

	run     runKind
	left    uint64 // rows of the run still to come
	num     uint64 // value of the current row; in a delta column the difference, as two's complement
	str     string
	sum     int64 // of a delta column
	isValue bool  // num or str hold the value of the row before
	any     bool  // some row was not null
}

func newColumn(data string, kind columnKind, why *string) column {
	return column{reader: reader{rest: data, why: why}, kind: kind, absent: data == ""}
}

// next steps to the next row; null reports that it has no value.
func (c *column) next() (null bool) {
	if c.absent {
		return true
	}
	if c.left == 0 && !c.begin() {
		return true
	}
	c.left--
	switch c.run {
	case nullRun:
		return true
	case literalRun:
		c.value()
	}
	if c.kind == deltaColumn {
		d := int64(c.num)
		// Counters lie in [0, MaxCounter], so a sum outside is refused before it could overflow.
		if d > MaxCounter || d < -MaxCounter || c.sum+d > MaxCounter || c.sum+d < 0 {
			c.fail(ReasonReference)
			return true
		}
		c.sum += d
	}
	return false
}

// begin starts the next run.
func (c *column) begin() bool {
	if c.rest == "" {
		c.fail(ReasonRows)
		return false
	}
	last := c.run
	switch n := c.int(); {
	case n > 1:
		c.run, c.left = repeatRun, uint64(n)
		c.value()
	case n < 0:
		if last == literalRun {
			c.fail(ReasonEncoding)
		}
		c.run, c.left = literalRun, uint64(-n)
	case n == 0:
		c.run, c.left, c.isValue = nullRun, c.uint(), false
		if last == nullRun || c.left == 0 {
			c.fail(ReasonEncoding)
		}
	default:
		c.fail(ReasonEncoding)
	}
	return !c.failed()
}

// value takes one value, which must differ from the one in the row before.
func (c *column) value() {
	num, str := c.num, c.str
	switch c.kind {
	case uintColumn:
		c.num = c.uint()
	case deltaColumn:
		c.num = uint64(c.int())
	case stringColumn:
		if c.str = c.take(c.uint()); !utf8.ValidString(c.str) {
			c.fail(ReasonEncoding)
		}
	}
	if c.isValue && num == c.num && str == c.str {
		c.fail(ReasonEncoding)
	}
	c.isValue, c.any = true, true
}

// rows counts the rows of a uint column that has no nulls and, in sum, adds up its values; it stops at the limits.
func (c column) rows(limit, sumLimit uint64, reason string) (rows, sum uint64) {
	for c.rest != "" || c.left > 0 {
		if c.left == 0 && !c.begin() {
			break
		}
		switch n := c.left; {
		case n > limit-rows:
			c.fail(reason)
		case c.run == nullRun:
			c.fail(ReasonRows)
		case c.run == repeatRun:
			rows, c.left = rows+n, 0
			if c.num > 0 && n > (sumLimit-sum)/c.num {
				c.fail(reason)
			} else {
				sum += n * c.num
			}
		default:
			rows, c.left = rows+1, n-1
			if c.value(); c.num > sumLimit-sum {
				c.fail(reason)
			} else {
				sum += c.num
			}
		}
		if c.failed() {
			break
		}
	}
	return rows, sum
}

// close checks that the column ends where the rows do.
func (c *column) close() {
	switch {
	case c.left > 0 || c.rest != "":
		c.fail(ReasonRows)
	case !c.absent && !c.any:
		c.fail(ReasonEncoding)
	}
}

// boolColumn reads runs of false and true in turn, the first of false.
type boolColumn struct {
	reader
	left    uint64
	value   bool
	started bool
}

func (c *boolColumn) next() bool {
	for c.left == 0 {
		if c.rest == "" {
			c.fail(ReasonRows)
			return false
		}
		if c.left = c.uint(); c.left == 0 && (c.started || c.failed()) {
			c.fail(ReasonEncoding)
			return false
		}
		c.value = c.started && !c.value
		c.started = true
	}
	c.left--
	return c.value
}

func (c *boolColumn) close() {
	if c.left > 0 || c.rest != "" {
		c.fail(ReasonRows)
	}
}
