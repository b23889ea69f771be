package crdt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world makes random histories of several writers who see some of each other's changes, by the rules or, where told, a
// little against them. It knows ancestors by closed sets, the slow and obvious way.
type world struct {
	rng     *rand.Rand
	changes []*Change
	sees    []map[int]bool // by change: itself and all ancestors
	places  []madePlace
	honest  bool
	x       *Index       // of what is accepted in the order of writing
	refused map[int]bool // by change; dishonest worlds alone
}

// madePlace is a container, key or element that an operation made or wrote.
type madePlace struct {
	change int
	id     OpID
	op     Op
	around int // index into places of the container; -1: root
}

func newWorld(rng *rand.Rand) *world {
	return &world{rng: rng, honest: true, x: NewIndex(DocumentID{}), refused: map[int]bool{}}
}

const worldActors = 5

// view picks a closed set that holds the writer's own changes, and returns the set and its heads.
func (w *world) view(actor byte) (map[int]bool, []ChangeHash) {
	seen := map[int]bool{}
	add := func(i int) {
		for k := range w.sees[i] {
			seen[k] = true
		}
	}
	for i, c := range w.changes {
		switch {
		case w.refused[i] && w.rng.IntN(50) > 0: // others seldom build on it
		case c.Actor == testActor(actor) && (w.honest || w.rng.IntN(40) > 0), // else a cloned writer
			w.rng.IntN(4) > 0 && i+6 > len(w.changes):
			add(i)
		}
	}
	below := map[int]bool{}
	for i := range seen {
		for k := range w.sees[i] {
			if k != i {
				below[k] = true
			}
		}
	}
	var heads []ChangeHash
	for i := range seen {
		if !below[i] {
			heads = append(heads, w.changes[i].Hash)
		}
	}
	return seen, heads
}

// step adds one change by a random writer.
func (w *world) step(t testing.TB) *Change {
	actor := byte(1 + w.rng.IntN(worldActors))
	seen, heads := w.view(actor)
	var seq, last uint64
	for i := range seen {
		c := w.changes[i]
		last = max(last, c.StartOp+uint64(len(c.Ops))-1)
		if c.Actor == testActor(actor) {
			seq = max(seq, c.Seq)
		}
	}
	c := newChange(actor, seq+1, last+1, heads)
	s := &scribe{w: w, seen: seen, change: len(w.changes), c: c, live: map[OpID]bool{}}
	for n := 1 + w.rng.IntN(6); n > 0; n-- {
		s.edit()
	}
	if !w.honest && w.rng.IntN(8) == 0 {
		s.spoil()
	}
	c = decoded(t, s.c)
	if c.Hash == (ChangeHash{}) {
		t.Fatal("no hash")
	}
	w.changes = append(w.changes, c)
	seen[len(w.changes)-1] = true
	w.sees = append(w.sees, seen)
	if !w.honest {
		r, err := w.x.Judge(c)
		if w.refused[len(w.changes)-1] = err != nil; err == nil {
			err = w.x.Add(r)
		} else if errors.As(err, new(*Refused)) {
			err = nil
		}
		if err != nil && !errors.As(err, new(*Missing)) && !errors.As(err, new(*Equivocation)) {
			t.Fatal(err)
		}
	}
	return c
}

// scribe writes one change.
type scribe struct {
	w      *world
	seen   map[int]bool
	change int
	c      *Change
	live   map[OpID]bool // maps marked live, or made here
}

func (s *scribe) add(op Op, around int) int {
	id := s.c.ID(len(s.c.Ops))
	s.c.Ops = append(s.c.Ops, op)
	s.w.places = append(s.w.places, madePlace{s.change, id, op, around})
	return len(s.w.places) - 1
}

// visible returns the places that the writer sees and that pass.
func (s *scribe) visible(pass func(p *madePlace) bool) (out []int) {
	for i := range s.w.places {
		p := &s.w.places[i]
		if (p.change == s.change || s.seen[p.change]) && pass(p) {
			out = append(out, i)
		}
	}
	return out
}

func (s *scribe) pick(places []int) int {
	if len(places) == 0 {
		return -1
	}
	return places[s.w.rng.IntN(len(places))]
}

func isContainer(kinds ...Kind) func(*madePlace) bool {
	return func(p *madePlace) bool {
		for _, k := range kinds {
			if p.op.Action == ActionMake && p.op.Value.Kind == k {
				return true
			}
		}
		return false
	}
}

// mark writes what an edit inside a container owes to the maps around it.
func (s *scribe) mark(at int) {
	for ; at >= 0; at = s.w.places[at].around {
		p := s.w.places[at]
		if p.op.Value.Kind != Map || s.live[p.id] || p.change == s.change {
			continue
		}
		s.live[p.id] = true
		s.put(p.id, liveKey, number(1), at)
	}
}

