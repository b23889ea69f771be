package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// pack makes a checkpoint of a document, unless it has become too large for one.
func (r *Replica) pack(ctx context.Context, id crdt.DocumentID) (made bool, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	x, ok := r.tails[id]
	if !ok || !r.State().MayWrite(r.keys.Device(), x.scope) {
		return false, nil
	}
	d, err := r.document(x.scope, id)
	if err != nil {
		return false, err
	}
	if r.contested(d) {
		return false, errContested // and the tail stays
	}
	t := r.begin(ctx)
	t.tails[id] = nil
	t.batch.Delete(storage.Tail.Key(id))
	if len(d.changes) <= maxPacked && d.index.Ops() <= maxCheckpointOps {
		var body *chunk.Checkpoint
		err := r.store.View(func(v storage.Reader) (err error) {
			body, err = r.packed(v, d)
			return err
		})
		if errors.Is(err, errNotYet) {
			return false, nil // and the tail stays
		}
		if err != nil {
			return false, err
		}
		at, sealed, err := t.seal(d.scope, body)
		switch {
		case err == nil:
			made = true
			if _, err := t.takePacked(d, body); err != nil {
				return false, err
			}
			if err := t.noteCheckpoint(at, sealed, d); err != nil {
				return false, err
			}
		case !errors.Is(err, chunk.ErrTooLarge):
			return false, err
		}
	}
	if err := t.commit(ctx); err != nil {
		return false, err
	}
	r.evict(ctx)
	return made, nil
}

// errContested says that a document is not packed while it is what it is.
var errContested = errors.New("a log of its changes has several histories")

// contested reports whether a document holds changes out of a log with several histories, or such as do not stand. It is not
// packed: a checkpoint names chunks by their places, and which of two is meant would depend on the order of arrival. Nor is one
// with changes of a device that may not write now, since nobody would apply the checkpoint. Of a protected document what is not certified
// stays beside the checkpoint.
func (r *Replica) contested(d *document) bool {
	st := r.State()
	for _, l := range d.lost {
		if d.lock == "" || l.why != lostPending && l.why != lostLate && l.why != lostBase {
			return true
		}
	}
	return slices.ContainsFunc(d.changes, func(m changeMeta) bool {
		return r.logs.Forked(d.scope, m.chunk.Log) || !st.MayWrite(m.device, d.scope)
	})
}

// errNotYet says that this device cannot vouch yet for all that a checkpoint would cover.
var errNotYet = errors.New("not everything has been compared yet")

// packing gathers a checkpoint.
type packing struct {
	r     *Replica
	d     *document
	v     storage.Reader
	scope trust.ScopeID
	keys  map[chunk.LogID]chunk.LogKey
	parts []placedPart
	has   map[spot]bool // parts that are in
	runs  links         // covered chunks
	other map[spot]bool // covered chunks without changes
	words map[actorAt]chunk.Authorship
	certs map[spot]*chunk.Certificate
	done  map[chunk.ID]bool // earlier checkpoints that are in
}

type spot struct {
	log     chunk.LogID
	counter uint64
}

// link is a covered chunk in its log.
type link struct {
	before, tip chunk.Tip
	id          chunk.ID // zero within a run of an earlier checkpoint
}

func linkOf(sealed chunk.Sealed) link {
	h := sealed.Header()
	return link{chunk.At(h.Counter-1, h.Previous).Tip, sealed.Position().Tip, sealed.ID()}
}

type actorAt struct {
	log    chunk.LogID
	branch byte
}

// placedPart is a Part whose log is named and not yet counted.
type placedPart struct {
	at spot
	chunk.Part
}

