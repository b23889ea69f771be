package session

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A log that was written twice is a tree. Of such a log each side tells the other by BRANCHES what it holds: for each
// history its end, and chunks below it at growing distances. What the other holds that is neither named nor below a named
// one is sent, parents before children. What was told last counts; a HELLO that finds that the two still differ has it told
// again, so that whatever was lost comes in the end. A log is treated so as soon as either side knows of two histories.

// branches is the frame that tells what is held of logs with several histories.
type branches struct {
	hop   uint64
	scope trust.ScopeID
	logs  []branch // ascending
}

type branch struct {
	log  chunk.LogID
	held []chunk.Position // ascending; none: nothing of the log
}

func (m *branches) encode() Frame {
	var w wire.Writer
	w.Byte(kindBranches)
	w.Uvarint(m.hop)
	w.Raw(m.scope[:])
	w.Uvarint(uint64(len(m.logs)))
	for _, b := range m.logs {
		w.Raw(b.log[:])
		w.Uvarint(uint64(len(b.held)))
		for _, p := range b.held {
			w.Uvarint(p.Counter)
			w.Raw(p.Tip[:])
		}
	}
	return w.Bytes()
}

func (m *branches) decode(r *wire.Reader) {
	m.hop = r.Uvarint(maxHop)
	r.Fixed(m.scope[:])
	n := r.Uvarint(MaxBranchedLogs)
	if n == 0 {
		r.Fail("length of a list")
	}
	for i := range int(n) {
		var b branch
		r.Fixed(b.log[:])
		if i > 0 && m.logs[i-1].log.Compare(b.log) >= 0 {
			r.Fail("order of logs")
		}
		for j := range int(r.Uvarint(MaxLocators)) {
			var p chunk.Position
			p.Counter = r.Uvarint(1<<63 - 1)
			r.Fixed(p.Tip[:])
			if p.Counter == 0 || j > 0 && comparePositions(b.held[j-1], p) >= 0 {
				r.Fail("order of positions")
			}
			if r.Err() != nil {
				return
			}
			b.held = append(b.held, p)
		}
		if r.Err() != nil {
			return
		}
		m.logs = append(m.logs, b)
	}
}

func comparePositions(a, b chunk.Position) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.Tip[:], b.Tip[:]))
}

// print names what is held of a log, all its histories.
func (sc *scope) print(id chunk.LogID) [32]byte {
	if p, ok := sc.forks[id]; ok {
		return p
	}
	var p [32]byte
	tip := sc.mine[id].Tip
	copy(p[:], tip[:])
	return p
}

// setFork notes that there is more than one history of a log, and that the peer is owed word of what is held of it.
func (sc *scope) setFork(id chunk.LogID) {
	if l := sc.log(id); !l.fork {
		l.fork = true
		sc.owe(id)
	}
}

func (sc *scope) owe(id chunk.LogID) {
	if sc.oweBranches == nil {
		sc.oweBranches = map[chunk.LogID]struct{}{}
	}
	sc.oweBranches[id] = struct{}{}
}

// note remembers that the peer, which sends the chunk at p, holds it. Chunks come parents before children, so that the last ones
// stand for those before them; and whoever sends the same ones for ever is not remembered for ever. Where there is no room, one
// takes the place of the first; what is forgotten is sent to the peer, which has it, and costs no more than that.
func (st *state) note(l *logState, p chunk.Position) {
	if n := len(l.got); n == MaxLocators || st.places >= st.mostOf {
		if n > 0 {
			copy(l.got, l.got[1:])
			l.got[n-1] = p
		}
		return
	}
	l.got = append(l.got, p)
	l.told++
	st.places++
}

// hold remembers what the peer holds of a log, if there is room: what counts is what is told last.
func (st *state) hold(l *logState, has []chunk.Position) bool {
	st.drop(l)
	l.heard = st.places+len(has) <= st.mostOf
	if l.full = !l.heard; l.heard {
		l.has, l.told = slices.Clone(has), len(has) // a part of a frame would keep the whole
		st.places += len(has)
	}
	return l.heard
}

