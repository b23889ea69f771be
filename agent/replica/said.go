package replica

import (
	"context"
	"fmt"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// What other devices hold, by their own word: an ACK, a VECTOR, or a HELLO that says that they hold exactly what this device
// does. Each statement is compared with the histories that are held here, since another history of a log holds nothing of this one.

// statement is what a device has said of a scope.
type statement struct {
	logs     map[chunk.LogID]*stated
	stored   time.Time // when it last said what it holds; by this device's clock, as the others
	readable time.Time // when it last said that it has applied all that was held here
	lost     Lost
	dirty    bool // not yet stored

	// told is the last digest that it told, and toldAt when. They are not stored: what follows is, once this device holds the same.
	told   session.Digest
	toldAt time.Time
}

// stated is what a device has said of a log.
type stated struct {
	at       chunk.Position // how far it holds the log, in a history that is or was held here
	had      uint64         // how far it had said to hold it, if that was farther
	readable uint64         // how far it had applied it
	// tree names the histories of a log with several that it holds all of, as [logs.Set.Forks] does, and applied says that it had
	// applied them.
	tree    [32]byte
	applied bool
	// said is how far it says to hold the log, where that is not held here and cannot be compared. It is not stored.
	said  chunk.Position
	dirty bool
}

// Lost says that a device held less at the beginning of a session than it had confirmed before: it was put back, or lost data.
type Lost struct {
	Seen      time.Time // when that was seen; zero: never
	Confirmed time.Time // what it had confirmed last before that
	Again     time.Time // when it had confirmed as much again; zero: not yet
}

// Open reports whether the device does not hold as much again.
func (l Lost) Open() bool { return !l.Seen.IsZero() && l.Again.IsZero() }

// statedVersion begins an acknowledgement. Version 1 ends after the position.
const statedVersion = 2

func (a *stated) marshal() []byte {
	var w wire.Writer
	w.Byte(statedVersion)
	w.Uvarint(a.at.Counter)
	w.Raw(a.at.Tip[:])
	w.Uvarint(a.had)
	w.Uvarint(a.readable)
	w.Bool(a.applied)
	w.Raw(a.tree[:])
	return w.Bytes()
}

func parseStated(b []byte) (*stated, error) {
	a := new(stated)
	if len(b) > 0 && b[0] != statedVersion {
		var err error
		a.at, err = logs.ParsePosition(b)
		return a, err
	}
	r := wire.NewReader(b)
	r.Byte()
	a.at.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(a.at.Tip[:])
	a.had = r.Uvarint(1<<64 - 1)
	a.readable = r.Uvarint(1<<64 - 1)
	a.applied = r.Bool()
	r.Fixed(a.tree[:])
	return a, r.Close()
}

func (s *statement) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	for _, t := range s.times() {
		w.Varint(t.UnixMilli())
	}
	return w.Bytes()
}

func (s *statement) times() []*time.Time {
	return []*time.Time{&s.stored, &s.readable, &s.lost.Seen, &s.lost.Confirmed, &s.lost.Again}
}

func parseStatement(b []byte) (*statement, error) {
	s := newStatement()
	r := open(b)
	for _, t := range s.times() {
		if ms := r.Varint(); ms != (time.Time{}).UnixMilli() { // that is how never is written
			*t = time.UnixMilli(ms).UTC()
		}
	}
	return s, r.Close()
}

func newStatement() *statement { return &statement{logs: map[chunk.LogID]*stated{}} }

// log returns what is known of a log, made if need be.
func (s *statement) log(id chunk.LogID) *stated {
	a := s.logs[id]
	if a == nil {
		a = new(stated)
		s.logs[id] = a
	}
	return a
}

// raise notes that a device holds a log up to p.
func (a *stated) raise(p chunk.Position) {
	if p.Counter > a.at.Counter {
		a.at, a.dirty = p, true
	}
	if a.had != 0 && a.at.Counter >= a.had {
		a.had, a.dirty = 0, true
	}
	if a.said.Counter <= a.at.Counter {
		a.said = chunk.Position{}
	}
}

