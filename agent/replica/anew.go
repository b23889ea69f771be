package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
)

// writeLost writes anew what this device wrote and what lost its place, one document at a time, and returns how much. It
// is called when everything that arrived has been looked at.
func (r *Replica) writeLost(ctx context.Context) (int, error) {
	if len(r.lost) == 0 {
		return 0, nil
	}
	defer func() {
		r.mu.Lock()
		r.mu.unsaid = len(r.lost) > 0
		r.mu.Unlock()
	}()
	for _, doc := range slices.SortedFunc(maps.Keys(r.lost), func(a, b crdt.DocumentID) int { return bytes.Compare(a[:], b[:]) }) {
		scope := r.lost[doc]
		if !r.State().MayWrite(r.Device(), scope) {
			delete(r.lost, doc)
			continue
		}
		t := r.begin(ctx)
		d, err := r.document(scope, doc)
		if err != nil {
			return 0, err
		}
		wrote, err := t.writeAllAnew(ctx, d)
		if err != nil {
			t.abort(ctx)
			if ctx.Err() != nil || t.noLog != nil {
				return 0, err
			}
			// An engine that fails comes here, and of this device's own changes what only a program without these caps writes. It is
			// said once for a document, and not tried again before a restart, or before more of the document is lost.
			delete(r.lost, doc)
			r.log.Error("a change that lost its place could not be written anew; it is kept, and tried again after a restart",
				"document", doc, "error", err)
			continue
		}
		if err := t.commit(ctx); err != nil {
			return 0, fmt.Errorf("commit what was written anew: %w", err)
		}
		delete(r.lost, doc)
		if wrote > 0 {
			return wrote, nil
		}
	}
	return 0, nil
}

// writeAllAnew writes anew every lost change of this device in a document.
func (t *transaction) writeAllAnew(ctx context.Context, d *document) (wrote int, err error) {
	return t.writeAnewIf(ctx, d, func(l *lost) bool { return l.device == t.r.Device() && !l.done })
}

// writeReleased writes anew what a person releases of a lost change, whoever wrote it: its author may never come back.
func (t *transaction) writeReleased(ctx context.Context, at storage.Ref, h *held) error {
	if h.Document == (crdt.DocumentID{}) {
		return nil
	}
	d, err := t.r.document(at.Scope, h.Document)
	if err != nil {
		return err
	}
	_, err = t.writeAnewIf(ctx, d, func(l *lost) bool { return l.place == at })
	return err
}

// writeAnewIf writes anew the lost changes of a document that are asked for and that their author has not written anew.
func (t *transaction) writeAnewIf(ctx context.Context, d *document, asked func(*lost) bool) (wrote int, err error) {
	all, err := t.contenders(d)
	if err != nil {
		return 0, err
	}
	byHash := map[crdt.ChangeHash]*contender{}
	var due []*contender
	for _, c := range all {
		byHash[c.Hash] = c
		l := d.lost[c.Hash]
		if l == nil || !asked(l) {
			continue
		}
		if _, ok := d.replacedBy(c.Hash, l.device); !ok {
			due = append(due, c)
		}
	}
	slices.SortFunc(due, winner) // what is built upon comes first
	s := &scratch{t: t, d: d, all: byHash}
	defer s.close(ctx)
	for _, c := range due {
		n, err := t.writeChangeAnew(ctx, s, c)
		if err != nil {
			return 0, err
		}
		if wrote += n; n > 0 {
			t.events = append(t.events, Event{Kind: "change-written-anew", Local: true})
			continue
		}
		if d.lost[c.Hash].device != t.r.Device() {
			continue
		}
		l := *d.lost[c.Hash]
		l.done = true
		d.lost[c.Hash] = &l
		t.docs[d.id] = d
		t.batch.Put(storage.Lost.Key(d.id, c.Hash), l.marshal())
	}
	return wrote, nil
}

