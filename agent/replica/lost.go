package replica

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Two acceptable changes with one actor and sequence number are what two histories of a log leave in one document.
// Automerge holds only one of them. Which one stands follows from the changes alone (winner); the other, and all that
// builds on it, is lost: kept, quarantined with its reason, and written anew by its author (anew.go).

// lost is a change that is held and does not stand.
type lost struct {
	place storage.Ref
	why   lostReason
	// done says that this device looked at its own change and found nothing in it to write anew.
	done   bool
	device trust.DeviceID
}

// lostReason says why a change does not stand. The numbers are stored.
type lostReason byte

const (
	lostTwice   lostReason = 1
	lostBase    lostReason = 2
	lostRemoved lostReason = 3
	lostPending lostReason = 4 // of a protected document, and its lease may commit it
	lostLate    lostReason = 5 // likewise, and it has not
)

func (r lostReason) String() string {
	switch r {
	case lostTwice:
		return "its author wrote two changes in one place"
	case lostRemoved:
		return "its author had been removed, or might not write any more"
	case lostPending:
		return "it is not committed yet"
	case lostLate:
		return "it was written without a lease, or not committed before its lease ended"
	}
	return "it builds on a change that is quarantined"
}

// replacement is a change that writes another anew, and who wrote it.
type replacement struct {
	hash   crdt.ChangeHash
	device trust.DeviceID
}

func (l *lost) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(l.place.Scope[:])
	w.Raw(l.place.Log[:])
	w.Uvarint(l.place.Counter)
	w.Raw(l.place.ID[:])
	w.Byte(byte(l.why))
	w.Bool(l.done)
	w.Raw(l.device[:])
	return w.Bytes()
}

func parseLost(b []byte) (*lost, error) {
	l := new(lost)
	r := open(b)
	r.Fixed(l.place.Scope[:])
	r.Fixed(l.place.Log[:])
	l.place.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(l.place.ID[:])
	l.why = lostReason(r.Byte())
	l.done = r.Bool()
	r.Fixed(l.device[:])
	return l, r.Close()
}

// loadLost finds the documents in which changes of this device do not stand.
func (r *Replica) loadLost(v storage.Reader) error {
	return v.Scan(storage.Lost.All(), nil, func(key, value []byte) error {
		doc, _, err := storage.Lost.Parse(key)
		if err != nil {
			return err
		}
		l, err := parseLost(value)
		if _, protected := LockOf(l.place.Scope, doc); err == nil && l.device == r.Device() && !l.done && !protected {
			r.lost[doc], r.mu.unsaid = l.place.Scope, true
		}
		return err
	})
}

func (d *document) loadLost(v storage.Reader) error {
	return v.Scan(storage.Lost.With(d.id), nil, func(key, value []byte) error {
		_, hash, err := storage.Lost.Parse(key)
		if err != nil {
			return err
		}
		d.lost[hash], err = parseLost(value)
		return err
	})
}

// isLost reports whether all that a change builds on is here and some of it does not stand.
func (d *document) isLost(c *crdt.Change, standing *crdt.Index) bool {
	any := false
	for _, h := range c.Deps {
		switch {
		case standing.Has(h):
		case d.lost[h] != nil:
			any = true
		default:
			return false
		}
	}
	return any
}

// notArrived returns the first change that c builds on and that is not here.
func (d *document) notArrived(c *crdt.Change, standing *crdt.Index) crdt.ChangeHash {
	for _, h := range c.Deps {
		if !standing.Has(h) && d.lost[h] == nil {
			return h
		}
	}
	return crdt.ChangeHash{}
}

// replacedBy returns the change by which its author wrote a lost one anew; of several the smallest. The zero device stands for
// anybody.
func (d *document) replacedBy(hash crdt.ChangeHash, author trust.DeviceID) (by crdt.ChangeHash, ok bool) {
	for _, r := range d.anew[hash] {
		if (r.device == author || author == trust.DeviceID{}) && (!ok || bytes.Compare(r.hash[:], by[:]) < 0) {
			by, ok = r.hash, true
		}
	}
	return by, ok
}

