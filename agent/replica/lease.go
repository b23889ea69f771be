package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Lease is the right to change what a lock guards, as the holder's client has it.
type Lease interface {
	// Lock is the name of the lock.
	Lock() string
	Token() lockquorum.Token
	// Context ends with the lease.
	Context() context.Context
	// Certified returns the heads of a document that are certified, as far as the holder was told; zeros: none.
	Certified(lockquorum.DocumentID) lockquorum.Heads
}

// Noting is a Lease that is told what is written under it, before that is durable.
type Noting interface {
	Lease
	Wrote(Change)
}

// Change names a change of a document.
type Change struct {
	Scope    trust.ScopeID
	Document crdt.DocumentID
	Hash     crdt.ChangeHash
}

type leaseKey struct{ lock string }

// Under returns a context under which the documents may be written that a lease's lock guards. A context may have several leases.
func Under(ctx context.Context, l Lease) context.Context {
	return context.WithValue(ctx, leaseKey{l.Lock()}, l)
}

// needsLease says that a document is written under a lease alone.
func needsLease(lock string) error {
	return &api.Error{Code: api.CodeLease, Message: "this is protected: one workstation at a time changes it, under a lease of the lock " + lock,
		Hint: "`chartmesh lease run " + lock + " -- …` holds one while a command runs"}
}

// fence returns the token under which a document may be written now, and whether it may: there is a lease, what it was granted on is here, and
// nothing of an earlier lease is pending here.
func (t *transaction) fence(ctx context.Context, d *document) (chunk.Fence, error) {
	l, ok := ctx.Value(leaseKey{d.lock}).(Lease)
	if !ok {
		return chunk.Fence{}, needsLease(d.lock)
	}
	if t.r.quorum == nil {
		return chunk.Fence{}, &api.Error{Code: api.CodeUnavailable, Message: "this device knows of no quorum"}
	}
	lost := &api.Error{Code: api.CodeLease, Message: "the lease of the lock " + d.lock + " is lost", Hint: "take a new one; nothing was written"}
	if l.Context().Err() != nil {
		return chunk.Fence{}, lost
	}
	j := t.judgement(d)
	if j == nil {
		all, err := t.contenders(d)
		if err != nil {
			return chunk.Fence{}, err
		}
		j = t.judgeAll(d, all)
	}
	token := l.Token()
	fence := chunk.Fence{Epoch: token.Epoch, Index: token.Index}
	if j.Ended(token) {
		return chunk.Fence{}, lost
	}
	barrier := barrierPending(d.lock)
	if j.Lacks != nil {
		return chunk.Fence{}, barrier
	}
	if there, err := t.passes(d, l); err != nil {
		return chunk.Fence{}, err
	} else if !there {
		return chunk.Fence{}, barrier
	}
	for _, o := range d.overlay {
		if o.fence != fence {
			return chunk.Fence{}, &api.Error{Code: api.CodeUnavailable,
				Message: "something that was written here under an earlier lease of the lock " + d.lock + " is not decided yet",
				Hint:    "it is when the end of that lease is known here"}
		}
	}
	return fence, nil
}

func barrierPending(lock string) error {
	return &api.Error{Code: api.CodeUnavailable, Message: "what was committed last under the lock " + lock + " has not arrived here yet",
		Hint: "it comes from the device that wrote it; try again when that has been in contact. If that is lost for good, an administrator goes back to what is here: " +
			"`chartmesh lease break " + lock + " --take-back --reason TEXT`"}
}

// passes reports whether what a lease knows to be certified of a document is applied here, by a certificate or as written under it.
func (t *transaction) passes(d *document, l Lease) (bool, error) {
	want := l.Certified(t.r.quorum.Document(d.id))
	if want == (lockquorum.Heads{}) {
		return true, nil
	}
	heads, err := t.resolve(d, want, false)
	if heads == nil || err != nil {
		return false, err
	}
	return !slices.ContainsFunc(heads, func(h certificate.Hash) bool {
		o, overlaid := d.overlay[h]
		return overlaid && tokenOf(o.fence) != l.Token()
	}), nil
}