// writeChangeAnew writes what a lost change made of its resources, against what it was made on as far as that stands. So
// whatever else was written meets it as it would have met the change itself. It returns how many changes that took.
func (t *transaction) writeChangeAnew(ctx context.Context, s *scratch, c *contender) (wrote int, err error) {
	keys, err := s.load(ctx, c)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	decided, err := s.decided(ctx, keys, c)
	if err != nil {
		return 0, err
	}
	j := job{scope: s.d.scope, doc: s.d.id, base: s.base(c), replaces: c.Hash, want: map[string]crdt.Value{}, restate: map[string]bool{}}
	var removed, decides []string
	for _, key := range keys {
		// The value as it is stored, and not by way of FHIR: a user may have settled a conflict in what a member wrote and FHIR
		// cannot say.
		value, err := s.content(ctx, key, c.Hash)
		if err != nil {
			return 0, err
		}
		if value.Kind == 0 {
			removed = append(removed, key)
			continue
		}
		if decided[key] != nil {
			decides = append(decides, key)
			continue
		}
		before, err := s.shown(ctx, key, c.Deps)
		if err != nil {
			return 0, err
		}
		have, err := s.standing(ctx, key, j.base)
		if err != nil {
			return 0, err
		}
		if before.Value.Kind != 0 && have.Value.Kind != 0 {
			// What its author left alone stays as it is: of a conflict there they had seen one side, or what does not stand.
			value = crdt.Onto(have, before, value)
		}
		j.want[key] = value
		// Who took a removed resource into use again said all of it, also what stands where it is written anew.
		j.restate[key] = before.Removed
	}
	w := rewriting{s: s, c: c, base: j.base}
	if len(j.want) > 0 {
		if err := w.write(ctx, j); err != nil {
			return 0, err
		}
	}
	for _, key := range removed {
		if err := w.write(ctx, job{remove: key}); err != nil {
			return 0, err
		}
	}
	for _, key := range decides {
		if err := w.decide(ctx, key, decided[key]); err != nil {
			return 0, err
		}
	}
	// If what it said stands already, it still was an edit, which has to meet a removal; and others learn that it is settled.
	for _, key := range slices.Sorted(slices.Values(append(decides, slices.Collect(maps.Keys(j.want))...))) {
		if w.wrote > 0 {
			break
		}
		if err := w.write(ctx, job{touch: key}); err != nil {
			return 0, err
		}
	}
	return w.wrote, nil
}

// rewriting is a lost change that is being written anew, in one change or several.
type rewriting struct {
	s     *scratch
	c     *contender
	base  []crdt.ChangeHash // what the next one is made on
	wrote int
}

// write makes one of them.
func (w *rewriting) write(ctx context.Context, j job) error {
	d := w.s.d
	j.scope, j.doc, j.replaces = d.scope, d.id, w.c.Hash
	on := w.base
	if j.base == nil {
		j.base = w.base
	}
	by := author{name: w.c.applied.Author, timeMillis: w.c.applied.TimeMillis}
	changed, _, err := w.s.t.edit(ctx, j, by, w.c.applied.Origin)
	if err != nil || !changed {
		return err
	}
	w.wrote++
	w.base = append([]crdt.ChangeHash{}, d.index.HeadsOf(append(slices.Clone(on), d.lastHash()))...)
	return nil
}

// decide says a decision anew: at each place that it settled what it chose there, and nothing around it or beside it. Where what the
// place was in does not stand, it is an edit of what is there instead.
func (w *rewriting) decide(ctx context.Context, key string, settled []crdt.Conflict) error {
	after, err := w.s.register(ctx, key, []crdt.ChangeHash{w.c.Hash})
	if err != nil {
		return err
	}
	before, err := w.s.shown(ctx, key, w.c.Deps)
	if err != nil {
		return err
	}
	var left []crdt.Conflict
	for _, x := range settled { // those around others come first
		chosen, ok := crdt.At(key, after, x.Place)
		if !ok {
			continue // it went with what is around it
		}
		if x.Path == "" && chosen.Kind != 0 {
			have, err := w.s.standing(ctx, key, w.base)
			if err != nil {
				return err
			}
			chosen = crdt.Onto(have, before, chosen)
		}
		err := w.write(ctx, job{say: key, place: x.Place, value: chosen})
		if errors.Is(err, crdt.ErrNoConflict) || errors.Is(err, crdt.ErrChoice) {
			left = append(left, x)
		} else if err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return nil
	}
	base, err := w.within(ctx, key, left, before, crdt.Show(key, after))
	if err != nil {
		return err
	}
	have, err := w.s.standing(ctx, key, base)
	if err != nil {
		return err
	}
	value := crdt.Onto(have, before, crdt.Show(key, after).Value)
	if value.Equal(have.Value) {
		return nil
	}
	return w.write(ctx, job{base: base, want: map[string]crdt.Value{key: value}})
}