// speakers returns for each place at which changes are lost the one that says why it is held. A checkpoint may hold many: then
// one that is not settled speaks, and of several the one with the smallest hash, whatever order they were lost in.
func (d *document) speakers() map[storage.Ref]crdt.ChangeHash {
	settled := func(hash crdt.ChangeHash) bool {
		_, ok := d.replacedBy(hash, d.lost[hash].device)
		return ok
	}
	by := map[storage.Ref]crdt.ChangeHash{}
	for hash, l := range d.lost {
		was, ok := by[l.place]
		if ok {
			x, y := settled(was), settled(hash)
			ok = x == y && bytes.Compare(was[:], hash[:]) < 0 || !x && y
		}
		if !ok {
			by[l.place] = hash
		}
	}
	return by
}

// heldOf says why the chunk of a lost change, which speaks for it, is held.
func (d *document) heldOf(hash crdt.ChangeHash, waits missing) *held {
	l := d.lost[hash]
	h := keptOut(l.why.String())
	switch l.why {
	case lostPending:
		h = park(l.why.String(), missing{missingCertificate, d.id})
		h.Device = l.device
		return h
	case lostLate:
		waits = missing{} // nothing that comes but a certificate
	}
	h.Device, h.Missing = l.device, waits
	if by, ok := d.replacedBy(hash, l.device); ok {
		h.settle(by)
	} else if by, ok := d.replacedBy(hash, trust.DeviceID{}); ok {
		h.onRelease = by
	}
	return h
}

// settle says that the content of a lost change stands.
func (h *held) settle(by crdt.ChangeHash) {
	h.State = Settled
	h.Reason += "; written anew as " + crdt.Version([]crdt.ChangeHash{by})
}

// lose keeps a chunk whose changes do not stand. What waits for one of them learns that it came.
func (t *transaction) lose(d *document, place storage.Ref, sealed chunk.Sealed, body *chunk.Changes, why lostReason) (*held, error) {
	var waits missing
	for _, ch := range body.Changes {
		c, err := crdt.Decode(ch.Raw)
		if err != nil {
			return quarantine(reason(err)), nil
		}
		if d.index.Has(c.Hash) {
			continue
		}
		if waits == (missing{}) {
			waits = d.waitsFor(c.Deps)
		}
		if err := t.loseChange(d, c.Hash, &lost{place: place, why: why, device: sealed.Header().Device}); err != nil {
			return nil, err
		}
	}
	return d.heldAt(place, waits), nil
}

// heldAt says why a chunk is held for changes that are lost at it; nil if none is.
func (d *document) heldAt(place storage.Ref, waits missing) *held {
	by, ok := d.speakers()[place]
	if !ok {
		return nil
	}
	return d.heldOf(by, waits)
}

// waitsFor names the first of a lost change's dependencies that does not stand: if it ever does, the change is looked at
// again.
func (d *document) waitsFor(deps []crdt.ChangeHash) missing {
	for _, h := range deps {
		if d.lost[h] != nil {
			return missing{missingChange, h}
		}
	}
	return missing{}
}

func (t *transaction) loseChange(d *document, hash crdt.ChangeHash, l *lost) error {
	old := d.lost[hash]
	if old != nil {
		l.done = old.done
	}
	d.lost[hash] = l
	t.docs[d.id] = d
	t.batch.Put(storage.Lost.Key(d.id, hash), l.marshal())
	if l.device == t.r.Device() && !l.done && d.lock == "" {
		t.r.lost[d.id] = d.scope
	}
	switch {
	case old == nil:
		return t.wake(missing{missingChange, hash})
	case old.place != l.place: // it came with a checkpoint first
		return t.holdAgain(d, old.place)
	}
	return nil
}

// holdAgain brings up to date why a place is held at which changes are lost, or were.
func (t *transaction) holdAgain(d *document, place storage.Ref) error {
	was, err := t.heldAt(place)
	if err != nil || was == nil {
		return err
	}
	waits := was.Missing
	if err := t.release(place); err != nil {
		return err
	}
	if h := d.heldAt(place, waits); h != nil {
		t.hold(place, h)
	}
	return nil
}

