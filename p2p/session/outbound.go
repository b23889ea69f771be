package session

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
)

// Start begins the session: the first frame that Next returns is a HELLO.
func (s *Session) Start(now time.Time) {
	st := s.look()
	defer s.mu.Unlock()
	st.started, st.lastProgress = now, now
	st.nextPing = now.Add(firstPing)
	st.oweHello = true
}

// Probe asks the peer for a sign of life at once. It has given one when a frame has come since: see Status.LastFrame.
func (s *Session) Probe(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.nextPing.After(now) {
		s.mu.nextPing = now
	}
}

// Next returns the next frame to send, made from what is known at this moment, or nil if there is nothing to send now;
// then it is to be called again after any other method of the session, and at Deadline. CHUNKS are read from the
// replica one frame at a time, as the network takes them.
func (s *Session) Next(ctx context.Context, now time.Time) (Frame, error) {
	s.out.Lock()
	defer s.out.Unlock()
	if f := s.nextHello(now); f != nil {
		return s.sent(f), nil
	}
	if f, err := s.nextEntries(now); f != nil || err != nil {
		return s.sent(f), err
	}
	if f := s.nextSmall(now); f != nil {
		return s.sent(f), nil
	}
	if f, err := s.nextBranches(); f != nil || err != nil {
		return s.sent(f), err
	}
	if f := s.nextAck(now); f != nil {
		return s.sent(f), nil
	}
	f, err := s.nextChunks(now)
	return s.sent(f), err
}

func (s *Session) sent(f Frame) Frame {
	if f == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.status.BytesOut += uint64(len(f)) + FrameOverhead
	return f
}

func (s *Session) nextHello(now time.Time) Frame {
	s.mu.Lock()
	st := &s.mu.state
	if st.started.IsZero() {
		s.mu.Unlock()
		return nil
	}
	if !now.Before(s.helloDue(st)) {
		st.oweHello, st.askHello = true, true
	}
	full := NotFull
	if s.cfg.Full != nil {
		full = s.cfg.Full()
	}
	if st.saidHello && full != st.saidFull {
		st.oweHello = true
	}
	carries := s.carries()
	if st.saidHello && !now.Before(st.lastHello.Add(carryPause)) && !bytes.Equal(carries, st.saidCarried) && !bytes.Equal(carries, st.theirCarried) {
		st.oweHello = true
	}
	owes := st.oweHello && (!st.saidHello || !now.Before(st.lastHello.Add(helloPause)))
	s.mu.Unlock()
	if !owes {
		return nil
	}
	st = s.look()
	defer s.mu.Unlock()
	m := hello{
		protocol: s.cfg.Protocol, schema: s.cfg.Schema, version: s.cfg.Version, clock: now.UnixMicro(),
		practice: st.practice, headsHash: st.allHeads, heads: st.heads, sent: st.sentSeq, seen: st.seenSeq,
	}
	if !st.greeted {
		m.flags |= helloFirst
	}
	if st.askHello {
		m.flags |= helloAsk
	}
	m.setFull(full)
	m.setCarried(carries)
	for _, id := range st.order {
		sc := st.scopes[id]
		sc.told = sc.digest
		m.scopes = append(m.scopes, wireDigest{scope: id, digest: sc.digest.wire()})
		sc.judge(now, false)
	}
	st.oweHello, st.askHello, st.saidHello, st.saidFull, st.saidCarried, st.lastHello = false, false, true, full, carries, now
	st.saidAll = st.allHeads
	return m.encode()
}

// carries is what the replica carries of its practice's quorum.
func (s *Session) carries() []byte {
	c, ok := s.cfg.Replica.(Carrier)
	if !ok {
		return nil
	}
	b := c.Carries()
	if len(b) > MaxCarried {
		return nil
	}
	return b
}