// drop forgets what the peer holds of a log, so that nothing of it is sent before the peer tells anew.
func (st *state) drop(l *logState) {
	st.places -= l.told
	l.heard, l.has, l.got, l.told, l.whole = false, nil, nil, 0, [32]byte{}
}

// letGo makes room.
func (st *state) letGo(sc *scope, which func(chunk.LogID, *logState) bool) {
	for id, l := range sc.logs {
		if l.told > 0 && which(id, l) {
			st.drop(l)
		}
	}
}

// makeRoom forgets what the peer holds of logs of which it lacks nothing, or of which nothing is held here.
func (st *state) makeRoom() {
	for _, sc := range st.scopes {
		st.letGo(sc, func(id chunk.LogID, l *logState) bool {
			_, mine := sc.mine[id]
			return !mine || l.heard && l.whole == sc.print(id)
		})
	}
}

// askAgain has the peer tell once more what it holds, when there was no room for some of it and it has been sent what it lacks of
// the rest: now, and not only when nothing has brought the two nearer for long. It does so as long as that makes the logs fewer
// that have not had their turn.
func (sc *scope) askAgain(st *state) {
	left := 0
	for id := range sc.mine {
		l := sc.logs[id]
		switch {
		case l == nil || !l.fork:
		case l.heard && l.whole != sc.print(id):
			return
		case l.full && !l.sated:
			left++
		}
	}
	if left > 0 && (sc.unheard == 0 || left < sc.unheard) {
		st.oweHello, st.askHello = true, true
	}
	sc.unheard = left
}