// lower notes that a device holds a log no farther than p.
func (a *stated) lower(p chunk.Position) {
	a.had, a.dirty = max(a.had, a.at.Counter), true
	a.at, a.said = p, chunk.Position{}
	a.readable, a.tree, a.applied = min(a.readable, p.Counter), [32]byte{}, false
}

// Acked remembers what a peer holds. It is stored with the next FlushAcks: to forget an acknowledgement in a crash only
// makes this device say less than it could. That a peer has lost something is stored at once.
//
// Logs that are not held here are left out, so that a peer cannot fill this device with what it makes up.
func (r *Replica) Acked(ctx context.Context, from trust.DeviceID, ack session.Ack) error {
	if err := r.heed(from, ack); err != nil {
		return err
	}
	stands, beyond, err := r.compare(from, ack)
	if err != nil {
		return err
	}
	trees := r.logs.Forks(ack.Scope)
	anchor := r.State().IsAnchor(from)
	if lost := r.heard(from, ack, stands, beyond, trees, anchor); lost > 0 {
		r.log.Warn("a device holds less than it had confirmed: it was put back, or lost data; it is filled again", "device", from, "chunks", lost)
		// At once: a crash must not bring back a copy that is not there.
		if err := r.FlushAcks(ctx); err != nil {
			r.log.Warn("that a device lost data was not stored yet", "device", from, "error", err)
		}
	}
	return nil
}

// Dropped takes back what an anchor had confirmed that lets the practice go. It takes back nothing that others confirmed, and of a device,
// which gives up nothing, it is not believed.
func (r *Replica) Dropped(ctx context.Context, from trust.DeviceID) error {
	if !r.State().IsAnchor(from) {
		return nil
	}
	r.mu.Lock()
	for _, s := range r.mu.acked[from] {
		s.forsake(r.now())
	}
	r.mu.Unlock()
	r.log.Warn("an anchor holds nothing of the practice any more: it was dropped there", "anchor", from)
	if err := r.FlushAcks(ctx); err != nil { // as a loss, see Acked
		r.log.Warn("that an anchor dropped the practice was not stored yet", "anchor", from, "error", err)
	}
	return nil
}

// heard notes what a device says, and returns how many chunks it has lost.
func (r *Replica) heard(
	from trust.DeviceID, ack session.Ack, stands, beyond chunk.Vector, trees map[chunk.LogID][32]byte, anchor bool,
) (lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.Vectors[ack.Scope]) == 0 {
		return 0
	}
	s := r.statementLocked(from, ack.Scope)
	if ack.First {
		lost = s.takeBack(ack.Stored, stands, r.now())
		if ack.Digest.VectorHash != r.mu.HashLocked(ack.Scope) {
			s.doubt()
		}
	}
	for log, p := range stands {
		s.log(log).raise(p)
	}
	for log, p := range beyond {
		s.log(log).said = p
	}
	s.stored, s.dirty = r.now(), true
	if ack.Digest != (session.Digest{}) {
		s.told, s.toldAt = ack.Digest, s.stored
	}
	if s.told.VectorHash == r.mu.HashLocked(ack.Scope) {
		r.agreeLocked(ack.Scope, s, trees, anchor)
	}
	if s.lost.Open() && !s.lacks() {
		s.lost.Again = s.stored
		r.log.Info("a device holds again what it had confirmed before", "device", from)
	}
	return lost
}

// agreeLocked follows that a device holds exactly what is held here.
func (r *Replica) agreeLocked(scope trust.ScopeID, s *statement, trees map[chunk.LogID][32]byte, anchor bool) {
	held := r.mu.Vectors[scope]
	if len(r.mu.Forks[scope]) > 0 {
		held = r.mu.VectorLocked(scope)
	}
	for log, p := range held {
		s.log(log).raise(p)
	}
	for log, tree := range trees {
		if a := s.log(log); a.tree != tree {
			a.tree, a.applied, a.dirty = tree, false, true
		}
	}
	set := r.mu.sets[scope]
	if anchor || !s.told.AtEnd || s.told.Applied != set.Sum() || !r.atEndLocked(scope) {
		return
	}
	for log, p := range r.mu.Vectors[scope] {
		a := s.log(log)
		tree, several := trees[log]
		if applied := several && a.tree == tree; a.readable != p.Counter || a.applied != applied {
			a.readable, a.applied, a.dirty = p.Counter, applied, true
		}
	}
	s.readable, s.dirty = s.toldAt, true
	s.told = session.Digest{} // all of it is followed
}

