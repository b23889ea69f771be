package chunk

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"chartmesh/wire"
)

// Tip is the beginning of a chunk's ID, enough to tell branches of equal length apart: only a log's own author could
// make two chunks with one Tip (2^64 work), and the next chunk's link, which is whole, would tell them apart.
type Tip [16]byte

// Position says how far a log is held: every chunk up to Counter, the last of which has Tip.
type Position struct {
	Counter uint64
	Tip     Tip
}

// At returns the position after the chunk with this counter and ID; At(0, ID{}) is the zero Position.
func At(counter uint64, id ID) Position { return Position{counter, Tip(id[:16])} }

// Vector says for each log how far it is held, durably and without a gap. A log that is not named is not held at all.
type Vector map[LogID]Position

var vectorMagic = []byte{'c', 'm', 'v', 1}

// AppendBinary appends the vector: 4 bytes, a count, and some 50 bytes for each log, ascending. Logs at 0 are left out.
// The error is for more than MaxLogs.
func (v Vector) AppendBinary(b []byte) ([]byte, error) {
	logs := v.Logs()
	if len(logs) > MaxLogs {
		return nil, fmt.Errorf("encode version vector: %w: over %d logs", wire.ErrMalformed, MaxLogs)
	}
	var w wire.Writer
	w.Raw(vectorMagic)
	w.Uvarint(uint64(len(logs)))
	for _, log := range logs {
		p := v[log]
		w.Raw(log[:])
		w.Uvarint(p.Counter)
		w.Raw(p.Tip[:])
	}
	return append(b, w.Bytes()...), nil
}

// ParseVector reads what AppendBinary wrote, and nothing else.
func ParseVector(b []byte) (Vector, error) {
	r := wire.NewReader(b)
	if m := r.Raw(len(vectorMagic)); len(m) == 4 && bytes.Equal(m[:3], vectorMagic[:3]) && m[3] > vectorMagic[3] {
		return nil, fmt.Errorf("parse version vector: version %d: %w", m[3], ErrNewer)
	} else if !bytes.Equal(m, vectorMagic) {
		r.Fail("magic")
	}
	n := int(r.Uvarint(MaxLogs))
	v := make(Vector, min(n, r.Len()/49))
	var last LogID
	for i := range n {
		var log LogID
		var p Position
		r.Fixed(log[:])
		p.Counter = r.Uvarint(1<<63 - 1)
		r.Fixed(p.Tip[:])
		if p.Counter == 0 {
			r.Fail("counter")
		}
		if i > 0 && last.Compare(log) >= 0 {
			r.Fail("logs out of order")
		}
		if r.Err() != nil {
			break
		}
		v[log], last = p, log
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("parse version vector: %w", err)
	}
	return v, nil
}

// Hash names the vector in 32 bytes: equal vectors have equal hashes, and no others.
func (v Vector) Hash() [32]byte {
	var w wire.Writer
	for _, log := range v.Logs() {
		p := v[log]
		w.Raw(log[:])
		w.Uint64(p.Counter)
		w.Raw(p.Tip[:])
	}
	return hash("chartmesh vector 1", w.Bytes())
}

// Logs returns the logs that are held at all, ascending.
func (v Vector) Logs() []LogID {
	logs := make([]LogID, 0, len(v))
	for log, p := range v {
		if p.Counter != 0 {
			logs = append(logs, log)
		}
	}
	slices.SortFunc(logs, LogID.Compare)
	return logs
}

// Clone returns a copy.
func (v Vector) Clone() Vector { return maps.Clone(v) }

// Equal reports whether both say the same of the same logs.
func (v Vector) Equal(w Vector) bool { return v.Compare(w).None() }

// Merge returns what is held by one or the other: of each log the farther position. Of two branches of equal length it
// takes the smaller tip, so that the order makes no difference.
func (v Vector) Merge(w Vector) Vector {
	out := make(Vector, max(len(v), len(w)))
	maps.Copy(out, v)
	for log, p := range w {
		q, ok := out[log]
		if c := cmp.Compare(p.Counter, q.Counter); !ok || c > 0 || c == 0 && bytes.Compare(p.Tip[:], q.Tip[:]) < 0 {
			out[log] = p
		}
	}
	return out
}

// Gap is a run of chunks of one log that one side holds and the other lacks: after After, up to To.
type Gap struct {
	Log       LogID
	After, To uint64
}

// Difference is what two vectors do not agree on, each part ascending by log.
type Difference struct {
	Ahead  []Gap   // the first holds, the second lacks
	Behind []Gap   // the second holds, the first lacks
	Forked []LogID // equal counter, other tip: two branches of one log
}

// None reports whether the vectors are equal.
func (d Difference) None() bool { return len(d.Ahead)+len(d.Behind)+len(d.Forked) == 0 }

// Compare returns how v differs from w. A fork below the shorter of two positions does not show here; it shows when the
// next chunk does not follow.
func (v Vector) Compare(w Vector) Difference {
	var d Difference
	for _, log := range v.Merge(w).Logs() {
		p, q := v[log], w[log]
		switch {
		case p.Counter > q.Counter:
			d.Ahead = append(d.Ahead, Gap{log, q.Counter, p.Counter})
		case p.Counter < q.Counter:
			d.Behind = append(d.Behind, Gap{log, p.Counter, q.Counter})
		case p.Tip != q.Tip:
			d.Forked = append(d.Forked, log)
		}
	}
	return d
}