// inTurn orders what the peer tells so that room is for logs that are held here, and of those first for the ones for which there
// was none before, or never.
func (sc *scope) inTurn(logs []branch) []branch {
	rank := func(b branch) int {
		_, mine := sc.mine[b.log]
		l := sc.logs[b.log]
		switch {
		case !mine:
			return 3
		case l == nil || !l.full:
			return 2
		case l.sated:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(logs, func(a, b branch) int { return cmp.Compare(rank(a), rank(b)) })
	return logs
}

// pendingBranch reports whether the peer may lack something of a log with several histories.
func (sc *scope) pendingBranch(id chunk.LogID, l *logState, now time.Time) bool {
	return l.heard && l.whole != sc.print(id) && !now.Before(l.notBefore)
}

func (s *Session) handleBranches(ctx context.Context, now time.Time, m *branches) error {
	s.mu.Lock()
	st := &s.mu.state
	sc := st.scopes[m.scope]
	if sc == nil {
		s.mu.Unlock()
		return nil
	}
	told, size := chunk.Vector{}, 0
	for _, b := range m.logs {
		size += len(b.held)
	}
	if st.places+size > st.mostOf {
		st.makeRoom()
	}
	for _, b := range sc.inTurn(m.logs) {
		if _, mine := sc.mine[b.log]; !mine && len(sc.logs) >= chunk.MaxLogs {
			continue
		}
		sc.setFork(b.log)
		l := sc.log(b.log)
		st.hold(l, b.held)
		l.notBefore = time.Time{}
		sc.loose = nil // which may have been lost
		if l.said != sc.print(b.log) {
			sc.owe(b.log)
		}
		for _, p := range b.held {
			if p.Counter > told[b.log].Counter {
				told[b.log] = p
			}
		}
	}
	s.mu.Unlock()
	if len(told) == 0 {
		return nil
	}
	return s.acked(ctx, Ack{Scope: m.scope, Stored: told, Time: now})
}

// nextBranches tells what is held of the logs of which the peer is owed word.
func (s *Session) nextBranches() (Frame, error) {
	s.mu.Lock()
	st := &s.mu.state
	var m branches
	for _, id := range st.order {
		sc := st.scopes[id]
		if !st.greeted || !sc.shared || sc.equal() || len(sc.oweBranches) == 0 {
			continue // who holds the same needs no word of it
		}
		m.scope = id
		for log := range sc.oweBranches {
			m.logs = append(m.logs, branch{log: log})
		}
		break
	}
	s.mu.Unlock()
	if len(m.logs) == 0 {
		return nil, nil
	}
	slices.SortFunc(m.logs, func(a, b branch) int { return a.log.Compare(b.log) })
	size, n := 0, 0
	for ; n < len(m.logs) && n < MaxBranchedLogs && size < MaxFrame/2; n++ {
		held, err := s.cfg.Replica.Locators(m.scope, m.logs[n].log)
		if err != nil {
			return nil, fmt.Errorf("describe a log: %w", err)
		}
		m.logs[n].held = held[:min(len(held), MaxLocators)]
		size += 40 + 24*len(held)
	}
	m.logs = m.logs[:n]
	s.mu.Lock()
	defer s.mu.Unlock()
	sc := st.scopes[m.scope]
	if sc == nil {
		return nil, nil // no longer shared
	}
	for _, b := range m.logs {
		delete(sc.oweBranches, b.log)
		sc.log(b.log).said = sc.print(b.log)
	}
	m.hop = st.nextHop()
	return m.encode(), nil
}

// nextBranchChunks reads what the peer lacks of a log with several histories, and notes it as sent. It reports whether the
// peer lacks nothing of it.
func (s *Session) nextBranchChunks(id trust.ScopeID, log chunk.LogID, room int) (f Frame, nothing bool, err error) {
	s.mu.Lock()
	st := &s.mu.state
	sc := st.scopes[id]
	if sc == nil {
		s.mu.Unlock()
		return nil, false, nil
	}
	l := sc.log(log)
	has, print := slices.Concat(l.has, l.got), sc.print(log)
	s.mu.Unlock()
	list, err := s.cfg.Replica.Beyond(id, log, has, max(min(s.cfg.FramePayload, room), 1))
	if err == nil {
		list, err = s.wanted(id, list)
	}
	if err != nil {
		return nil, false, fmt.Errorf("read branches to send: %w", err)
	}
	if len(list) > 0 && len(list[0].Bytes) > room && room < s.cfg.Window {
		return nil, false, nil // larger than the room that is left; it gets the window for itself
	}
	m := chunks{scope: id}
	way := flight{scope: id, log: log, fork: true}
	var sent []chunk.Position
	var loose []looseAt
	for _, it := range list {
		if len(m.chunks) == MaxChunksPerFrame || len(m.chunks) > 0 && it.Loose != (len(loose) > 0) {
			break
		}
		if it.Loose {
			loose = append(loose, looseAt{it.Log, it.Counter})
		} else {
			place, err := s.cfg.Locate(it.Bytes)
			if err != nil {
				return nil, false, fmt.Errorf("read own chunk: %w", err)
			}
			sent = append(sent, place.Position)
		}
		m.chunks = append(m.chunks, it.Bytes)
		way.bytes += len(it.Bytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc = st.scopes[id]; sc == nil {
		return nil, false, nil
	}
	l = sc.log(log)
	if len(m.chunks) == 0 {
		l.whole, l.sated = print, true
		sc.askAgain(st)
		return nil, true, nil
	}
	for _, at := range loose {
		if sc.loose == nil {
			sc.loose = map[looseAt]struct{}{}
		}
		sc.loose[at] = struct{}{}
	}
	st.sentSeq++
	way.seq = st.sentSeq
	st.inflight = append(st.inflight, way)
	st.bytesOut += way.bytes
	l.has = append(l.has, sent...)
	m.hop, m.seq = st.nextHop(), way.seq
	if m.flags = chunksBranch | chunksDigest; len(loose) > 0 {
		m.flags = chunksLoose
	} else {
		m.digest = sc.digest.wire()
		sc.told = sc.digest
	}
	st.status.ChunksOut += uint64(len(m.chunks))
	return m.encode(), false, nil
}