// unlose forgets that a change did not stand.
func (t *transaction) unlose(d *document, hash crdt.ChangeHash) {
	if d.lost[hash] != nil {
		delete(d.lost, hash)
		t.batch.Delete(storage.Lost.Key(d.id, hash))
	}
}

// resettle brings why a lost change is held up to date, when a change came that writes it anew.
func (t *transaction) resettle(d *document, hash crdt.ChangeHash) error {
	l := d.lost[hash]
	if l == nil {
		return nil
	}
	return t.holdAgain(d, l.place)
}

// passBranch takes a chunk that no cursor comes to off those that were not looked at.
func (t *transaction) passBranch(place storage.Ref, h chunk.Header) {
	t.batch.Delete(storage.Parked.Key(missingTurn, [32]byte{}, place))
	t.r.mu.Lock()
	f := t.r.mu.Forks[place.Scope][place.Log]
	begins := f != nil && !f.Has(h.Previous)
	t.r.mu.Unlock()
	if begins {
		device, _ := t.r.names(h.Device)
		t.events = append(t.events, Event{Kind: "log-branched", Peer: device})
	}
}

// contender is one of all changes that could stand in a document.
type contender struct {
	crdt.Record               // of an applied one whole, else what the change says of itself
	change      *crdt.Change  // nil: applied
	applied     appliedChange // without the record
	raw         []byte
	place       storage.Ref // of one that is not applied
	device      trust.DeviceID
}

// winner orders the acceptable changes at one actor and sequence number: the first stands. It is the one that begins
// earliest, which makes the order one in which nothing comes before what it builds on; of several that begin alike the one
// with the smallest hash. What a person releases does not stand instead: it is written anew (writeReleased).
func winner(a, b *contender) int {
	return cmp.Or(cmp.Compare(a.StartOp, b.StartOp), bytes.Compare(a.Hash[:], b.Hash[:]))
}

// contest judges a chunk, or a checkpoint, with a change in whose place another one stands: it loses, or the document is
// made anew with it.
func (t *transaction) contest(
	ctx context.Context, d *document, place storage.Ref, sealed chunk.Sealed, body chunk.Body, stands crdt.ChangeHash,
) (*held, error) {
	parts := partsOf(sealed, body)
	if changes, ok := body.(*chunk.Changes); ok && len(changes.Changes) == 1 {
		c, err := crdt.Decode(changes.Changes[0].Raw)
		if err != nil {
			return quarantine(reason(err)), nil
		}
		if rec, ok := d.index.Record(stands); ok && winner(&contender{Record: rec}, t.newContender(c, nil, place, parts[0])) < 0 {
			return t.lose(d, place, sealed, changes, lostTwice)
		}
	}
	all, err := t.contenders(d)
	if err != nil {
		return nil, err
	}
	known := map[crdt.ChangeHash]bool{}
	for _, c := range all {
		known[c.Hash] = true
	}
	var in []*contender
	for _, p := range parts {
		for _, ch := range p.Changes {
			c, err := crdt.Decode(ch.Raw)
			if err != nil {
				return quarantine(reason(err)), nil
			}
			one := t.newContender(c, ch.Raw, place, p)
			if in = append(in, one); !known[c.Hash] {
				all = append(all, one)
				known[c.Hash] = true
			} else if d.lock != "" {
				d.renew(all, one)
			}
		}
	}
	if refused, err := t.reconsider(ctx, d, all, place); refused != nil || err != nil {
		return refused, err
	}
	for _, c := range in {
		if l := d.lost[c.Hash]; l != nil && l.place == place {
			return d.heldAt(place, d.waitsFor(c.Deps)), nil
		}
	}
	return nil, nil
}

func (t *transaction) newContender(c *crdt.Change, raw []byte, place storage.Ref, p part) *contender {
	return &contender{
		Record: crdt.Record{Hash: c.Hash, Deps: c.Deps, Actor: c.Actor, Seq: c.Seq, StartOp: c.StartOp},
		change: c, raw: raw, place: place, device: p.device,
		applied: appliedChange{
			Chunk: p.at, Device: p.device, Schema: p.Schema, TimeMillis: p.TimeMillis, Author: p.Author, Origin: p.Origin,
			ArrivedMillis: t.now.UnixMilli(), Replaces: p.Replaces, Fence: p.fence,
		},
	}
}