// put writes a scalar to a map's key over some of what is seen there.
func (s *scribe) put(obj OpID, key string, v Scalar, around int) {
	preds := s.preds(func(q *madePlace) bool { return q.op.Obj == obj && q.op.Key == key })
	s.add(put(obj, key, v, preds...), around)
}

// preds returns the IDs of what is seen at a madePlace, ascending, or some of them.
func (s *scribe) preds(pass func(*madePlace) bool) (ids []OpID) {
	for _, i := range s.visible(pass) {
		if s.w.rng.IntN(5) > 0 {
			ids = append(ids, s.w.places[i].id)
		}
	}
	slices.SortFunc(ids, OpID.Compare)
	return slices.Compact(ids)
}

func (s *scribe) scalar() Scalar {
	all := []Scalar{text("v"), number(int64(s.w.rng.IntN(300))), boolean(1), {Kind: Null}, opaque("j1.50"), opaque("")}
	return all[s.w.rng.IntN(len(all))]
}

func (s *scribe) edit() {
	rng := s.w.rng
	at := s.pick(s.visible(isContainer(Map, List, Text)))
	if at < 0 || rng.IntN(6) == 0 {
		s.add(makeAt(OpID{}, fmt.Sprintf("Patient/%d", rng.IntN(4)), Map), -1)
		return
	}
	p := s.w.places[at]
	switch p.op.Value.Kind {
	case Map:
		switch key := string(rune('a' + rng.IntN(3))); rng.IntN(6) {
		case 0:
			s.add(makeAt(p.id, "{"+key, Map), at)
		case 1:
			s.add(makeAt(p.id, "["+key, List), at)
		case 2:
			s.add(makeAt(p.id, `"`+key, Text), at)
		case 3:
			s.put(p.id, "~~", s.scalar(), at)
		default:
			s.put(p.id, key, s.scalar(), at)
		}
	case List:
		elem := s.pick(s.visible(func(q *madePlace) bool { return q.op.Obj == p.id && q.op.Insert }))
		var after OpID
		if elem >= 0 {
			after = s.w.places[elem].id
		}
		item := s.add(insert(p.id, after, kindOnly(Map)), at)
		switch id := s.w.places[item].id; rng.IntN(4) {
		case 0: // a map
		case 1:
			s.add(makeAt(id, "[", List), item)
		default:
			s.put(id, "~~", s.scalar(), item)
		}
	case Text:
		elem := s.pick(s.visible(func(q *madePlace) bool { return q.op.Obj == p.id && q.op.Insert }))
		switch {
		case elem < 0:
			s.add(insert(p.id, OpID{}, text("ß")), at)
		case rng.IntN(3) == 0:
			s.add(remove(p.id, s.w.places[elem].id), at)
		default:
			s.add(insert(p.id, s.w.places[elem].id, text("b")), at)
		}
		if p.change != s.change {
			s.put(s.w.places[p.around].id, "~"+p.op.Key, number(1), p.around)
		}
	}
	s.mark(at)
}

// spoil breaks some rule, or by chance none.
func (s *scribe) spoil() {
	rng := s.w.rng
	op := &s.c.Ops[rng.IntN(len(s.c.Ops))]
	some := s.w.places[rng.IntN(len(s.w.places))]
	switch rng.IntN(11) {
	case 0:
		s.c.Seq += uint64(rng.IntN(2)) + 1
	case 1:
		s.c.StartOp += uint64(rng.IntN(2)) * (MaxCounterGap + 1)
	case 2:
		op.Obj = some.id
	case 3:
		if op.Key == "" {
			op.Elem = some.id
		} else {
			op.Key = some.op.Key + "a"
		}
	case 4:
		if !op.Insert && op.Action != ActionMake {
			op.Pred = []OpID{some.id}
		}
	case 5:
		if op.Action == ActionPut {
			op.Value = s.scalar()
		}
	case 6:
		if op.Action == ActionMake {
			op.Value.Kind = Kind(1 + rng.IntN(3))
		}
	case 7:
		if len(s.c.Ops) > 1 {
			s.c.Ops = s.c.Ops[:len(s.c.Ops)-1]
		}
	case 8:
		s.c.StartOp -= min(s.c.StartOp-1, uint64(rng.IntN(3)))
	case 9:
		if op.Insert {
			op.Action, op.Value = ActionPut, s.scalar()
		}
	case 10:
		if op.Insert {
			op.Insert, op.Elem, op.Pred = false, some.id, []OpID{some.id}
		}
	}
}