// helloDue is when a HELLO that asks for an answer is due, unless something happens before.
func (s *Session) helloDue(st *state) time.Time {
	switch {
	case !st.saidHello:
		return st.started.Add(s.cfg.Rehello)
	case !st.greeted:
		return st.lastHello.Add(min(greetingRetry, s.cfg.Rehello))
	}
	for _, sc := range st.scopes {
		if !sc.suspects.IsZero() && !sc.diverged && sc.suspects.After(st.lastHello.Add(-divergedCheck)) {
			return sc.suspects.Add(divergedCheck)
		}
	}
	if !st.standsOut() {
		return st.lastHello.Add(1000 * time.Hour)
	}
	last := st.lastHello
	for _, t := range []time.Time{st.lastProgress, st.helloSeen} {
		if t.After(last) {
			last = t
		}
	}
	return last.Add(s.cfg.Rehello)
}

// nextEntries sends what the peer lacks of the membership log.
//
// If the peer has heads and they are all unknown here, it is most likely ahead of us and knows ours: then its entries tell us what
// it lacks, if anything, and the whole log need not be sent. Two who went apart since their last common entry would wait
// for each other; one of them loses its patience first.
func (s *Session) nextEntries(now time.Time) (Frame, error) {
	s.mu.Lock()
	st := &s.mu.state
	late := !now.Before(st.entriesBy)
	owes, left := st.oweEntries && st.greeted && (!st.entriesHeld || late), st.entriesLeft
	if st.oweEntries && st.allHeads == st.theirAll {
		owes, st.oweEntries = false, false
	}
	theirs, ours := st.theirHeads, st.heads
	s.mu.Unlock()
	if owes {
		left = s.cfg.Replica.EntriesSince(theirs)
		if held := !late && len(theirs) > 0 && len(left) > 0 && len(left) == len(s.cfg.Replica.EntriesSince(nil)); held {
			s.mu.Lock()
			st.entriesHeld = true
			s.mu.Unlock()
			return nil, nil
		}
	}
	s.mu.Lock()
	st.oweEntries = st.oweEntries && !owes
	s.mu.Unlock()
	if len(left) == 0 {
		return nil, nil
	}
	var m entries
	size := 0
	for len(left) > 0 && len(m.entries) < MaxEntriesPerFrame && (size == 0 || size+len(left[0]) <= s.cfg.FramePayload) {
		size += len(left[0])
		m.entries, left = append(m.entries, left[0]), left[1:]
	}
	if size > MaxFrame/2 {
		return nil, fmt.Errorf("send membership entries: an entry of %d bytes is over the limit", size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.entriesLeft = left
	m.hop = st.nextHop()
	if owes {
		// What was sent need not be sent again, unless the peer's next HELLO shows that it did not come.
		st.theirHeads = append(st.theirHeads[:len(st.theirHeads):len(st.theirHeads)], ours...)
	}
	return m.encode(), nil
}

// nextSmall returns what is owed of PONG, PING and VECTOR.
func (s *Session) nextSmall(now time.Time) Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	if st.owePong {
		st.owePong = false
		m := pong{nonce: st.pongNonce, clock: now.UnixMicro()}
		return m.encode()
	}
	if !st.started.IsZero() && !now.Before(st.nextPing) {
		st.nextPing = now.Add(s.cfg.PingEvery)
		st.pingNonce++
		st.clockAtPing = now.UnixMicro()
		m := ping{nonce: st.pingNonce}
		return m.encode()
	}
	for _, id := range st.order {
		sc := st.scopes[id]
		sc.waits = sc.waits && sc.shared // whoever does not share a scope any more has no turn in it
		if sc.waits && s.cfg.Feed.take(id, s, now) {
			sc.oweVector = true // our turn: the peer is to send what we still lack
		}
		if sc.waits {
			st.nextFeed = now.Add(feedRetry)
		}
		if sc.oweVector && sc.shared {
			sc.oweVector, sc.saidVector = false, true
			for log, l := range sc.logs {
				if l.fork {
					sc.owe(log)
				}
			}
			sc.waits = !s.cfg.Feed.take(id, s, now)
			if sc.known && !sc.behind() {
				s.cfg.Feed.report(id, s, now, false, false)
			}
			m := vector{hop: st.nextHop(), scope: id, seen: st.seenSeq, vector: sc.mine}
			if sc.waits {
				m.flags = vectorWait
			}
			return m.encode()
		}
	}
	return nil
}

func (s *Session) nextAck(now time.Time) Frame {
	s.mu.Lock()
	st := &s.mu.state
	var m ack
	var owes bool
	for _, id := range st.order {
		sc := st.scopes[id]
		if !sc.oweAck || !sc.shared {
			continue
		}
		owes = true
		m = ack{hop: st.nextHop(), seen: st.seenSeq, scope: id, time: now.UnixMilli(), digest: sc.digest.wire(), stored: sc.takeAck()}
		sc.told = sc.digest
		break
	}
	practice := st.practice
	s.mu.Unlock()
	if !owes {
		return nil
	}
	copy(m.signature[:], s.cfg.Replica.SignAck(m.message(practice)))
	return m.encode()
}

func (s *Session) nextChunks(now time.Time) (Frame, error) {
	id, runs, room := s.plan(now)
	if len(runs) == 1 && runs[0].fork {
		f, nothing, err := s.nextBranchChunks(id, runs[0].log, room)
		if nothing {
			return s.nextChunks(now) // of the next log
		}
		return f, err
	}
	f, waits, err := s.pick(id, runs, room, now, false)
	if f == nil && waits && err == nil {
		// Each of the logs waits for a checkpoint in another.
		f, _, err = s.pick(id, runs, room, now, true)
	}
	return f, err
}

// pick makes a frame of what the logs have next. A log that needs a checkpoint or word of another log is left for later while
// others go on, so that it may come in its turn; takeLoose says to send it all the same.
func (s *Session) pick(id trust.ScopeID, runs []flight, room int, now time.Time, takeLoose bool) (frame Frame, waits bool, err error) {
	var m chunks
	var sent []flight
	var loose []looseAt
	payload := 0
	for _, run := range runs {
		most := min(s.cfg.FramePayload, room) - payload
		if len(m.chunks) > 0 && most < meanChunk {
			break
		}
		list, err := s.cfg.Replica.Chunks(id, run.log, run.last, max(most, 1))
		if err != nil {
			return nil, false, fmt.Errorf("read chunks to send: %w", err)
		}
		f := flight{scope: id, log: run.log, last: run.last}
		if list, err = s.wanted(id, list); err != nil {
			return nil, false, err
		}
		if len(list) > 0 && list[0].Loose {
			if list = looseOf(list, run.log, takeLoose); list == nil {
				waits = true
				continue
			}
		}
		if len(list) > 0 && len(m.chunks) == 0 && len(list[0].Bytes) > room && room < s.cfg.Window {
			return nil, waits, nil // larger than the room that is left; it gets the window for itself
		}
		for _, it := range list {
			full := payload+len(it.Bytes) > s.cfg.FramePayload || len(m.chunks) == MaxChunksPerFrame || it.Loose != (len(loose) > 0)
			if len(m.chunks) > 0 && full {
				break
			}
			m.chunks = append(m.chunks, it.Bytes)
			payload += len(it.Bytes)
			f.bytes += len(it.Bytes)
			if it.Loose {
				loose = append(loose, looseAt{it.Log, it.Counter})
			} else {
				f.last = it.Counter
			}
		}
		if f.bytes > 0 {
			sent = append(sent, f)
		} else if len(list) == 0 {
			s.stall(id, run.log, now)
		}
	}
	if len(sent) == 0 {
		return nil, waits, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	sc := st.scopes[id]
	if sc == nil {
		return nil, false, nil // no longer shared
	}
	for _, at := range loose {
		if sc.loose == nil {
			sc.loose = map[looseAt]struct{}{}
		}
		sc.loose[at] = struct{}{}
	}
	st.sentSeq++
	for _, f := range sent {
		f.seq = st.sentSeq
		st.inflight = append(st.inflight, f)
		st.bytesOut += f.bytes
		l := sc.log(f.log)
		l.sent = max(l.sent, f.last)
	}
	m.hop, m.scope, m.seq = st.nextHop(), id, st.sentSeq
	if len(loose) > 0 {
		m.flags |= chunksLoose
	} else if len(sc.pending(now)) == 0 {
		m.flags |= chunksDigest
		m.digest = sc.digest.wire()
		sc.told = sc.digest
	}
	st.status.ChunksOut += uint64(len(m.chunks))
	return m.encode(), waits, nil
}

// looseOf returns all that is loose in a list that begins so, since it goes in frames of its own: many skips take few frames
// then. What stands in other logs is taken only with others; what comes after is for later, and nil says that nothing is taken.
func looseOf(list []Item, log chunk.LogID, others bool) (out []Item) {
	for _, it := range list {
		switch {
		case !it.Loose:
		case it.Log != log && !others:
			return out
		default:
			out = append(out, it)
		}
	}
	return out
}

// wanted leaves out what the peer has of what is loose, says of what was sent loose only that its turn has come, and leaves
// out everything from the first skip on if the peer knows none.
func (s *Session) wanted(id trust.ScopeID, list []Item) ([]Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc := s.mu.scopes[id]
	if sc == nil {
		return nil, nil
	}
	out := list[:0]
	for _, it := range list {
		if _, sent := sc.loose[looseAt{it.Log, it.Counter}]; sent && !it.Loose && !it.Skip {
			sealed, err := chunk.Parse(it.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read what was sent loose: %w", err)
			}
			it.Bytes, _ = chunk.InPlace(sealed).AppendBinary(nil)
		}
		switch {
		case (it.Skip || it.Loose) && s.mu.theirs.protocol.Max < protocolSkips:
			return out, nil
		case !it.Loose || sc.needs(it):
			out = append(out, it)
		}
	}
	return out, nil
}

// stall leaves a log alone for a while that the replica has no chunks of, though its vector says so.
func (s *Session) stall(id trust.ScopeID, log chunk.LogID, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc := s.mu.scopes[id]; sc != nil {
		sc.log(log).notBefore = now.Add(stallFirst)
	}
}

// plan picks the scope and the logs of the next CHUNKS frame, and how many bytes the window has room for. Nothing goes before the
// membership entries that the peer lacks: it would not know who was removed, and pass on what was written since.
func (s *Session) plan(now time.Time) (id trust.ScopeID, runs []flight, room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	st.pass(now)
	if room = s.cfg.Window - st.bytesOut; !st.greeted || st.oweEntries || room <= 0 || st.bytesOut > 0 && room < s.cfg.FramePayload {
		return id, nil, 0
	}
	for i := range st.order {
		sc := st.scopes[st.order[(st.turn+i)%len(st.order)]]
		logs := sc.pending(now)
		if len(logs) == 0 {
			continue
		}
		st.turn++
		for j := range logs {
			log := logs[(st.turn+j)%len(logs)]
			l := sc.log(log)
			if !l.fork {
				runs = append(runs, flight{log: log, last: l.sent})
			} else if len(runs) == 0 {
				return sc.id, []flight{{log: log, fork: true}}, room // in a frame of its own
			}
		}
		return sc.id, runs, room
	}
	return id, nil, 0
}

// Deadline returns when Next may have something to send though nothing else happens. Zero: never.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	if st.started.IsZero() {
		return time.Time{}
	}
	d := st.nextPing
	earlier := func(t time.Time) {
		if t.Before(d) {
			d = t
		}
	}
	due, pause := s.helloDue(st), st.lastHello.Add(helloPause)
	if st.saidHello && due.Before(pause) {
		due = pause
	}
	earlier(due)
	if st.oweHello {
		earlier(pause)
	}
	if st.oweEntries && st.entriesHeld {
		earlier(st.entriesBy)
	}
	for _, sc := range st.scopes {
		if sc.waits {
			earlier(st.nextFeed)
		}
		if !sc.shared || !sc.known || sc.paused {
			continue
		}
		for id, l := range sc.logs {
			lacks := !l.fork && sc.mine[id].Counter > l.sent || l.fork && l.heard && l.whole != sc.print(id)
			if !l.notBefore.IsZero() && lacks {
				earlier(l.notBefore)
			}
		}
	}
	return d
}