// resolve finds the heads that a hash stands for: voters know nothing else. Nil: they are not here, or not applied unless kept ones are asked for.
// What a holder commits is what was certified before and the first so many changes of its log under its token.
func (t *transaction) resolve(d *document, want lockquorum.Heads, kept bool) ([]certificate.Hash, error) {
	fits := func(heads []crdt.ChangeHash) []certificate.Hash {
		list := make([]certificate.Hash, len(heads))
		for i, h := range heads {
			list[i] = h
		}
		if len(list) > 0 && len(list) <= certificate.MaxHeads && t.r.quorum.Heads(d.id, list) == want && (kept || d.hasAll(list)) {
			return list
		}
		return nil
	}
	if heads := fits(d.index.Heads()); heads != nil {
		return heads, nil
	}
	for _, c := range d.certificates {
		if c.Heads == want && (kept || d.hasAll(c.Plain)) {
			return c.Plain, nil
		}
	}
	all, err := t.contenders(d)
	if err != nil {
		return nil, err
	}
	byHash, byHolder := map[crdt.ChangeHash]*contender{}, map[holding][]*contender{}
	for _, c := range all {
		byHash[c.Hash] = c
		if c.applied.Fence != (chunk.Fence{}) {
			at := holding{c.applied.Fence, c.applied.Chunk.Log}
			byHolder[at] = append(byHolder[at], c)
		}
	}
	grounds := [][]crdt.ChangeHash{nil, d.index.HeadsOf(d.settled())}
	for _, c := range d.certificates {
		var plain []crdt.ChangeHash
		for _, h := range c.Plain {
			plain = append(plain, h)
		}
		if !slices.ContainsFunc(grounds, func(g []crdt.ChangeHash) bool { return slices.Equal(g, plain) }) {
			grounds = append(grounds, plain)
		}
	}
	slices.Reverse(grounds) // the last ones are the likeliest
	for _, list := range byHolder {
		slices.SortStableFunc(list, func(a, b *contender) int { return cmp.Compare(a.applied.Chunk.Counter, b.applied.Chunk.Counter) })
		for _, ground := range grounds[:min(len(grounds), maxGrounds)] {
			heads := ground
			for _, c := range list[:min(len(list), maxGrounds)] {
				heads = join(byHash, heads, c)
				if found := fits(heads); found != nil {
					return found, nil
				}
			}
		}
	}
	return nil, nil
}

// maxGrounds bounds what is tried to tell what a hash stands for.
const maxGrounds = 256

// holding is what one log wrote under one token.
type holding struct {
	fence chunk.Fence
	log   chunk.LogID
}