// packed gathers the changes of a document, as its chunks or an earlier checkpoint have them, and what becomes superfluous.
func (r *Replica) packed(v storage.Reader, d *document) (*chunk.Checkpoint, error) {
	p := &packing{
		r: r, d: d, v: v, scope: d.scope, keys: map[chunk.LogID]chunk.LogKey{}, has: map[spot]bool{}, runs: links{},
		other: map[spot]bool{}, words: map[actorAt]chunk.Authorship{}, certs: map[spot]*chunk.Certificate{}, done: map[chunk.ID]bool{},
	}
	seen, records := map[logs.Ref]bool{}, d.index.Records()
	for i, m := range d.changes {
		if seen[m.chunk] || !d.counts(records[i].Hash) || p.has[spot{m.chunk.Log, m.chunk.Counter}] {
			continue
		}
		seen[m.chunk] = true
		found, err := logs.Read(v, m.chunk)
		if err != nil {
			return nil, fmt.Errorf("read chunk: %w", err)
		}
		if err := p.take(found.Chunk); err != nil {
			return nil, err
		}
	}
	if len(p.parts) == 0 {
		return nil, errContested // nothing of it is certified
	}
	if err := p.takeEarlier(d.id); err != nil {
		return nil, err
	}
	if err := p.takeCertificates(); err != nil {
		return nil, err
	}
	c := p.checkpoint(d.id)
	for _, run := range c.Covers {
		if !r.reached(d.scope, run.Log, run.To) {
			return nil, errNotYet
		}
	}
	return c, nil
}

// take adds what a chunk holds.
func (p *packing) take(sealed chunk.Sealed) error {
	at := spot{sealed.Log(), sealed.Header().Counter}
	if p.has[at] || p.done[sealed.ID()] {
		return nil
	}
	opened, err := chunk.Open(p.r.keys, sealed)
	if err != nil {
		return fmt.Errorf("open chunk: %w", err)
	}
	switch body := opened.(type) {
	case *chunk.Changes:
		if !p.d.countAll(body.Changes) {
			return errContested
		}
		p.keys[at.log] = sealed.LogKey()
		p.add(at, chunk.PartOf(body, 0, at.counter))
		p.runs[at] = linkOf(sealed)
		for _, a := range body.Authorship {
			p.say(at.log, a)
		}
	case *chunk.Checkpoint:
		for _, part := range body.Parts {
			if !p.d.countAll(part.Changes) {
				return errContested // a break took back what was packed: its author's signature is on that
			}
		}
		// What it claims to cover is claimed again only if this device has compared it.
		said, err := logs.Said(p.v, sealed.ID(), sealed.Header().Device)
		if err != nil {
			return err
		}
		if !said[p.r.keys.Device()].OK {
			return errNotYet
		}
		p.done[sealed.ID()] = true
		for _, part := range body.Parts {
			key := body.Logs[part.Log]
			p.keys[key.ID()] = key
			p.add(spot{key.ID(), part.Counter}, part)
		}
		for _, s := range body.Others {
			key := body.Logs[s.Log]
			p.keys[key.ID()] = key
			p.other[spot{key.ID(), s.Counter}] = true
		}
		for _, c := range body.Certificates {
			key := body.Logs[c.Log]
			p.keys[key.ID()] = key
			p.certs[spot{key.ID(), c.Counter}] = c.Certificate
		}
		p.runs.cover(body.Covers)
		for _, a := range body.Authorship {
			p.say(body.Logs[a.Log].ID(), a.Authorship)
		}
	default:
		return fmt.Errorf("%w: a change's record names a chunk of another kind", storage.ErrDamaged)
	}
	return nil
}

func (p *packing) add(at spot, part chunk.Part) {
	if !p.has[at] {
		p.has[at] = true
		p.parts = append(p.parts, placedPart{at, part})
	}
}

// say keeps the newest authorship of each actor.
func (p *packing) say(log chunk.LogID, a chunk.Authorship) {
	at := actorAt{log, a.Branch}
	if a.Seq > p.words[at].Seq {
		p.words[at] = a
	}
}