// contenders returns all changes that stand or could stand.
func (t *transaction) contenders(d *document) ([]*contender, error) {
	replaces := map[crdt.ChangeHash]crdt.ChangeHash{}
	for what, list := range d.anew {
		for _, r := range list {
			replaces[r.hash] = what
		}
	}
	var all []*contender
	for i, rec := range d.index.Records() {
		m := d.changes[i]
		all = append(all, &contender{Record: rec, raw: m.raw, device: m.device, applied: appliedChange{
			Chunk: m.chunk, Device: m.device, Schema: m.schema, TimeMillis: m.timeMillis, Author: m.author, Origin: m.origin,
			ArrivedMillis: m.arrived, Replaces: replaces[rec.Hash], Fence: m.fence,
		}})
	}
	for hash, l := range d.lost {
		c, err := t.lostContender(hash, l)
		if err != nil {
			return nil, fmt.Errorf("read a change that does not stand: %w", err)
		}
		all = append(all, c)
	}
	slices.SortFunc(all[len(d.changes):], winner) // a map has no order
	return all, nil
}

func (t *transaction) lostContender(hash crdt.ChangeHash, l *lost) (*contender, error) {
	sealed, err := t.r.logs.Sealed(l.place)
	if err != nil {
		return nil, err
	}
	opened, err := chunk.Open(t.r.keys, sealed)
	if err != nil {
		return nil, err
	}
	for _, p := range partsOf(sealed, opened) {
		for _, ch := range p.Changes {
			if h, ok := hashOf(ch.Raw); ok && h == hash {
				c, err := crdt.Decode(ch.Raw)
				if err != nil {
					return nil, err
				}
				return t.newContender(c, ch.Raw, l.place, p), nil
			}
		}
	}
	return nil, fmt.Errorf("%w: a chunk lacks the change that is noted of it", storage.ErrDamaged)
}

// stand returns which of all changes stand, by the changes alone and whatever order they came in: each that is acceptable and
// not barred, builds on such as stand, and is the first (winner) among those of them at its actor and sequence number. The
// others are returned with the reason; empty if the validator refuses them.
func stand(doc crdt.DocumentID, all []*contender, barred map[crdt.ChangeHash]lostReason) (stands []*contender, others map[crdt.ChangeHash]lostReason, refused map[crdt.ChangeHash]string) {
	byHash := make(map[crdt.ChangeHash]*contender, len(all))
	for _, c := range all {
		byHash[c.Hash] = c
	}
	waits, dependants := map[crdt.ChangeHash]int{}, map[crdt.ChangeHash][]*contender{}
	var ready []*contender
	push := func(c *contender) {
		i, _ := slices.BinarySearchFunc(ready, c, winner)
		ready = slices.Insert(ready, i, c)
	}
	for _, c := range all {
		for _, h := range c.Deps {
			if byHash[h] != nil {
				waits[c.Hash]++
				dependants[h] = append(dependants[h], c)
			}
		}
		if waits[c.Hash] == 0 {
			push(c)
		}
	}
	index := crdt.NewIndex(doc)
	others, refused = map[crdt.ChangeHash]lostReason{}, map[crdt.ChangeHash]string{}
	for len(ready) > 0 {
		c := ready[0]
		ready = ready[1:]
		rec, err := c.Record, error(nil)
		if c.change != nil {
			rec, err = index.Judge(c.change)
		}
		why := barred[c.Hash]
		if err == nil && why == 0 {
			err = index.Add(rec)
		}
		switch {
		case why != 0:
			others[c.Hash] = why
		case err == nil:
			c.Record = rec
			stands = append(stands, c)
		case slices.ContainsFunc(c.Deps, func(h crdt.ChangeHash) bool { return !index.Has(h) }):
			others[c.Hash] = lostBase
		case index.NextSeq(c.Actor) > c.Seq:
			others[c.Hash] = lostTwice
		default:
			refused[c.Hash] = reason(err)
		}
		for _, o := range dependants[c.Hash] {
			if waits[o.Hash]--; waits[o.Hash] == 0 {
				push(o)
			}
		}
	}
	return stands, others, refused
}