// join returns heads with a change that came after them, ascending.
func join(all map[crdt.ChangeHash]*contender, heads []crdt.ChangeHash, c *contender) []crdt.ChangeHash {
	past, queue := map[crdt.ChangeHash]bool{}, slices.Clone(c.Deps)
	for len(queue) > 0 {
		h := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if o := all[h]; !past[h] && o != nil {
			queue = append(queue, o.Deps...)
		}
		past[h] = true
	}
	out := []crdt.ChangeHash{c.Hash}
	for _, h := range heads {
		if !past[h] && h != c.Hash {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b crdt.ChangeHash) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// settled returns the applied changes that are certified.
func (d *document) settled() (list []crdt.ChangeHash) {
	for _, rec := range d.index.Records() {
		if _, overlaid := d.overlay[rec.Hash]; !overlaid {
			list = append(list, rec.Hash)
		}
	}
	return list
}

func (d *document) hasAll(heads []certificate.Hash) bool {
	return !slices.ContainsFunc(heads, func(h certificate.Hash) bool { return !d.index.Has(h) })
}

// Holds reports whether this device has what is certified of a document of a lock, so that its holder may write on top of it.
func (r *Replica) Holds(lock string, document lockquorum.DocumentID, heads lockquorum.Heads) (bool, error) {
	return r.resolves(lock, document, heads, false)
}

// Names reports whether this device can tell what heads of a document of a lock are, and all of them is here, be it that it does not count before a certificate says so.
func (r *Replica) Names(lock string, document lockquorum.DocumentID, heads lockquorum.Heads) (bool, error) {
	return r.resolves(lock, document, heads, true)
}

// resolves reports whether this device can tell what heads are and has all of it: with kept, also what does not count yet.
func (r *Replica) resolves(lock string, document lockquorum.DocumentID, heads lockquorum.Heads, kept bool) (bool, error) {
	if heads == (lockquorum.Heads{}) {
		return true, nil
	}
	r.write.Lock()
	defer r.write.Unlock()
	d, err := r.namedDocument(lock, document)
	if err != nil || d == nil {
		return false, err
	}
	found, err := r.beginPlain().resolve(d, heads, kept)
	return found != nil && !slices.ContainsFunc(found, func(h certificate.Hash) bool { return !d.mayCount(h) }), err
}

// mayCount reports whether a change counts, or is kept for no other reason than that it is not certified.
func (d *document) mayCount(h crdt.ChangeHash) bool {
	l := d.lost[h]
	return d.index.Has(h) || l != nil && (l.why == lostPending || l.why == lostLate)
}

// Await returns when this device has what is certified of a document of a lock.
func (r *Replica) Await(ctx context.Context, lock string, document lockquorum.DocumentID, heads lockquorum.Heads) error {
	for {
		changed := r.Changed()
		if ok, err := r.Holds(lock, document, heads); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// namedDocument returns the document of a lock that voters know by a hash; nil: there is none. The caller holds Replica.write.
func (r *Replica) namedDocument(lock string, name lockquorum.DocumentID) (*document, error) {
	if r.quorum == nil {
		return nil, nil
	}
	for n := range lockDocuments {
		scope, id, err := r.lockDocument(lock, n)
		if err != nil {
			return nil, err
		}
		if r.quorum.Document(id) == name {
			return r.document(scope, id)
		}
	}
	return nil, nil
}

// Proposal is what a holder wrote of a document and has not committed.
type Proposal struct {
	Lock     string
	Scope    trust.ScopeID
	Document crdt.DocumentID
	Token    lockquorum.Token
	// Name and Heads are what the voters are asked to certify.
	Name  lockquorum.DocumentID
	Heads lockquorum.Heads
	// Log and Counter are where the last of it stands: it has to be held elsewhere before it is committed, so that a holder that dies does not
	// stop the next one.
	Log     chunk.LogID
	Counter uint64
}

// Proposals returns what was written here under a lease and is not certified, by document. It is an api.CodeUnavailable where what the lease
// knows to be certified is not applied here any more: what is proposed would not be on top of it.
func (r *Replica) Proposals(l Lease) (list []Proposal, err error) {
	all, err := r.Uncommitted()
	if err != nil {
		return nil, err
	}
	r.write.Lock()
	defer r.write.Unlock()
	for _, p := range all {
		if p.Lock != l.Lock() || p.Token != l.Token() {
			continue
		}
		d, err := r.document(p.Scope, p.Document)
		if err != nil {
			return nil, err
		}
		if there, err := r.beginPlain().passes(d, l); err != nil {
			return nil, err
		} else if !there {
			return nil, barrierPending(p.Lock)
		}
		list = append(list, p)
	}
	return list, nil
}

// Uncommitted returns what was written here under leases and is not certified, by document and lease.
func (r *Replica) Uncommitted() (list []Proposal, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	if r.quorum == nil {
		return nil, nil
	}
	var docs []crdt.DocumentID
	if err := r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Overlay.All(), nil, func(key []byte) error {
			doc, _, err := storage.Overlay.Parse(key)
			if len(docs) == 0 || docs[len(docs)-1] != doc {
				docs = append(docs, doc)
			}
			return err
		})
	}); err != nil {
		return nil, fmt.Errorf("read what is not committed: %w", err)
	}
	for _, id := range docs {
		for _, sc := range r.State().Scopes() {
			if _, ok := LockOf(sc.ID, id); !ok || !bytes.HasPrefix(id[:], sc.ID[:trust.DocumentPrefix]) {
				continue
			}
			d, err := r.document(sc.ID, id)
			if err != nil {
				return nil, err
			}
			tokens := map[lockquorum.Token]bool{}
			for _, o := range d.overlay {
				tokens[tokenOf(o.fence)] = true
			}
			for token := range tokens {
				if p, ok := r.propose(d, token); ok {
					list = append(list, p)
				}
			}
		}
	}
	return list, nil
}

// errReviewing says that documents are looked at again, since the membership log has grown.
var errReviewing = errors.New("documents are still looked at anew")

// Uncounted returns the documents of which something does not count, and the word of a voter that certified them does not any more: it has another role now. Who votes now may
// say the same.
func (r *Replica) Uncounted() (list []Proposal, err error) {
	if r.quorum == nil {
		return nil, nil
	}
	if !r.reviewed() {
		return nil, errReviewing
	}
	st, docs := r.State(), map[crdt.DocumentID]trust.ScopeID{}
	if err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Certificate.All(), nil, func(key, value []byte) error {
			id, _, err := storage.Certificate.Parse(key)
			if err != nil {
				return err
			}
			c, err := parseCertified(value)
			if err == nil && r.quorum.Voted(st, c.Place.Epoch, c.voter) != certificate.Yes {
				docs[id] = c.place.Scope
			}
			return err
		})
	}); err != nil {
		return nil, fmt.Errorf("read what is certified: %w", err)
	}
	if len(docs) == 0 { // whoever votes is believed, as a rule
		return nil, nil
	}
	r.write.Lock()
	defer r.write.Unlock()
	for id, scope := range docs {
		d, err := r.document(scope, id)
		if err != nil {
			return nil, err
		}
		if len(d.lost)+len(d.overlay) > 0 {
			list = append(list, Proposal{Lock: d.lock, Scope: d.scope, Document: id, Name: r.quorum.Document(id)})
		}
	}
	if !r.reviewed() { // the log has grown meanwhile: what does not count by it may not be found out yet
		return nil, errReviewing
	}
	return list, nil
}