// takeEarlier adds the earlier checkpoints of the document that are in their place and that this one holds whole, and the words on them.
func (p *packing) takeEarlier(id crdt.DocumentID) error {
	var list []checkpoint
	if err := p.v.Scan(storage.Checkpoint.With(id), nil, func(_, value []byte) error {
		c, err := parseCheckpointRecord(id, value)
		list = append(list, c)
		return err
	}); err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	for _, c := range list {
		if c.state == checkpointRefused || !p.r.reached(p.scope, c.place.Log, c.place.Counter) {
			continue
		}
		sealed, err := logs.ReadChunk(p.v, p.scope, c.place.Log, c.place.Counter)
		if errors.Is(err, storage.ErrNotFound) || err == nil && sealed.ID() != c.place.ID {
			continue // loose still
		}
		if err != nil {
			return err
		}
		if err := p.take(sealed); errors.Is(err, errNotYet) || errors.Is(err, errContested) {
			continue // it stays beside the new one
		} else if err != nil {
			return err
		}
		if !p.cover(sealed) {
			continue // the words on it stay with it
		}
		said, err := logs.Said(p.v, c.place.ID, c.device)
		if err != nil {
			return err
		}
		for _, w := range said {
			if w.At == (chunk.Place{}) {
				continue // its maker's, who says nothing
			}
			at, err := logs.ReadChunk(p.v, p.scope, w.At.Log, w.At.Counter)
			if err == nil && at.ID() == w.At.ID {
				p.cover(at)
			} else if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}

// cover adds a chunk without changes of its own to what is covered; not one of a log with several histories: whoever holds
// another one first could not compare it, and would give no word.
func (p *packing) cover(sealed chunk.Sealed) bool {
	at := spot{sealed.Log(), sealed.Header().Counter}
	if p.r.logs.Forked(p.scope, at.log) {
		return false
	}
	p.keys[at.log] = sealed.LogKey()
	p.other[at], p.runs[at] = true, linkOf(sealed)
	return true
}

// checkpoint puts together what was gathered.
func (p *packing) checkpoint(id crdt.DocumentID) *chunk.Checkpoint {
	c := &chunk.Checkpoint{Document: id, Covers: p.runs.covers()}
	keys := slices.SortedFunc(maps.Values(p.keys), func(a, b chunk.LogKey) int {
		return cmp.Or(bytes.Compare(a.Device[:], b.Device[:]), bytes.Compare(a.Nonce[:], b.Nonce[:]))
	})
	number := map[chunk.LogID]int{}
	for i, k := range keys {
		number[k.ID()] = i
	}
	c.Logs = keys
	for _, part := range p.parts {
		part.Spot = chunk.Spot{Log: number[part.at.log], Counter: part.at.counter}
		c.Parts = append(c.Parts, part.Part)
	}
	for at := range p.other {
		c.Others = append(c.Others, chunk.Spot{Log: number[at.log], Counter: at.counter})
	}
	slices.SortFunc(c.Others, func(a, b chunk.Spot) int { return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.Counter, b.Counter)) })
	for at, body := range p.certs {
		c.Certificates = append(c.Certificates, chunk.Packed{Spot: chunk.Spot{Log: number[at.log], Counter: at.counter}, Certificate: body})
	}
	slices.SortFunc(c.Certificates, func(a, b chunk.Packed) int {
		return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.Counter, b.Counter))
	})
	for at, a := range p.words {
		c.Authorship = append(c.Authorship, chunk.Word{Log: number[at.log], Authorship: a})
	}
	slices.SortFunc(c.Authorship, func(a, b chunk.Word) int { return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.Branch, b.Branch)) })
	return c
}

// links are chunks by their places.
type links map[spot]link

// cover adds what a checkpoint covers.
func (s links) cover(covers chunk.Covers) {
	for _, run := range covers {
		for n := run.From; n <= run.To; n++ {
			before, _ := run.TipAt(n - 1)
			tip, _ := run.TipAt(n)
			l := link{before: before, tip: tip, id: s[spot{run.Log, n}].id}
			if n == run.To {
				l.id = run.Last
			}
			s[spot{run.Log, n}] = l
		}
	}
}

// spots are the chunks' places, ascending.
func (s links) spots() []spot {
	return slices.SortedFunc(maps.Keys(s), func(a, b spot) int {
		return cmp.Or(a.log.Compare(b.log), cmp.Compare(a.counter, b.counter))
	})
}

// covers makes runs of the chunks, as long as they get.
func (s links) covers() (runs chunk.Covers) {
	for _, at := range s.spots() {
		l := s[at]
		if n := len(runs); n > 0 && runs[n-1].Log == at.log && runs[n-1].To+1 == at.counter {
			last := &runs[n-1]
			last.To, last.Last, last.Tips = at.counter, l.id, append(last.Tips, l.before)
			continue
		}
		runs = append(runs, chunk.Covered{Run: chunk.Run{Log: at.log, From: at.counter, To: at.counter, Last: l.id}, Tips: []chunk.Tip{l.before}})
	}
	return runs
}
