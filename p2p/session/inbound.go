package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Handle takes a frame that the peer sent. An error ends the session (tell the peer by Farewell); a frame that is only
// late or doubled is no error. It blocks while the replica makes durable what came.
func (s *Session) Handle(ctx context.Context, now time.Time, f Frame) (Result, error) {
	s.in.Lock()
	defer s.in.Unlock()
	m, err := decode(f)
	switch {
	case errors.Is(err, errUnknownKind):
		return Result{}, nil
	case err != nil:
		return Result{}, fmt.Errorf("read frame: %w", err)
	}
	s.mu.Lock()
	st := &s.mu.state
	st.status.BytesIn += uint64(len(f)) + FrameOverhead
	st.status.LastFrame = now
	greeted := st.greeted
	st.hop = max(st.hop, hopOf(m))
	s.mu.Unlock()

	switch m := m.(type) {
	case *hello:
		return Result{}, s.handleHello(ctx, now, m)
	case *bye:
		return Result{}, s.handleBye(ctx, greeted, m)
	case *ping:
		s.mu.Lock()
		st.owePong, st.pongNonce = true, m.nonce
		s.mu.Unlock()
		return Result{}, nil
	case *pong:
		s.handlePong(now, m)
		return Result{}, nil
	}
	if !greeted {
		// The peer's HELLO was lost, and with it whose practice this is. Its next one heals that.
		return Result{}, nil
	}
	switch m := m.(type) {
	case *entries:
		return s.handleEntries(ctx, now, m)
	case *vector:
		return Result{}, s.handleVector(ctx, now, m)
	case *chunks:
		return s.handleChunks(ctx, now, m)
	case *ack:
		return Result{}, s.handleAck(ctx, now, m)
	case *branches:
		return Result{}, s.handleBranches(ctx, now, m)
	}
	return Result{}, nil
}

func hopOf(m message) uint64 {
	switch m := m.(type) {
	case *hello:
		return 1
	case *entries:
		return m.hop
	case *vector:
		return m.hop
	case *chunks:
		return m.hop
	case *ack:
		return m.hop
	case *branches:
		return m.hop
	}
	return 0
}