// Committed reports whether a change of a protected document counts: somebody certified it. One that was written here and does not is pending, or late.
func (r *Replica) Committed(c Change) (bool, error) {
	r.write.Lock()
	defer r.write.Unlock()
	d, err := r.document(c.Scope, c.Document)
	if err != nil {
		return false, err
	}
	_, overlaid := d.overlay[c.Hash]
	return d.index.Has(c.Hash) && !overlaid, nil
}

func (r *Replica) propose(d *document, token lockquorum.Token) (p Proposal, ok bool) {
	p = Proposal{Lock: d.lock, Scope: d.scope, Document: d.id, Token: token, Name: r.quorum.Document(d.id)}
	set := d.settled()
	for hash, o := range d.overlay {
		if tokenOf(o.fence) != token {
			continue
		}
		ok = true
		set = append(set, hash)
		if at := d.changes[d.byHash[hash]].chunk; at.Log == r.logID(d.scope) {
			p.Log, p.Counter = at.Log, max(p.Counter, at.Counter)
		}
	}
	var heads []certificate.Hash
	for _, h := range d.index.HeadsOf(set) {
		heads = append(heads, h)
	}
	p.Heads = r.quorum.Heads(d.id, heads)
	return p, ok && len(heads) <= certificate.MaxHeads
}

// ErrNotHere says that a voter certifies heads that this device does not hold yet: it cannot say what they are.
var ErrNotHere = errors.New("what is certified is not here yet")

