package chunk

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"chartmesh/wire"
)

// Position says how far a log is held: every chunk up to Counter, the last of which is ID. Two branches of equal length
// differ in ID.
type Position struct {
	Counter uint64
	ID      ID
}

// Vector says for each log how far it is held, durably and without a gap. A log that is not named is not held at all.
type Vector map[LogID]Position

var vectorMagic = []byte{'c', 'm', 'v', 1}

// AppendBinary appends the vector: 4 bytes, a count, and some 66 bytes for each log, ascending. Logs at 0 are left out.
// ParseVector takes no more than MaxLogs.
func (v Vector) AppendBinary(b []byte) []byte {
	logs := v.Logs()
	var w wire.Writer
	w.Raw(vectorMagic)
	w.Uvarint(uint64(len(logs)))
	for _, log := range logs {
		p := v[log]
		w.Raw(log[:])
		w.Uvarint(p.Counter)
		w.Raw(p.ID[:])
	}
	return append(b, w.Bytes()...)
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
	v := make(Vector, min(n, r.Len()/65))
	var last LogID
	for i := range n {
		var log LogID
		var p Position
		r.Fixed(log[:])
		p.Counter = r.Uvarint(1<<63 - 1)
		r.Fixed(p.ID[:])
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
		w.Raw(p.ID[:])
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
// takes the smaller ID, so that the order makes no difference.
func (v Vector) Merge(w Vector) Vector {
	out := make(Vector, max(len(v), len(w)))
	maps.Copy(out, v)
	for log, p := range w {
		q, ok := out[log]
		if c := cmp.Compare(p.Counter, q.Counter); !ok || c > 0 || c == 0 && bytes.Compare(p.ID[:], q.ID[:]) < 0 {
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
	Forked []LogID // equal counter, other ID: two branches of one log
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
		case p.ID != q.ID:
			d.Forked = append(d.Forked, log)
		}
	}
	return d
}
