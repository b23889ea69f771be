package crdt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
)

// Index knows of all changes applied to one document what is needed to judge the next (Judge), and answers who is whose
// ancestor. It is rebuilt from Records. Reading it is safe from several goroutines, Add is not.
type Index struct {
	doc    DocumentID
	nodes  []*indexed // in the order of Add, dependencies first
	byHash map[ChangeHash]*indexed
	actors map[Actor]int // actors' numbers in clocks
	chains [][]*indexed  // by actor number: its changes, the ith has seq i+1
	keys   map[string]*keyChanges
	heads  []*indexed // ascending by hash
	ops    uint64
}

type indexed struct {
	Record
	actor int
	// clock is what the change's ancestors hold of every other actor; of its own actor they hold all before Seq, by the
	// rule on sequence numbers. So a run of changes by one actor shares one clock.
	clock clock
}

// keyChanges is what touched one resource.
type keyChanges struct {
	touched []*indexed
	heads   []*indexed // those of touched that are no ancestors of others, ascending by hash
}

// ErrOrder says that a Record was added before its dependencies, or twice, or was never judged.
var ErrOrder = errors.New("record does not follow those in the index")

// NewIndex returns the index of a document without changes.
func NewIndex(doc DocumentID) *Index {
	return &Index{doc: doc, byHash: map[ChangeHash]*indexed{}, actors: map[Actor]int{}, keys: map[string]*keyChanges{}}
}

// Document returns the document's ID.
func (x *Index) Document() DocumentID { return x.doc }

// Add takes a record that Judge returned, or that one did before it was saved. Its dependencies must be in the index;
// otherwise the error wraps ErrOrder and nothing is changed.
func (x *Index) Add(r Record) error {
	if x.byHash[r.Hash] != nil {
		return fmt.Errorf("add record of change %v: %w: known", r.Hash, ErrOrder)
	}
	past, missing := x.past(r.Deps)
	if missing != nil {
		return fmt.Errorf("add record of change %v: %w: %w", r.Hash, ErrOrder, missing)
	}
	actor, ok := x.actors[r.Actor]
	if !ok {
		actor = len(x.chains)
	}
	if past.get(actor)+1 != r.Seq || ok && uint64(len(x.chains[actor])) >= r.Seq || r.StartOp <= past.last {
		return fmt.Errorf("add record of change %v: %w: sequence", r.Hash, ErrOrder)
	}
	if !ok {
		x.actors[r.Actor] = actor
		x.chains = append(x.chains, nil)
	}
	n := &indexed{Record: r, actor: actor, clock: past.without(actor)}
	x.nodes = append(x.nodes, n)
	x.byHash[r.Hash] = n
	x.chains[actor] = append(x.chains[actor], n)
	x.heads = replaceHeads(x.heads, n)
	for _, key := range r.Keys {
		k := x.keys[key]
		if k == nil {
			k = new(keyChanges)
			x.keys[key] = k
		}
		k.touched = append(k.touched, n)
		k.heads = replaceHeads(k.heads, n)
	}
	x.ops += r.Count
	return nil
}

// past is a set of changes closed under ancestry, as seen from a set of heads.
type past struct {
	clock clock
	// One change may stand beside the clock, which saves copying a page for each change of a sequential history.
	actor int // -1: none
	seq   uint64
	last  uint64 // the greatest operation counter
}

func (p past) get(actor int) uint64 {
	if actor == p.actor {
		return p.seq
	}
	return p.clock.get(actor)
}

// without returns a clock that is right for all actors but the given one.
func (p past) without(actor int) clock {
	if p.actor < 0 || p.actor == actor {
		return p.clock
	}
	return p.clock.with(p.actor, p.seq)
}

// past returns the closure of heads, or a *Missing with the first that is not in the index.
func (x *Index) past(heads []ChangeHash) (past, *Missing) {
	p := past{actor: -1}
	for i, h := range heads {
		n := x.byHash[h]
		if n == nil {
			return p, &Missing{Hash: h}
		}
		p.last = max(p.last, n.Last())
		if i == 0 {
			p.clock, p.actor, p.seq = n.clock, n.actor, n.Seq
			continue
		}
		if p.actor >= 0 {
			p.clock, p.actor = p.clock.with(p.actor, p.seq), -1
		}
		p.clock = p.clock.join(n.clock).with(n.actor, n.Seq)
	}
	return p, nil
}

// sees reports whether m is n or an ancestor of n.
func (n *indexed) sees(m *indexed) bool {
	if n.actor == m.actor {
		return n.Seq >= m.Seq
	}
	return n.clock.get(m.actor) >= m.Seq
}