// within returns what an edit is made on within a side of a conflict that stays open: of the changes that stand those that wrote the
// side, so that it does not settle the conflict around it.
func (w *rewriting) within(ctx context.Context, key string, left []crdt.Conflict, before, after crdt.Shown) ([]crdt.ChangeHash, error) {
	have, err := w.s.standing(ctx, key, w.base)
	if err != nil {
		return nil, err
	}
	at := func(list []crdt.Conflict, p crdt.Place) int {
		return slices.IndexFunc(list, func(c crdt.Conflict) bool { return c.Place == p })
	}
	for _, x := range before.Conflicts {
		i := at(have.Conflicts, x.Place)
		if i < 0 || at(after.Conflicts, x.Place) < 0 || !slices.ContainsFunc(left, x.Around) {
			continue
		}
		y := have.Conflicts[i]
		var wrote []crdt.ChangeHash
		for _, op := range y.Sides[y.Shown].Ops {
			if rec, ok := w.s.d.index.ByOp(op); ok {
				wrote = append(wrote, rec.Hash)
			}
		}
		if len(wrote) > 0 {
			return w.s.d.index.HeadsOf(wrote), nil
		}
	}
	return w.base, nil
}

func (d *document) lastHash() crdt.ChangeHash {
	records := d.index.Records()
	return records[len(records)-1].Hash
}

// scratch is a document in the engine with changes that do not stand, to read what they say.
type scratch struct {
	t     *transaction
	d     *document
	all   map[crdt.ChangeHash]*contender
	id    crdt.DocumentID
	index *crdt.Index // what it holds
}

// base returns what a lost change was made on, as far as it stands: for what is lost itself, what its author wrote instead.
func (s *scratch) base(c *contender) []crdt.ChangeHash {
	seen := map[crdt.ChangeHash]bool{}
	var set []crdt.ChangeHash
	var visit func(deps []crdt.ChangeHash)
	visit = func(deps []crdt.ChangeHash) {
		for _, h := range deps {
			if seen[h] {
				continue
			}
			seen[h] = true
			if s.d.index.Has(h) {
				set = append(set, h)
				continue
			}
			if l := s.d.lost[h]; l != nil {
				if by, ok := s.d.replacedBy(h, l.device); ok {
					set = append(set, by)
				}
			}
			if o := s.all[h]; o != nil {
				visit(o.Deps)
			}
		}
	}
	visit(c.Deps)
	return append([]crdt.ChangeHash{}, s.d.index.HeadsOf(set)...)
}

// load brings a change and all that it builds on into the scratch document, and returns which resources it touches. None:
// the validator does not accept it.
func (s *scratch) load(ctx context.Context, c *contender) ([]string, error) {
	r := s.t.r
	order := s.closure(c)
	if s.index == nil || !s.extends(order) {
		s.close(ctx)
		s.id, s.index = crdt.DocumentID(sha256.Sum256(append([]byte("chartmesh scratch 1"), s.d.id[:]...))), crdt.NewIndex(s.d.id)
		if _, err := r.engine.Load(ctx, s.id, nil, nil); err != nil {
			return nil, fmt.Errorf("read a change that does not stand: %w", err)
		}
	}
	var raws [][]byte
	var keys []string
	err := r.store.View(func(v storage.Reader) error {
		for _, o := range order {
			if s.index.Has(o.Hash) {
				if rec, ok := s.index.Record(o.Hash); ok && o == c {
					keys = rec.Keys
				}
				continue
			}
			rec, raw := o.Record, o.raw
			var err error
			if o.change != nil {
				if rec, err = s.index.Judge(o.change); err != nil {
					return err
				}
			}
			if raw == nil {
				if raw, _, err = r.rawAt(v, o.applied.Chunk, o.Hash); err != nil {
					return err
				}
			}
			if err := s.index.Add(rec); err != nil {
				return err
			}
			raws = append(raws, raw)
			if o == c {
				keys = rec.Keys
			}
		}
		return nil
	})
	var refused *crdt.Refused
	if errors.As(err, &refused) {
		s.close(ctx)
		return nil, nil
	}
	if err == nil && len(raws) > 0 {
		_, err = r.engine.Apply(ctx, s.id, raws)
	}
	if err != nil {
		return nil, fmt.Errorf("read a change that does not stand: %w", err)
	}
	return keys, nil
}