// Certify takes what a voter signed of a document of a lock, and puts it into this device's log for the others, if it tells something. What was written under the
// lease is committed by that, or late. It is ErrNotHere if the heads are not here yet.
func (r *Replica) Certify(ctx context.Context, lock string, document lockquorum.DocumentID, signed certificate.Signed) error {
	if err := r.transact(ctx, func(t *transaction) error {
		d, err := r.namedDocument(lock, document)
		if err != nil {
			return err
		}
		if d == nil {
			return fmt.Errorf("take a certificate: %w: no document of the lock %s has this name", certificate.ErrOther, lock)
		}
		st, err := certificate.Parse(signed.Statement)
		if err != nil {
			return fmt.Errorf("take a certificate: %w", err)
		}
		var heads []certificate.Hash
		if st.Heads != (lockquorum.Heads{}) {
			if heads, err = t.resolve(d, st.Heads, true); err != nil {
				return err
			}
			if heads == nil {
				return fmt.Errorf("take a certificate: %w", ErrNotHere)
			}
		}
		if st, err = signed.Verify(r.quorum, t.subject(d), heads); err != nil {
			return fmt.Errorf("take a certificate: %w", err)
		}
		if r.quorum.Voted(r.State(), st.Place.Epoch, signed.Voter) != certificate.Yes {
			return fmt.Errorf("take a certificate: %w: it is not known that who signed it votes", certificate.ErrOther)
		}
		all, err := t.contenders(d)
		if err != nil || !t.tells(d, all, certificate.Certified{Statement: st, Plain: heads}) {
			return err
		}
		body := &chunk.Certificate{Document: d.id, Statement: signed.Statement, Voter: signed.Voter, Signature: signed.Signature, Heads: heads}
		at, sealed, err := t.seal(d.scope, body)
		if err != nil {
			return err
		}
		place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}
		verdict, err := t.takeCertificate(ctx, place, r.Device(), body, d)
		if err != nil {
			return err
		}
		if verdict != nil {
			t.hold(place, verdict)
		}
		return nil
	}); err != nil {
		return err
	}
	r.write.Lock()
	defer r.write.Unlock()
	return r.removeCertified(ctx)
}

// tells reports whether a certificate says anything that is not known: it changes what is said of a change, or contradicts another.
func (t *transaction) tells(d *document, all []*contender, c certificate.Certified) bool {
	before := t.judgeAll(d, all)
	_, list := t.r.counting(d)
	after := judgeBy(all, append(list, c))
	if !slices.Equal(before.Lacks, after.Lacks) || after.Contradicted[len(list)] {
		return true
	}
	return slices.ContainsFunc(all, func(x *contender) bool {
		token := tokenOf(x.applied.Fence)
		return before.Of(x.Hash, token) != after.Of(x.Hash, token)
	})
}

// uncommitted reports whether what a document shows of a resource has changes that are not certified.
func uncommitted(v storage.Reader, scope trust.ScopeID, doc crdt.DocumentID, key string) (found bool, err error) {
	if _, protected := LockOf(scope, doc); !protected {
		return false, nil
	}
	err = v.Scan(storage.Overlay.With(doc), nil, func(_, value []byte) error {
		o, err := parseOverlay(value)
		if err == nil && slices.Contains(o.keys, key) {
			found = true
			return storage.ErrStop
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read what is not committed: %w", err)
	}
	return found, nil
}

// again is for a resource that stands as it is to be written: what of that is not certified has to be committed now, under the lease under which it was written. Whoever writes something again
// was perhaps told that it is not committed.
func (t *transaction) again(ctx context.Context, j job, key string) error {
	if _, protected := LockOf(j.scope, j.doc); !protected {
		return nil
	}
	d, err := t.r.document(j.scope, j.doc)
	if err != nil {
		return err
	}
	l, noting := ctx.Value(leaseKey{d.lock}).(Noting)
	for hash, o := range d.overlay {
		if !slices.Contains(o.keys, key) {
			continue
		}
		if _, err := t.fence(ctx, d); err != nil {
			return err
		}
		if noting {
			l.Wrote(Change{j.scope, d.id, hash})
		}
	}
	return nil
}

// mayWriteAt reports whether a job may write where it does: an ordinary document, or under a lease.
func (t *transaction) mayWriteAt(ctx context.Context, j job) error {
	if _, protected := LockOf(j.scope, j.doc); !protected {
		return nil
	}
	d, err := t.r.document(j.scope, j.doc)
	if err == nil {
		_, err = t.fence(ctx, d)
	}
	return err
}

// lacksLease names the lock under whose lease alone a job may be done, if there is none; empty: that does not stand against it.
func lacksLease(ctx context.Context, j job) string {
	lock, _ := LockOf(j.scope, j.doc)
	if _, has := ctx.Value(leaseKey{lock}).(Lease); has {
		return ""
	}
	return lock
}
