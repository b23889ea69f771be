package replica

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

var _ session.Bookkeeper = (*Replica)(nil)

// Hello describes this replica to a peer: of each scope that both belong to, what is durable and what is applied.
func (r *Replica) Hello(peer trust.DeviceID) session.Local {
	st := r.State()
	l := session.Local{Practice: st.Practice(), Heads: st.Heads()}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range st.Scopes() {
		if st.MayHold(peer, s.ID) && st.MayRead(r.Device(), s.ID) {
			l.Scopes = append(l.Scopes, session.ScopeDigest{Scope: s.ID, Digest: r.digestLocked(s.ID)})
		}
	}
	return l
}

func (r *Replica) digestLocked(scope trust.ScopeID) session.Digest {
	set := r.mu.sets[scope]
	return session.Digest{
		VectorHash: r.mu.HashLocked(scope), Applied: set.Sum(), AtEnd: r.atEndLocked(scope),
	}
}

// atEndLocked reports whether every durable chunk of a scope has been applied or held, nothing held has its turn,
// and this device has nothing to write anew.
func (r *Replica) atEndLocked(scope trust.ScopeID) bool {
	if len(r.mu.woken)+len(r.mu.Turns) > 0 || r.mu.unsaid || !r.reviewed() {
		return false
	}
	for log, p := range r.mu.Vectors[scope] {
		if r.mu.applied[scope][log].Counter < p.Counter {
			return false
		}
	}
	return true
}

// AtEnd reports whether everything durable is applied or held, as Status does that counts all else, too.
func (r *Replica) AtEnd() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allAtEndLocked()
}

func (r *Replica) allAtEndLocked() bool {
	for scope := range r.mu.Vectors {
		if !r.atEndLocked(scope) {
			return false
		}
	}
	return true
}

// Vector returns a copy of what is durable of a scope.
func (r *Replica) Vector(scope trust.ScopeID) chunk.Vector { return r.logs.Vector(scope) }

// Stood returns where the first history of a log stood at a counter; the zero Position if that is not held, or does not read.
func (r *Replica) Stood(scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	return r.logs.Stood(scope, log, counter)
}

// Forks names the histories of each log of a scope that has several: equal trees have equal names.
func (r *Replica) Forks(scope trust.ScopeID) map[chunk.LogID][32]byte { return r.logs.Forks(scope) }

// Locators describes what is held of a log, so that a peer finds where its own histories leave it.
func (r *Replica) Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	return r.logs.Locators(scope, log)
}

// Chunks returns what a log holds durably from after+1 on, at least one item if there is one. What does not read ends the list; where it
// comes first, the vector claims it no longer.
func (r *Replica) Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) ([]session.Item, error) {
	out, err := r.logs.Chunks(scope, log, after, maxBytes)
	return out, r.takeBackRead(err)
}

// Beyond returns what is held of a log, of all its histories, that is neither at the given positions nor below one of them, as Chunks
// does.
func (r *Replica) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) ([]session.Item, error) {
	out, err := r.logs.Beyond(scope, log, has, maxBytes)
	return out, r.takeBackRead(err)
}

// takeBackRead takes back what an error of a read says about a chunk, if it says that, and returns the error.
func (r *Replica) takeBackRead(err error) error {
	if !logs.IsUnreadable(err) {
		return err
	}
	r.write.Lock()
	defer r.write.Unlock()
	return errors.Join(err, r.takeBackBy(context.Background(), err))
}

// EntriesSince returns the membership entries that are not known from heads, parents first.
func (r *Replica) EntriesSince(heads []trust.EntryID) [][]byte {
	var out [][]byte
	for _, e := range r.State().Since(heads) {
		out = append(out, e.Bytes())
	}
	return out
}

// AddEntries takes membership entries of a peer: each is judged on top of those before it, and they become part of the
// state once they are durable.
func (r *Replica) AddEntries(ctx context.Context, from trust.DeviceID, entries [][]byte) error {
	list, err := logs.ParseEntries(from, entries)
	if err != nil {
		return err
	}
	r.membership.Lock()
	defer r.membership.Unlock()
	st, errs := r.State().WithAll(list)
	if err := r.adoptEntries(ctx, from, st, list, errs); !errors.Is(err, storage.ErrNoRoom) {
		return err
	}
	return nil // left out: the next HELLO asks again
}

// Former reports whether a device belonged, and was removed.
func (r *Replica) Former(device trust.DeviceID) bool { return r.State().Former(device) }

// Readmit takes the membership entries that a device brings which does not belong, as far as is known here, if with them it does, and
// reports whether it belongs now. Otherwise none is taken.
func (r *Replica) Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error) {
	list, err := logs.ParseEntries(from, entries)
	if err != nil {
		return false, err
	}
	r.membership.Lock()
	defer r.membership.Unlock()
	st, list, errs, err := logs.WithBrought(r.State(), from, list)
	if st == nil {
		return false, err
	}
	return true, r.adoptEntries(ctx, from, st, list, errs)
}

// adoptEntries makes those entries durable that trust.State.WithAll took, and lets the state follow. The caller holds Replica.membership.
func (r *Replica) adoptEntries(ctx context.Context, from trust.DeviceID, st *trust.State, list []trust.Entry, errs []error) error {
	var batch storage.Batch
	logs.PutEntries(&batch, from, list, errs, r.log)
	if batch.Len() == 0 {
		return nil
	}
	return r.adoptState(ctx, &batch, st)
}