// closure returns a change and all that it builds on, each after what it builds on itself.
func (s *scratch) closure(c *contender) []*contender {
	in := map[crdt.ChangeHash]*contender{}
	queue := []*contender{c}
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		if in[o.Hash] != nil {
			continue
		}
		in[o.Hash] = o
		for _, h := range o.Deps {
			if p := s.all[h]; p != nil {
				queue = append(queue, p)
			}
		}
	}
	return slices.SortedFunc(maps.Values(in), winner)
}

// extends reports whether what the scratch document holds is among the given changes.
func (s *scratch) extends(order []*contender) bool {
	have := 0
	for _, o := range order {
		if s.index.Has(o.Hash) {
			have++
		}
	}
	return have == s.index.Len()
}

// content returns a resource as of a change; the zero Value if it was not there or removed.
func (s *scratch) content(ctx context.Context, key string, at crdt.ChangeHash) (crdt.Value, error) {
	shown, err := s.shown(ctx, key, []crdt.ChangeHash{at})
	return shown.Value, err
}

// standing returns what is shown of a resource in the document itself at some heads; without any there is nothing.
func (s *scratch) standing(ctx context.Context, key string, heads []crdt.ChangeHash) (have crdt.Shown, err error) {
	if len(heads) == 0 {
		return have, nil
	}
	err = s.t.r.engineCall(ctx, s.d, func() error {
		fields, err := s.t.r.engine.Read(ctx, s.d.id, []string{key}, heads)
		if err == nil && len(fields) > 0 {
			have = crdt.Show(key, fields[0].Values)
		}
		return err
	})
	if err != nil {
		return have, fmt.Errorf("read what a lost change is written on: %w", err)
	}
	return have, nil
}

// shown returns what is shown of a resource at some heads; without any there was nothing.
func (s *scratch) shown(ctx context.Context, key string, heads []crdt.ChangeHash) (crdt.Shown, error) {
	r, err := s.register(ctx, key, heads)
	if err != nil || r == nil {
		return crdt.Shown{}, err
	}
	return crdt.Show(key, r), nil
}

// register returns what stands at a resource's root key at some heads.
func (s *scratch) register(ctx context.Context, key string, heads []crdt.ChangeHash) (crdt.Register, error) {
	if len(heads) == 0 {
		return nil, nil
	}
	fields, err := s.t.r.engine.Read(ctx, s.id, []string{key}, heads)
	if err != nil {
		return nil, fmt.Errorf("read a change that does not stand: %w", err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return fields[0].Values, nil
}

// mostDecided is how many conflicts a decision is taken to have settled: one, and those within its sides. What a member says is
// a decision may have settled any number.
const mostDecided = 64

// decided returns the conflicts that a person's decision settled, by resource. Other edits leave open what they do not change.
func (s *scratch) decided(ctx context.Context, keys []string, c *contender) (map[string][]crdt.Conflict, error) {
	if c.applied.Origin != chunk.OriginDecision || len(c.Deps) == 0 {
		return nil, nil
	}
	settled, left := map[string][]crdt.Conflict{}, mostDecided
	for _, key := range keys {
		before, err := s.shown(ctx, key, c.Deps)
		if err != nil {
			return nil, err
		}
		after, err := s.shown(ctx, key, []crdt.ChangeHash{c.Hash})
		if err != nil {
			return nil, err
		}
		for _, x := range before.Conflicts {
			open := slices.ContainsFunc(after.Conflicts, func(y crdt.Conflict) bool { return x.Place == y.Place })
			if !open && left > 0 {
				settled[key] = append(settled[key], x)
				left--
			}
		}
	}
	return settled, nil
}

func (s *scratch) close(ctx context.Context) {
	if s.index == nil {
		return
	}
	s.index = nil
	if err := s.t.r.engine.Forget(context.WithoutCancel(ctx), s.id); err != nil {
		s.t.r.log.Warn("engine could not forget a document", "document", s.d.id, "error", err)
	}
}

// replacedIn names the lost change that a change writes anew, as history names it; empty: none.
func (d *document) replacedIn(hash crdt.ChangeHash) string {
	for what, list := range d.anew {
		if slices.ContainsFunc(list, func(r replacement) bool { return bytes.Equal(r.hash[:], hash[:]) }) {
			return crdt.Version([]crdt.ChangeHash{what})
		}
	}
	return ""
}