func (r *Replica) statementLocked(from trust.DeviceID, scope trust.ScopeID) *statement {
	if r.mu.acked[from] == nil {
		r.mu.acked[from] = map[trust.ScopeID]*statement{}
	}
	s := r.mu.acked[from][scope]
	if s == nil {
		s = newStatement()
		r.mu.acked[from][scope] = s
	}
	return s
}

// lacks reports whether a device holds less than it had confirmed.
func (s *statement) lacks() bool {
	for _, a := range s.logs {
		if a.had > a.at.Counter {
			return true
		}
	}
	return false
}

// takeBack follows the whole vector of a device that begins a session: what it had confirmed and does not hold any
// more is not stored there. A vector that is full leaves logs out; another history of a log, which is as long, may have been
// chosen to stand for it, and is no loss.
func (s *statement) takeBack(vector, stands chunk.Vector, now time.Time) (lost uint64) {
	for log, a := range s.logs {
		p, named := vector[log]
		if p.Counter >= a.at.Counter || !named && len(vector) >= chunk.MaxLogs {
			continue
		}
		lost += a.at.Counter - p.Counter
		a.lower(stands[log]) // zero if it stands in another history
	}
	if lost == 0 {
		return 0
	}
	if !s.lost.Open() {
		s.lost.Confirmed = s.stored
	}
	s.lost.Seen, s.lost.Again = now, time.Time{}
	return lost
}

// forsake follows that a device has given up all that it held of the practice: that is no loss, and is not owed again.
func (s *statement) forsake(now time.Time) {
	for _, a := range s.logs {
		*a = stated{dirty: true}
	}
	s.told, s.toldAt, s.readable = session.Digest{}, time.Time{}, time.Time{}
	s.stored, s.dirty = now, true
	if s.lost.Open() {
		s.lost = Lost{}
	}
}

// doubt follows that a device begins a session with something else than is held here: what stands beside the end of a log no vector
// names, and a device that was put back may lack it. It counts again when both hold the same.
func (s *statement) doubt() {
	for _, a := range s.logs {
		if a.tree != [32]byte{} {
			a.tree, a.applied, a.dirty = [32]byte{}, false, true
		}
	}
}

// compare tells which of the positions that a device says stand in a history of their log that is held here, and which lie beyond
// what is held. One that is neither is of another history.
func (r *Replica) compare(from trust.DeviceID, ack session.Ack) (stands, beyond chunk.Vector, err error) {
	stands, beyond = chunk.Vector{}, chunk.Vector{}
	below := chunk.Vector{}
	r.mu.Lock()
	var s *statement
	if scopes := r.mu.acked[from]; scopes != nil {
		s = scopes[ack.Scope]
	}
	for log, p := range ack.Stored {
		main, ok := r.mu.Vectors[ack.Scope][log]
		_, beside := r.mu.Forks[ack.Scope][log].Before(p)
		switch {
		case !ok:
		case p == main, beside:
			stands[log] = p
		case s != nil && s.logs[log] != nil && s.logs[log].at == p:
			stands[log] = p // compared before
		case p.Counter > main.Counter:
			beyond[log] = p
		case p.Counter < main.Counter:
			below[log] = p
		}
	}
	r.mu.Unlock()
	for log, p := range below {
		at, err := r.Stood(ack.Scope, log, p.Counter)
		if err != nil {
			return nil, nil, err
		}
		if at == p {
			stands[log] = p
		}
	}
	return stands, beyond, nil
}