func (s *Session) handleHello(ctx context.Context, now time.Time, m *hello) error {
	st := s.look()
	err := s.helloLocked(st, now, m)
	var held []Ack
	carried := m.carried()
	if err == nil {
		if bytes.Equal(carried, st.theirCarried) {
			carried = nil
		} else {
			st.theirCarried = carried
		}
		for _, sc := range st.scopes {
			if sc.equal() {
				held = append(held, Ack{Scope: sc.id, Stored: maps.Clone(sc.theirs), Digest: sc.remote,
					Time: time.UnixMilli(m.clock / 1000), First: sc.known && !sc.heard})
				sc.heard = sc.heard || sc.known
			}
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if c, ok := s.cfg.Replica.(Carrier); ok && len(carried) > 0 {
		c.Carried(ctx, s.cfg.Peer, carried)
	}
	for _, a := range held {
		if err := s.acked(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) helloLocked(st *state, now time.Time, m *hello) error {
	if !st.helloSeen.IsZero() {
		st.helloBudget = min(st.helloBudget+now.Sub(st.helloSeen).Seconds()*helloRate, helloBurst)
	} else {
		st.helloBudget = helloBurst
	}
	st.helloSeen = now
	if st.helloBudget < 1 {
		return ErrFlood
	}
	st.helloBudget--

	if was := st.theirsFull; was != NotFull && m.full() == NotFull {
		st.hurry(now)
	}
	st.theirsFull = m.full()
	st.theirs = bye{protocol: m.protocol, schema: m.schema, version: m.version}
	if err := s.compatible(st.theirs); err != nil {
		st.incompat = true
		return err
	}
	if m.practice != st.practice {
		return ErrWrongPractice
	}
	if m.flags&helloFirst != 0 {
		if st.greeted {
			st.oweHello = true // it began anew and knows nothing of us
		}
		st.forget()
	}
	if m.flags&helloAsk != 0 {
		st.oweHello = true
	}
	answers := st.greeted
	st.greeted = true

	st.theirHeads, st.theirAll = m.heads, m.headsHash
	st.oweEntries, st.entriesHeld, st.entriesLeft = st.theirAll != st.allHeads, false, nil
	st.entriesBy = now.Add(s.patience())
	st.seenSeq = max(st.seenSeq, m.sent)
	for _, sc := range st.scopes {
		sc.shared = false
	}
	for _, d := range m.scopes {
		sc := st.scopes[d.scope]
		if sc == nil {
			continue
		}
		sc.shared, sc.saidVector = true, false
		if !sc.hear(d.plain()) {
			sc.oweVector = true
		}
		sc.owesDigest()
		sc.judge(now, answers)
	}
	st.resolve(now, m.seen, nil)
	st.noteAgreement()
	return nil
}

// owesDigest notes that the peer is to hear what was applied while a HELLO of ours was on the way: nobody was there to tell.
func (sc *scope) owesDigest() {
	if sc.shared && sc.known && sc.told != (Digest{}) && sc.told != sc.digest && sc.digest.AtEnd {
		sc.oweAck = true
	}
}

// patience is how long this side waits for the other's entries before it sends all of its own. One waits longer, so that
// of two logs that went apart only one is sent whole.
func (s *Session) patience() time.Duration {
	if bytes.Compare(s.cfg.Self[:], s.cfg.Peer[:]) < 0 {
		return entriesPatience
	}
	return 2 * entriesPatience
}

func (s *Session) compatible(theirs bye) error {
	if s.cfg.Protocol.Overlaps(theirs.protocol) && s.cfg.Schema.Overlaps(theirs.schema) {
		return nil
	}
	return &IncompatibleError{
		OurVersion: s.cfg.Version, OurProtocol: s.cfg.Protocol, OurSchema: s.cfg.Schema,
		TheirVersion: theirs.version, TheirProtocol: theirs.protocol, TheirSchema: theirs.schema,
	}
}

// handleBye follows why the peer hangs up. A reason that is not known ends the session as any other.
func (s *Session) handleBye(ctx context.Context, greeted bool, m *bye) error {
	if m.reason == ReasonIncompatible {
		s.mu.Lock()
		s.mu.incompat, s.mu.theirs = true, *m
		s.mu.Unlock()
		if err := s.compatible(*m); err != nil {
			return err
		}
	}
	// Without a HELLO it is not known of which practice the peer speaks.
	if books, ok := s.cfg.Replica.(Bookkeeper); ok && greeted && m.reason == ReasonDropped {
		if err := books.Dropped(ctx, s.cfg.Peer); err != nil {
			return fmt.Errorf("note that the peer holds nothing any more: %w", err)
		}
	}
	return &ByeError{Reason: m.reason}
}

func (s *Session) handlePong(now time.Time, m *pong) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	if st.clockAtPing == 0 || m.nonce != st.pingNonce {
		return // late or doubled
	}
	there := now.UnixMicro() - st.clockAtPing
	st.rtt = time.Duration(max(there, 1)) * time.Microsecond
	st.offset = time.Duration(m.clock-st.clockAtPing-there/2) * time.Microsecond
	st.clockAtPing = 0
}

func (s *Session) handleEntries(ctx context.Context, now time.Time, m *entries) (Result, error) {
	st := s.look()
	before := st.allHeads // now: another look may meet the new ones before this one does
	s.mu.Unlock()
	if err := s.cfg.Replica.AddEntries(ctx, s.cfg.Peer, m.entries); err != nil {
		return Result{}, fmt.Errorf("add membership entries: %w", err)
	}
	st = s.look()
	defer s.mu.Unlock()
	st.entriesHeld = false // the peer's heads may be known now
	if st.allHeads == before {
		return Result{}, nil
	}
	// The peer must learn our heads, and each side the scopes that the entries opened.
	st.oweHello, st.askHello, st.lastProgress = true, true, now
	return Result{Entries: true}, nil
}

func (s *Session) handleVector(ctx context.Context, now time.Time, m *vector) error {
	s.mu.Lock()
	st := &s.mu.state
	sc := st.scopes[m.scope]
	if sc == nil {
		s.mu.Unlock()
		return nil
	}
	var below []chunk.LogID
	for id, p := range m.vector {
		if sc.raise(id, p) {
			st.lastProgress = now
		}
		sc.compare(id, p)
		if p.Counter >= sc.mine[id].Counter {
			continue // of logs that only the peer names nothing is kept
		}
		if l := sc.log(id); !l.checked && !l.fork {
			l.checked = true
			below = append(below, id)
		}
	}
	// The peer's HELLO equalled ours, and by the time that ours came it held more: it does not know yet what we hold.
	sc.oweVector = sc.oweVector || !sc.saidVector && !m.vector.Equal(sc.mine)
	first := !sc.heard
	sc.known, sc.heard, sc.paused = true, true, m.flags&vectorWait != 0
	s.cfg.Feed.report(m.scope, s, now, sc.behind(), false)
	for _, l := range sc.logs {
		l.notBefore = time.Time{} // once more; what does not help is tried ever more seldom
	}
	st.resolve(now, m.seen, &m.scope)
	sc.owesDigest()
	s.mu.Unlock()
	if err := s.lookBelow(m, below); err != nil {
		return err
	}
	if len(m.vector) == 0 && !first {
		return nil
	}
	return s.acked(ctx, Ack{Scope: m.scope, Stored: m.vector, Time: now, Digest: Digest{VectorHash: m.vector.Hash()}, First: first})
}

// lookBelow compares a vector with where our own logs stood at its counters: of logs that we hold farther, only that tells
// whether the peer is on the same branch.
func (s *Session) lookBelow(m *vector, logs []chunk.LogID) error {
	for _, id := range logs {
		at, err := s.cfg.Replica.Stood(m.scope, id, m.vector[id].Counter)
		if err != nil {
			return fmt.Errorf("compare a log: %w", err)
		}
		if at == m.vector[id] || at == (chunk.Position{}) {
			continue
		}
		s.mu.Lock()
		if sc := s.mu.scopes[m.scope]; sc != nil {
			sc.setFork(id)
		}
		s.mu.Unlock()
	}
	return nil
}

func (s *Session) handleChunks(ctx context.Context, now time.Time, m *chunks) (Result, error) {
	places := make([]Place, 0, len(m.chunks))
	list := m.chunks[:0]
	for _, c := range m.chunks {
		p, err := s.cfg.Locate(c)
		switch {
		case errors.Is(err, chunk.ErrNewer):
			continue // for a later version of this program, which will ask for it again; what comes with it is welcome
		case err != nil:
			return Result{}, fmt.Errorf("read chunk: %w: %w", wire.ErrMalformed, err)
		case p.Scope != m.scope || p.Position.Counter == 0:
			return Result{}, fmt.Errorf("%w: chunk of another scope", wire.ErrMalformed)
		}
		places, list = append(places, p), append(list, c)
	}
	m.chunks = list
	s.mu.Lock()
	st := &s.mu.state
	if st.scopes[m.scope] == nil {
		st.seenSeq = max(st.seenSeq, m.seq)
		s.mu.Unlock()
		return Result{}, nil // not shared, or not yet
	}
	for _, c := range m.chunks {
		st.chunkBytesIn += uint64(len(c))
	}
	st.status.ChunksIn += uint64(len(m.chunks))
	s.mu.Unlock()

	before, forks := s.cfg.Replica.Vector(m.scope), s.cfg.Replica.Forks(m.scope)
	if err := s.cfg.Replica.Arrive(ctx, s.cfg.Peer, m.chunks); err != nil {
		return Result{}, fmt.Errorf("store chunks: %w", err)
	}
	res, told := s.arrived(now, m, places, before, forks)
	if len(told.Stored) == 0 && told.Digest == (Digest{}) {
		return res, nil
	}
	return res, s.acked(ctx, told)
}

// arrived follows chunks that the replica has judged. It returns what they say of the peer: what it sends, it holds.
func (s *Session) arrived(
	now time.Time, m *chunks, places []Place, before chunk.Vector, forks map[chunk.LogID][32]byte,
) (res Result, told Ack) {
	st := s.look()
	defer s.mu.Unlock()
	st.seenSeq = max(st.seenSeq, m.seq)
	sc := st.scopes[m.scope]
	if sc == nil {
		return res, told
	}
	told = Ack{Scope: m.scope, Stored: chunk.Vector{}, Time: now}
	if sc.ackLogs == nil {
		sc.ackLogs = map[chunk.LogID]struct{}{}
	}
	sc.oweAck, sc.heard = true, true
	for _, p := range places {
		if m.flags&chunksLoose != 0 {
			break
		}
		if _, ok := sc.mine[p.Log]; ok {
			sc.ackLogs[p.Log] = struct{}{}
		}
		if m.flags&chunksBranch != 0 {
			if _, ok := sc.mine[p.Log]; ok {
				sc.setFork(p.Log)
				st.note(sc.log(p.Log), p.Position)
			}
			continue
		}
		sc.compare(p.Log, p.Position)
		sc.raise(p.Log, p.Position)
		told.Stored[p.Log] = p.Position
	}
	var grown []chunk.LogID
	for id := range sc.ackLogs {
		if sc.mine[id] != before[id] || sc.forks[id] != forks[id] {
			grown = append(grown, id)
		}
	}
	if m.flags&chunksDigest != 0 {
		told.Digest = m.digest.plain()
		sc.hear(told.Digest)
		sc.judge(now, false)
	}
	st.noteAgreement()
	if len(grown) == 0 {
		return res, told
	}
	s.cfg.Feed.report(m.scope, s, now, sc.behind(), true)
	st.lastProgress = now
	return Result{Arrived: []Progress{{Scope: m.scope, Logs: grown}}}, told
}

func (s *Session) handleAck(ctx context.Context, now time.Time, m *ack) error {
	s.mu.Lock()
	practice, shared := s.mu.practice, s.mu.scopes[m.scope] != nil
	s.mu.Unlock()
	if !shared {
		return nil
	}
	message := m.message(practice)
	if !s.cfg.Replica.VerifyAck(s.cfg.Peer, message, m.signature[:]) {
		return ErrBadSignature
	}
	s.mu.Lock()
	st := &s.mu.state
	if sc := st.scopes[m.scope]; sc != nil {
		for id, p := range m.stored {
			if sc.raise(id, p) {
				st.lastProgress = now
			}
			sc.compare(id, p)
		}
		sc.heard = true
		sc.hear(m.digest.plain())
		sc.judge(now, false)
	}
	st.resolve(now, m.seen, &m.scope)
	st.noteAgreement()
	s.mu.Unlock()
	return s.acked(ctx, Ack{Scope: m.scope, Stored: m.stored, Digest: m.digest.plain(), Time: time.UnixMilli(m.time),
		Message: message, Signature: m.signature[:]})
}

func (s *Session) acked(ctx context.Context, a Ack) error {
	if err := s.cfg.Replica.Acked(ctx, s.cfg.Peer, a); err != nil {
		return fmt.Errorf("note what the peer holds: %w", err)
	}
	return nil
}

// LocalChunks says that scopes hold new durable chunks of this device; with none named, that any may.
func (s *Session) LocalChunks(now time.Time) {
	st := s.look()
	defer s.mu.Unlock()
	st.noteAgreement()
}

// Relayed says that logs grew by what another peer brought. The peer is told at once that this device holds it (so that
// nobody sends it twice) and gets it after a little while, unless it says before that it has it.
func (s *Session) Relayed(now time.Time, grown []Progress) {
	// A log that the peer lacked something of before is not held up again, however fast it grows.
	waiting := s.unsent(grown)
	st := s.look()
	defer s.mu.Unlock()
	for _, g := range grown {
		sc := st.scopes[g.Scope]
		if sc == nil || !sc.shared || !sc.known {
			continue
		}
		wait := now.Add(min(s.cfg.RelayDelay+st.rtt, maxRelayDelay))
		for _, id := range g.Logs {
			if p, l := sc.mine[id], sc.log(id); l.fork && l.whole != sc.print(id) || p.Counter > l.sent && !waiting[place{g.Scope, id}] {
				l.notBefore = wait
			}
			sc.oweAck = true
			if sc.ackLogs == nil {
				sc.ackLogs = map[chunk.LogID]struct{}{}
			}
			sc.ackLogs[id] = struct{}{}
		}
	}
}

type place struct {
	scope trust.ScopeID
	log   chunk.LogID
}

// unsent returns which logs held more than was sent when the replica was last looked at.
func (s *Session) unsent(logs []Progress) map[place]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := map[place]bool{}
	for _, g := range logs {
		for _, id := range g.Logs {
			if sc := s.mu.scopes[g.Scope]; sc != nil && sc.mine[id].Counter > sc.log(id).sent {
				waiting[place{g.Scope, id}] = true
			}
		}
	}
	return waiting
}

// LocalEntries says that the membership log grew, here or by another peer.
func (s *Session) LocalEntries(now time.Time) {
	st := s.look()
	defer s.mu.Unlock()
	st.oweNews()
	if st.greeted && st.allHeads != st.saidAll { // the peer may have told of these before they came by another way, and waits for word
		st.oweHello = true
	}
}

// Applied says that the applier of a scope has come to its end.
func (s *Session) Applied(now time.Time, id trust.ScopeID) {
	st := s.look()
	defer s.mu.Unlock()
	sc := st.scopes[id]
	if sc == nil || !sc.shared || !sc.known {
		return
	}
	sc.judge(now, false)
	if sc.told != sc.digest {
		sc.oweAck = true
	}
}