// adoptState makes membership entries durable and lets the state follow. The caller holds Replica.membership.
func (r *Replica) adoptState(ctx context.Context, batch *storage.Batch, st *trust.State) error {
	if err := r.store.Commit(ctx, batch); err != nil {
		return fmt.Errorf("commit membership entries: %w", err)
	}
	r.learn(st)
	r.mu.Lock()
	for _, s := range st.Scopes() {
		r.addScopeLocked(s.ID)
	}
	r.mu.Unlock()
	r.recut.Add(1) // before, so that nobody says of the new membership that all is followed, and after, so that it is looked at
	r.state.Store(st)
	r.recut.Add(1)
	// What was taken in meanwhile was judged by the state before.
	r.write.Lock()
	said := r.takeSaid(st)
	r.write.Unlock()
	err := errors.Join(said, r.wakeAll(missingEpoch), r.wakeAll(missingAuthor))
	r.notify() // last, so that the applier finds what was woken
	return err
}

// wakeAll queues every chunk that waits for a kind of thing.
func (r *Replica) wakeAll(kind byte) error {
	r.write.Lock()
	defer r.write.Unlock()
	var woken []storage.Ref
	err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Parked.With(kind), nil, func(key, _ []byte) error {
			_, _, at, err := storage.Parked.Parse(key)
			woken = append(woken, at)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("wake parked chunks: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.woken = append(r.mu.woken, woken...)
	return nil
}

// Enter adds membership entries that this device makes, all or none. Each is to be made on top of those before it.
func (r *Replica) Enter(ctx context.Context, make func(*trust.State) ([]trust.Entry, error)) error {
	r.membership.Lock()
	defer r.membership.Unlock()
	st := r.State()
	entries, err := make(st)
	if err != nil || len(entries) == 0 {
		return err
	}
	var batch storage.Batch
	for _, e := range entries {
		if st, err = st.With(e); err != nil {
			return fmt.Errorf("enter into the membership log: %w", err)
		}
		batch.Put(storage.Member.Key(e.ID()), e.Bytes())
	}
	return r.adoptState(ctx, &batch, st)
}

// Admit adds a device by an entry that this device signs, and returns the whole membership log for the newcomer.
func (r *Replica) Admit(ctx context.Context, sign func(*trust.State) (trust.Entry, error)) ([][]byte, error) {
	err := r.Enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		e, err := sign(st)
		return []trust.Entry{e}, err
	})
	if err != nil {
		return nil, err
	}
	return r.EntriesSince(nil), nil
}

// SignAck signs a statement of what this device holds.
func (r *Replica) SignAck(message []byte) []byte { return r.keys.Sign(trust.ContextAck, message) }

// VerifyAck checks another device's statement.
func (r *Replica) VerifyAck(device trust.DeviceID, message, signature []byte) bool {
	return trust.VerifySignature(device, trust.ContextAck, message, signature)
}

// Status counts what there is.
type Status struct {
	Documents, Resources, Conflicts, Parked, Quarantined, Unapplied int
	Own                                                             int  // chunks of this device's logs
	NotElsewhere                                                    int  // of them, those that no other device has acknowledged, nor an anchor
	AtAnchor                                                        int  // of them, those that only anchors have acknowledged
	AtEnd                                                           bool // everything durable is applied or held
}

// Status returns the counts as of the last commit.
func (r *Replica) Status() Status {
	r.catchUp()
	st, among := r.State(), r.forksNow()
	others := r.othersOf(st)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.mu.counts
	s := Status{
		Documents: int(c.Documents), Resources: int(c.Resources), Conflicts: int(c.Conflicts), Parked: int(c.Parked),
		Quarantined: int(c.Quarantined), Unapplied: int(c.Unapplied), AtEnd: r.allAtEndLocked(),
	}
	for scope := range r.mu.Vectors {
		for _, l := range r.mu.own {
			own, alone, anchored := r.ownLocked(st, others, logs.Name{Scope: scope, Log: l.ID}, among)
			s.Own, s.NotElsewhere, s.AtAnchor = s.Own+int(own), s.NotElsewhere+int(alone), s.AtAnchor+int(anchored)
		}
	}
	return s
}

// Held lists at most limit chunks that are stored but not applied, with the reason; without those that were discarded.
func (r *Replica) Held(limit int) ([]HeldChunk, error) {
	var out []HeldChunk
	err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil {
				return err
			}
			h, err := parseHeld(value)
			if err != nil {
				return err
			}
			if h.State == Discarded {
				return nil
			}
			if len(out) == limit {
				return storage.ErrStop
			}
			out = append(out, HeldChunk{Chunk: at.ID, State: h.State, Reason: h.Reason, Device: h.Device})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list held chunks: %w", err)
	}
	return out, nil
}

// HeldChunk is a chunk that is stored but not part of its document.
type HeldChunk struct {
	Chunk  chunk.ID
	State  HeldState
	Reason string
	Device trust.DeviceID
}

// Small reads and writes a value that belongs to the agent and not to the records: invites, peers' addresses.
func (r *Replica) Small(key []byte) (value []byte, err error) {
	err = r.store.View(func(v storage.Reader) error {
		value, err = v.Get(key)
		return storage.IgnoreNotFound(err)
	})
	return value, err
}

// PutSmall is Small's counterpart; it is durable when it returns.
func (r *Replica) PutSmall(ctx context.Context, key, value []byte) error {
	var b storage.Batch
	b.Put(key, value)
	return r.store.Commit(ctx, &b)
}

// names returns a device's and its site's names, as the membership log has them.
func (r *Replica) names(device trust.DeviceID) (name, site string) {
	m, ok := r.State().Member(device)
	if !ok {
		return device.String(), ""
	}
	return r.keys.Names(r.State(), m.Device)
}