// replaceHeads returns the heads, ascending, after n came, which is no ancestor of any.
func replaceHeads(heads []*indexed, n *indexed) []*indexed {
	kept := heads[:0]
	for _, h := range heads {
		if !n.sees(h) {
			kept = append(kept, h)
		}
	}
	at := sort.Search(len(kept), func(i int) bool { return bytes.Compare(kept[i].Hash[:], n.Hash[:]) > 0 })
	return slices.Insert(kept, at, n)
}

func hashes(nodes []*indexed) []ChangeHash {
	out := make([]ChangeHash, len(nodes))
	for i, n := range nodes {
		out[i] = n.Hash
	}
	return out
}

// Heads returns the changes that no other depends on, ascending.
func (x *Index) Heads() []ChangeHash { return hashes(x.heads) }

// Len returns the number of changes.
func (x *Index) Len() int { return len(x.nodes) }

// Ops returns the number of operations.
func (x *Index) Ops() uint64 { return x.ops }

// Has reports whether the change is applied.
func (x *Index) Has(h ChangeHash) bool { return x.byHash[h] != nil }

// Record returns an applied change's record.
func (x *Index) Record(h ChangeHash) (Record, bool) {
	if n := x.byHash[h]; n != nil {
		return n.Record, true
	}
	return Record{}, false
}

// Records returns all records in the order of Add.
func (x *Index) Records() []Record {
	out := make([]Record, len(x.nodes))
	for i, n := range x.nodes {
		out[i] = n.Record
	}
	return out
}

// ByOp returns the record of the change that made the operation.
func (x *Index) ByOp(op OpID) (Record, bool) {
	if n := x.byOp(op); n != nil {
		return n.Record, true
	}
	return Record{}, false
}

func (x *Index) byOp(op OpID) *indexed {
	actor, ok := x.actors[op.Actor]
	if !ok {
		return nil
	}
	chain := x.chains[actor]
	i := sort.Search(len(chain), func(i int) bool { return chain[i].StartOp > op.Counter })
	if i == 0 || !chain[i-1].Has(op) {
		return nil
	}
	return chain[i-1]
}

// NextSeq returns the sequence number of the actor's next change.
func (x *Index) NextSeq(a Actor) uint64 {
	if actor, ok := x.actors[a]; ok {
		return uint64(len(x.chains[actor])) + 1
	}
	return 1
}

// IsAncestor reports whether a is among of or an ancestor of one of them. Changes that are not applied are ignored.
func (x *Index) IsAncestor(a ChangeHash, of []ChangeHash) bool {
	m := x.byHash[a]
	if m == nil {
		return false
	}
	for _, h := range of {
		if n := x.byHash[h]; n != nil && n.sees(m) {
			return true
		}
	}
	return false
}

// HeadsOf returns, ascending and each once, those of the set that are not ancestors of others in it. Changes that are
// not applied are left out.
func (x *Index) HeadsOf(set []ChangeHash) []ChangeHash { return hashes(x.headsOf(set)) }

func (x *Index) headsOf(set []ChangeHash) []*indexed {
	// Of each actor only the last can be a head. What the ancestors of all together reach decides which of those are.
	last := map[int]*indexed{}
	for _, h := range set {
		if n := x.byHash[h]; n != nil && (last[n.actor] == nil || last[n.actor].Seq < n.Seq) {
			last[n.actor] = n
		}
	}
	var below clock
	for _, n := range last {
		below = below.join(n.clock)
	}
	var heads []*indexed
	for _, n := range last {
		// A change's clock may hold entries of its own actor from a parent's, all of them before its Seq.
		if below.get(n.actor) < n.Seq {
			heads = append(heads, n)
		}
	}
	slices.SortFunc(heads, func(a, b *indexed) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return heads
}

// LastSeqIn returns the actor's last sequence number among heads and their ancestors (0: none), and whether the actor
// has changes outside of them. A writer on top of heads can use the actor if it has none. Heads that are not applied
// are ignored.
func (x *Index) LastSeqIn(a Actor, heads []ChangeHash) (seq uint64, outside bool) {
	actor, ok := x.actors[a]
	if !ok {
		return 0, false
	}
	for _, h := range heads {
		if n := x.byHash[h]; n == nil {
			continue
		} else if n.actor == actor {
			seq = max(seq, n.Seq)
		} else {
			seq = max(seq, n.clock.get(actor))
		}
	}
	return seq, seq < uint64(len(x.chains[actor]))
}

// Touched returns the changes that touched a resource, in the order of Add.
func (x *Index) Touched(key string) []ChangeHash {
	if k := x.keys[key]; k != nil {
		return hashes(k.touched)
	}
	return nil
}

// KeyHeads returns the heads among the changes that touched a resource, ascending: its version (Version).
func (x *Index) KeyHeads(key string) []ChangeHash {
	if k := x.keys[key]; k != nil {
		return hashes(k.heads)
	}
	return nil
}