// catchUp compares what devices said of logs that were not held here so far, and are now. What cannot be read is compared the next
// time; until then less is said to be elsewhere than is.
func (r *Replica) catchUp() {
	type claim struct {
		device trust.DeviceID
		scope  trust.ScopeID
	}
	claims := map[claim]chunk.Vector{}
	st := r.State()
	trees := map[trust.ScopeID]map[chunk.LogID][32]byte{}
	for _, s := range st.Scopes() {
		trees[s.ID] = r.logs.Forks(s.ID)
	}
	r.mu.Lock()
	hashes := map[trust.ScopeID][32]byte{}
	for device, scopes := range r.mu.acked {
		for scope, s := range scopes {
			if _, ok := hashes[scope]; !ok {
				hashes[scope] = r.mu.HashLocked(scope)
			}
			if s.told.VectorHash == hashes[scope] {
				r.agreeLocked(scope, s, trees[scope], st.IsAnchor(device))
			}
			for log, a := range s.logs {
				if a.said.Counter > 0 && a.said.Counter <= r.mu.Vectors[scope][log].Counter {
					if claims[claim{device, scope}] == nil {
						claims[claim{device, scope}] = chunk.Vector{}
					}
					claims[claim{device, scope}][log] = a.said
				}
			}
		}
	}
	r.mu.Unlock()
	for c, vector := range claims {
		stands, _, err := r.compare(c.device, session.Ack{Scope: c.scope, Stored: vector})
		if err != nil {
			continue
		}
		r.mu.Lock()
		for log, p := range vector {
			a := r.statementLocked(c.device, c.scope).log(log)
			if a.said != p {
				continue // it was taken back meanwhile, or more was said
			}
			if a.said = (chunk.Position{}); stands[log] == p {
				a.raise(p)
			}
		}
		r.mu.Unlock()
	}
}

// flushAtOnce is how many bytes of acknowledgements are stored in one commit, or somewhat more: very many do not fit one.
const flushAtOnce = 1 << 20

// FlushAcks stores acknowledgements that came since the last call. One call at a time: else what was true earlier could be written after
// what a device has lost since.
func (r *Replica) FlushAcks(ctx context.Context) error {
	select {
	case r.flushing <- struct{}{}:
		defer func() { <-r.flushing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		batch, flushed := r.unstored()
		if batch.Len() == 0 {
			return nil
		}
		if err := r.store.Commit(ctx, batch); err != nil {
			r.mu.Lock()
			for _, dirty := range flushed {
				*dirty = true // tried again
			}
			r.mu.Unlock()
			return err
		}
	}
}

// unstored returns a batch of acknowledgements that are not stored yet, which count as stored from then on.
func (r *Replica) unstored() (batch *storage.Batch, flushed []*bool) {
	batch = new(storage.Batch)
	put := func(dirty *bool, key, value []byte) {
		batch.Put(key, value)
		*dirty = false
		flushed = append(flushed, dirty)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for device, scopes := range r.mu.acked {
		for scope, s := range scopes {
			if s.dirty {
				put(&s.dirty, storage.Said.Key(device, scope), s.marshal())
			}
			for log, a := range s.logs {
				if a.dirty {
					put(&a.dirty, storage.Ack.Key(device, scope, log), a.marshal())
				}
			}
			if batch.Size() > flushAtOnce {
				return batch, flushed
			}
		}
	}
	return batch, flushed
}

func (r *Replica) loadAcks(v storage.Reader) error {
	if err := v.Scan(storage.Said.All(), nil, func(key, value []byte) error {
		device, scope, err := storage.Said.Parse(key)
		if err != nil {
			return err
		}
		s, err := parseStatement(value)
		if err != nil {
			return err
		}
		*r.statementLocked(device, scope) = *s
		return nil
	}); err != nil {
		return fmt.Errorf("read what devices said: %w", err)
	}
	return v.Scan(storage.Ack.All(), nil, func(key, value []byte) error {
		device, scope, log, err := storage.Ack.Parse(key)
		if err != nil {
			return err
		}
		a, err := parseStated(value)
		if err != nil {
			return err
		}
		r.statementLocked(device, scope).logs[log] = a
		return nil
	})
}
