package replica

import (
	"context"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Of a protected document those changes count that are certified (docs/spec/protected-documents.md). What is pending or late is lost like a
// change whose place is taken (lost.go): kept, with its reason. What this device wrote itself and is pending is applied here alone, as an
// overlay, and left out of the applied set. Whenever fewer changes count than before the document is made anew.

// certified is a certificate that was found good; whether its voter is one is asked each time.
type certified struct {
	place  storage.Ref    // of its chunk
	device trust.DeviceID // that put it there
	raw    []byte         // the statement
	voter  trust.DeviceID
	certificate.Certified
}

func (c *certified) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	putPlace(&w, c.place)
	w.Raw(c.device[:])
	w.Blob(c.raw)
	w.Raw(c.voter[:])
	hashes := make([]crdt.ChangeHash, len(c.Plain))
	for i, h := range c.Plain {
		hashes[i] = h
	}
	putHashes(&w, hashes)
	return w.Bytes()
}

func parseCertified(b []byte) (*certified, error) {
	c := new(certified)
	r := open(b)
	c.place = readPlace(r)
	r.Fixed(c.device[:])
	c.raw = slices.Clone(r.Blob(certificate.MaxStatement))
	r.Fixed(c.voter[:])
	for _, h := range getHashes(r) {
		c.Plain = append(c.Plain, h)
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	var err error
	c.Statement, err = certificate.Parse(c.raw)
	return c, err
}

func putPlace(w *wire.Writer, p storage.Ref) {
	w.Raw(p.Scope[:])
	w.Raw(p.Log[:])
	w.Uvarint(p.Counter)
	w.Raw(p.ID[:])
}

func readPlace(r *wire.Reader) (p storage.Ref) {
	r.Fixed(p.Scope[:])
	r.Fixed(p.Log[:])
	p.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(p.ID[:])
	return p
}

func readFence(r *wire.Reader) (f chunk.Fence) {
	f.Epoch = r.Uvarint(1<<63 - 1)
	f.Index = r.Uvarint(1<<63 - 1)
	return f
}

// overlay is a pending change of this device that is shown here.
type overlay struct {
	fence chunk.Fence
	keys  []string
}

func (o overlay) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(o.fence.Epoch)
	w.Uvarint(o.fence.Index)
	w.Uvarint(uint64(len(o.keys)))
	for _, k := range o.keys {
		w.String(k)
	}
	return w.Bytes()
}

func parseOverlay(b []byte) (o overlay, err error) {
	r := open(b)
	o.fence = readFence(r)
	n := r.Uvarint(crdt.MaxChangeOps)
	if n > uint64(r.Len()) {
		r.Fail("keys")
		n = 0
	}
	for range n {
		o.keys = append(o.keys, r.String(maxText))
	}
	return o, r.Close()
}

// loadProtected reads what is kept of a protected document beside its changes.
func (d *document) loadProtected(v storage.Reader) error {
	if d.lock == "" {
		return nil
	}
	err := v.Scan(storage.Overlay.With(d.id), nil, func(key, value []byte) error {
		_, hash, err := storage.Overlay.Parse(key)
		if err != nil {
			return err
		}
		d.overlay[hash], err = parseOverlay(value)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.loadDrafts(v); err != nil {
		return err
	}
	return v.Scan(storage.Certificate.With(d.id), nil, func(_, value []byte) error {
		c, err := parseCertified(value)
		if err == nil {
			d.certificates = append(d.certificates, c)
		}
		return err
	})
}

// takeCertificate notes what a voter certifies of a document, and has the document follow it. A verdict that is not nil says why it does not count.
func (t *transaction) takeCertificate(ctx context.Context, place storage.Ref, by trust.DeviceID, body *chunk.Certificate, d *document) (*held, error) {
	if !slices.ContainsFunc(d.certificates, func(c *certified) bool { return c.place == place }) {
		c, verdict := t.verified(d, body)
		if verdict != nil {
			return verdict, nil
		}
		c.place, c.device = place, by
		t.docs[d.id] = d
		d.certificates, d.judged = append(d.certificates, c), nil
		t.batch.Put(storage.Certificate.Key(d.id, place.ID), c.marshal())
	}
	all, err := t.contenders(d)
	if err != nil {
		return nil, err
	}
	if _, err := t.reconsider(ctx, d, all, place); err != nil {
		return nil, err
	}
	return t.heldCertificate(d, place), nil
}

func (t *transaction) subject(d *document) certificate.Subject {
	return certificate.Subject{Practice: t.r.State().Practice(), Lock: d.lock, Document: d.id}
}

// counting returns the certificates of a document whose voters were voters.
func (r *Replica) counting(d *document) (in []*certified, list []certificate.Certified) {
	st := r.State()
	for _, c := range d.certificates {
		if r.quorum != nil && r.quorum.Voted(st, c.Place.Epoch, c.voter) == certificate.Yes {
			in, list = append(in, c), append(list, c.Certified)
		}
	}
	return in, list
}

// judgeAll judges all changes of a document that are held.
func (t *transaction) judgeAll(d *document, all []*contender) *certificate.Judgement {
	_, list := t.r.counting(d)
	d.judged, d.judgedAt = judgeBy(all, list), t.r.State().HeadsHash()
	return d.judged
}

func judgeBy(all []*contender, list []certificate.Certified) *certificate.Judgement {
	byHash := make(map[crdt.ChangeHash]*contender, len(all))
	for _, c := range all {
		byHash[c.Hash] = c
	}
	return certificate.Judge(func(h certificate.Hash) (deps []certificate.Hash, held bool) {
		c := byHash[h]
		if c == nil {
			return nil, false
		}
		for _, dep := range c.Deps {
			deps = append(deps, dep)
		}
		return deps, true
	}, list)
}

// judgement returns the last judgement of a document if it still holds: nil if it is to be made.
func (t *transaction) judgement(d *document) *certificate.Judgement {
	if d.judged == nil || d.judgedAt != t.r.State().HeadsHash() {
		return nil
	}
	return d.judged
}

func tokenOf(f chunk.Fence) lockquorum.Token { return lockquorum.Token{Epoch: f.Epoch, Index: f.Index} }

// uncertified returns why changes do not count that are not certified. Pending ones of this device are its overlay.
func (t *transaction) uncertified(d *document, all []*contender) map[crdt.ChangeHash]lostReason {
	j := t.judgeAll(d, all)
	out := map[crdt.ChangeHash]lostReason{}
	for _, c := range all {
		c.applied.overlay = false
		switch j.Of(c.Hash, tokenOf(c.applied.Fence)) {
		case certificate.Pending:
			if c.applied.overlay = c.device == t.r.Device(); !c.applied.overlay {
				out[c.Hash] = lostPending
			}
		case certificate.Late:
			out[c.Hash] = lostLate
		}
	}
	return out
}

// applyProtected judges a chunk of a protected document: what it brings is certified and applied, or kept.
func (t *transaction) applyProtected(ctx context.Context, at logs.Ref, place storage.Ref, sealed chunk.Sealed, body *chunk.Changes, d *document) (*held, error) {
	ops := 0
	newest, in := map[byte]*crdt.Change{}, map[crdt.ChangeHash]bool{}
	var wanted, refenced []crdt.ChangeHash
	for _, ch := range body.Changes {
		c, err := crdt.Decode(ch.Raw)
		if err != nil {
			return quarantine(reason(err)), nil
		}
		if ops += len(c.Ops); ops > maxChunkOps {
			return quarantine("it claims too many operations"), nil
		}
		if c.Actor != crdt.Actor(chunk.ActorOf(at.Log, d.id, ch.Branch)) {
			return quarantine("its actor is not its author's"), nil
		}
		newest[ch.Branch] = c
		for _, h := range c.Deps {
			if !d.holds(h) && !in[h] {
				return park("a change that it builds on has not arrived", missing{Kind: missingChange, What: h}), nil
			}
		}
		if in[c.Hash] = true; !d.index.Has(c.Hash) {
			wanted = append(wanted, c.Hash)
		} else if _, overlaid := d.overlay[c.Hash]; !overlaid && tokenOf(d.changes[d.byHash[c.Hash]].fence).Compare(tokenOf(sealed.Header().Fence)) < 0 {
			refenced = append(refenced, c.Hash)
		}
	}
	for _, a := range body.Authorship {
		if c := newest[a.Branch]; c == nil || c.Seq != a.Seq || c.Hash != a.Newest {
			return quarantine("its authorship names another change"), nil
		}
	}
	if len(refenced) > 0 {
		if err := t.refence(d, refenced, sealed.Header().Fence); err != nil {
			return nil, err
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	if j := t.judgement(d); j != nil && !slices.ContainsFunc(wanted, func(h crdt.ChangeHash) bool { return d.lost[h] != nil || j.Wants(h) || j.Accepted(h) }) {
		// Of what others are nothing changes.
		switch j.Of(wanted[0], tokenOf(sealed.Header().Fence)) {
		case certificate.Late:
			return t.lose(d, place, sealed, body, lostLate)
		case certificate.Pending:
			if sealed.Header().Device != t.r.Device() {
				return t.lose(d, place, sealed, body, lostPending)
			}
		}
	}
	return t.contest(ctx, d, place, sealed, body, crdt.ChangeHash{})
}

// applyProtectedPack judges the changes in a checkpoint of a protected document.
func (t *transaction) applyProtectedPack(ctx context.Context, at logs.Ref, place storage.Ref, sealed chunk.Sealed, body *chunk.Checkpoint, d *document) (*held, error) {
	type actor struct {
		log    int
		branch byte
	}
	ops := 0
	newest, in := map[actor]*crdt.Change{}, map[crdt.ChangeHash]bool{}
	for _, p := range body.Parts {
		if p.Schema > fhir.Schema {
			return newer(), nil
		}
		for _, ch := range p.Changes {
			c, err := crdt.Decode(ch.Raw)
			if err != nil {
				return quarantine(reason(err)), nil
			}
			if ops += len(c.Ops); ops > maxCheckpointOps {
				return quarantine("it claims too many operations"), nil
			}
			if c.Actor != crdt.Actor(chunk.ActorOf(body.Logs[p.Log].ID(), d.id, ch.Branch)) {
				return quarantine("an actor in it is not its author's"), nil
			}
			newest[actor{p.Log, ch.Branch}] = c
			for _, h := range c.Deps {
				if !d.holds(h) && !in[h] {
					return quarantine("it lacks a change that another in it builds on"), nil
				}
			}
			in[c.Hash] = true
		}
	}
	for _, a := range body.Authorship {
		if c := newest[actor{a.Log, a.Branch}]; c == nil || c.Seq != a.Seq || c.Hash != a.Newest {
			return quarantine("an authorship in it names another change"), nil
		}
	}
	if verdict, err := t.takePacked(d, body); verdict != nil || err != nil {
		return verdict, err
	}
	verdict, err := t.contest(ctx, d, place, sealed, body, crdt.ChangeHash{})
	if verdict != nil || err != nil {
		return verdict, err
	}
	return nil, t.noteCheckpoint(at, sealed, d)
}

// holds reports whether a change is here, applied or kept.
func (d *document) holds(h crdt.ChangeHash) bool { return d.index.Has(h) || d.lost[h] != nil }

// heldCertificate says why a certificate does not count, after the document was judged; nil if it does.
func (t *transaction) heldCertificate(d *document, place storage.Ref) *held {
	in, _ := t.r.counting(d)
	for i, c := range in {
		if c.place == place {
			if d.judged.Contradicted[i] {
				return t.aboutCertificate(d, c, quarantine("another voter's word says otherwise, and neither counts: one of them lied"))
			}
			return nil
		}
	}
	for _, c := range d.certificates {
		if c.place != place {
			continue
		}
		if t.r.quorum != nil && t.r.quorum.Voted(t.r.State(), c.Place.Epoch, c.voter) == certificate.No {
			return t.aboutCertificate(d, c, quarantine("who signed it was no voter"))
		}
		return t.aboutCertificate(d, c, park("whether who signed it was a voter is not known yet", missing{Kind: missingAuthor}))
	}
	return nil
}

func (t *transaction) aboutCertificate(d *document, c *certified, h *held) *held {
	h.Device, h.Kind, h.Document = c.device, chunk.KindCertificate, d.id
	return h
}

// holdCertificates brings up to date why certificates are held; of the one at judged the caller does.
func (t *transaction) holdCertificates(d *document, judged storage.Ref) error {
	for _, c := range d.certificates {
		if c.packed() || c.place == judged {
			continue
		}
		h := t.heldCertificate(d, c.place)
		was, err := t.heldAt(c.place)
		if err != nil {
			return err
		}
		if was == nil && h == nil || was != nil && h != nil && was.Reason == h.Reason && was.Missing == h.Missing {
			continue
		}
		if err := t.release(c.place); err != nil {
			return err
		}
		if h != nil {
			t.hold(c.place, h)
		}
	}
	return nil
}

// putOverlay notes that a change of this device is shown here and not certified.
func (t *transaction) putOverlay(d *document, hash crdt.ChangeHash, fence chunk.Fence, keys []string) {
	d.overlay[hash] = overlay{fence, keys}
	t.batch.Put(storage.Overlay.Key(d.id, hash), d.overlay[hash].marshal())
}

func (t *transaction) dropOverlay(d *document, hash crdt.ChangeHash) {
	delete(d.overlay, hash)
	t.batch.Delete(storage.Overlay.Key(d.id, hash))
}

// settleOverlay has the overlay, and the applied set, follow what was judged of the changes that stand.
func (t *transaction) settleOverlay(d *document, stands []*contender) {
	set := t.sets[d.scope]
	in := map[crdt.ChangeHash]bool{}
	for _, c := range stands {
		in[c.Hash] = true
		_, was := d.overlay[c.Hash]
		switch {
		case was && !c.applied.overlay:
			t.dropOverlay(d, c.Hash)
			set.Add(c.Hash)
			for _, key := range c.Keys {
				t.events = append(t.events, Event{Kind: "resource-committed", Resource: key, Local: true})
			}
		case !was && c.applied.overlay:
			t.putOverlay(d, c.Hash, c.applied.Fence, c.Keys)
			set.Remove(c.Hash)
		}
	}
	for hash := range d.overlay {
		if !in[hash] {
			t.dropOverlay(d, hash)
		}
	}
	t.sets[d.scope] = set
	t.docs[d.id] = d
	if len(d.certifiedDrafts()) > 0 {
		t.r.drafts[d.id] = d.scope
	}
}

// extend applies more changes to a document than stood before, none of which takes another's place.
func (t *transaction) extend(ctx context.Context, d *document, added []*contender) error {
	r := t.r
	t.docs[d.id] = d
	raws := make([][]byte, len(added))
	for i, c := range added {
		raws[i] = c.raw
	}
	var st crdt.State
	if err := r.engineCall(ctx, d, func() (err error) {
		st, err = r.engine.Apply(ctx, d.id, raws)
		return err
	}); err != nil {
		return fmt.Errorf("apply certified changes: %w", err)
	}
	records := make([]crdt.Record, len(added))
	for i, c := range added {
		a := c.applied
		a.Record = c.Record
		records[i] = c.Record
		if err := t.record(d, a, c.raw); err != nil {
			return err
		}
	}
	if err := d.agrees(st); err != nil {
		return err
	}
	_, err := t.refresh(ctx, d, records, false)
	return err
}

// certifiedDocuments adds the documents of which something is certified.
func certifiedDocuments(v storage.Reader, docs map[crdt.DocumentID]trust.ScopeID) error {
	return v.Scan(storage.Certificate.All(), nil, func(key, value []byte) error {
		doc, _, err := storage.Certificate.Parse(key)
		if err != nil || docs[doc] != (trust.ScopeID{}) {
			return err
		}
		c, err := parseCertified(value)
		if err == nil {
			docs[doc] = c.place.Scope
		}
		return err
	})
}

// renew has a change that is held already be judged by the greatest token under which it came, whatever came first. A checkpoint tells none.
func (d *document) renew(all []*contender, one *contender) {
	i := slices.IndexFunc(all, func(o *contender) bool { return o.Hash == one.Hash })
	if d.lost[one.Hash] != nil && tokenOf(all[i].applied.Fence).Compare(tokenOf(one.applied.Fence)) < 0 {
		all[i] = one
	}
}

// refence notes a greater token than applied changes first came under.
func (t *transaction) refence(d *document, changes []crdt.ChangeHash, fence chunk.Fence) error {
	all, err := t.contenders(d)
	if err != nil {
		return err
	}
	for _, c := range all {
		if i, ok := d.byHash[c.Hash]; ok && slices.Contains(changes, c.Hash) {
			a := c.applied
			a.Record, a.Fence = c.Record, fence
			d.changes[i].fence = fence
			t.docs[d.id] = d
			t.batch.Put(storage.Change.Key(d.id, uint64(i)), a.marshal())
		}
	}
	return nil
}

// lateActors returns the actors of this device whose changes of a protected document are kept aside: the same written again under one of them
// would be the same change.
func (t *transaction) lateActors(d *document) (map[crdt.Actor]bool, error) {
	late := map[crdt.Actor]bool{}
	for hash, l := range d.lost {
		if d.lock == "" || l.device != t.r.Device() {
			continue
		}
		c, err := t.lostContender(hash, l)
		if err != nil {
			return nil, fmt.Errorf("read a change that does not stand: %w", err)
		}
		late[c.Actor] = true
	}
	return late, nil
}
