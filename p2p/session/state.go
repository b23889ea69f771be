package session

import (
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
)

// state is what a session knows: of the replica as last looked at, of the peer as last told, and what it owes the peer.
type state struct {
	started  time.Time
	practice trust.EntryID
	heads    []trust.EntryID // ours, capped and sorted
	allHeads [32]byte        // hash of ours, all of them
	saidAll  [32]byte        // as our last HELLO said it
	scopes   map[trust.ScopeID]*scope
	order    []trust.ScopeID // ascending
	places   int             // what of peers' positions is remembered: the sum of logState.told
	mostOf   int             // of them
	blind    bool            // nothing is applied on one of the sides
	turn     int             // where the next CHUNKS frame begins to look, so that no log waits for another

	greeted     bool
	theirHeads  []trust.EntryID // of the last HELLO, and what we sent since
	theirAll    [32]byte
	theirs      bye   // versions of the peer
	incompat    bool  //
	theirsFull  Full  // what the peer's last HELLO said
	clockAtPing int64 // our Unix microseconds when the outstanding PING left
	pingNonce   uint64
	rtt, offset time.Duration

	sentSeq  uint64 // number of our last CHUNKS frame
	seenSeq  uint64 // of the peer's last that we have handled
	inflight []flight
	bytesOut int // sum of inflight

	oweHello, askHello bool
	saidHello          bool // ever
	saidFull           Full // in the last HELLO
	saidCarried        []byte
	theirCarried       []byte // in the peer's last HELLO
	oweEntries         bool
	entriesHeld        bool // until entriesBy, or until the peer's come
	entriesBy          time.Time
	entriesLeft        [][]byte // of a transfer that takes several frames
	owePong            bool
	pongNonce          uint64

	lastHello    time.Time // when ours went out
	lastProgress time.Time // when the peer last brought us nearer to agreement
	nextPing     time.Time
	nextFeed     time.Time // when to look whether it is our turn
	helloBudget  float64   // of the peer's
	helloSeen    time.Time

	agreedOnce   bool
	hop          uint64 // the highest that has come
	status       Status
	chunkBytesIn uint64
}

// scope is what is known of one scope that both devices belong to.
type scope struct {
	id     trust.ScopeID
	mine   chunk.Vector
	digest Digest // ours
	told   Digest // ours as the peer last heard it
	shared bool   // the peer named it in its last HELLO
	paused bool   // the peer gets it from another now
	waits  bool   // we asked the peer to wait

	theirs   chunk.Vector // durable at the peer
	heard    bool         // the peer has said in this session what it holds
	known    bool         // theirs is complete: the peer told its vector, or an equal hash
	remote   Digest       // the peer's
	suspects time.Time    // since when vectors are equal and what is applied is not; zero: not
	diverged bool

	logs map[chunk.LogID]*logState

	loose map[looseAt]struct{} // checkpoints and words that were sent out of their turn

	forks       map[chunk.LogID][32]byte // logs of which we hold several histories
	oweBranches map[chunk.LogID]struct{}
	unheard     int // logs for which there was no room when the peer was last asked to tell once more; 0: it was not asked
	oweVector   bool
	saidVector  bool // since the peer's last HELLO
	oweAck      bool
	ackLogs     map[chunk.LogID]struct{}
}

// looseAt is the place of a checkpoint, or of a word on one.
type looseAt struct {
	log     chunk.LogID
	counter uint64
}

// logState is how far the sending of one log has come.
type logState struct {
	sent      uint64        // the last counter on the way, or what the peer holds
	notBefore time.Time     // others' chunks give the peer time to get them elsewhere
	stall     time.Duration // the peer received and did not keep: wait longer each time

	checked bool // the peer's position has been compared with our chunk there

	fork  bool             // this log has several histories, here or at the peer: what follows holds, and sent and stall do not
	heard bool             // the peer has told what it holds
	has   []chunk.Position // that, and what was sent since
	got   []chunk.Position // what the peer has sent since, of very much the last
	full  bool             // there was no room for what the peer last told
	sated bool             // the peer was sent all of it once
	told  int              // how many of has and got count among state.places: those that the peer named
	said  [32]byte         // what we held when the peer last heard of it
	whole [32]byte         // what we held when the peer lacked nothing of it
}

// flight is a run of chunks on the way.
type flight struct {
	scope trust.ScopeID
	log   chunk.LogID
	seq   uint64
	last  uint64 // counter
	bytes int
	fork  bool // of a log with several histories, of which a vector names one
}

func headsHash(sorted []trust.EntryID) [32]byte {
	h := sha256.New()
	h.Write([]byte("chartmesh heads 1"))
	for _, id := range sorted {
		h.Write(id[:])
	}
	return [32]byte(h.Sum(nil))
}

// look reads the replica anew. It returns with s.mu locked.
func (s *Session) look() *state {
	s.local.Lock()
	defer s.local.Unlock()
	loc := s.cfg.Replica.Hello(s.cfg.Peer)
	slices.SortFunc(loc.Scopes, func(a, b ScopeDigest) int { return compareScopes(a.Scope, b.Scope) })
	if len(loc.Scopes) > MaxScopes {
		loc.Scopes = loc.Scopes[:MaxScopes]
	}
	vectors := make([]chunk.Vector, len(loc.Scopes))
	forks := make([]map[chunk.LogID][32]byte, len(loc.Scopes))
	for i, d := range loc.Scopes {
		vectors[i] = writable(s.cfg.Replica.Vector(d.Scope))
		forks[i] = s.cfg.Replica.Forks(d.Scope)
	}
	s.mu.Lock()
	st := &s.mu.state
	st.practice = loc.Practice
	was := st.allHeads
	if st.heads, st.allHeads = sortedHeads(loc.Heads); st.allHeads != was {
		st.oweNews() // whoever makes the look: what was written since must not go before
	}
	st.order = st.order[:0]
	kept := make(map[trust.ScopeID]*scope, len(loc.Scopes))
	for i, d := range loc.Scopes {
		sc := st.scopes[d.Scope]
		if sc == nil {
			sc = &scope{id: d.Scope, theirs: chunk.Vector{}, logs: map[chunk.LogID]*logState{}}
		}
		if kept[d.Scope] == nil {
			st.order = append(st.order, d.Scope)
		}
		sc.mine, sc.digest, sc.forks = vectors[i], d.Digest, forks[i]
		for log := range sc.forks {
			sc.setFork(log)
		}
		kept[d.Scope] = sc
	}
	for id, sc := range st.scopes { // what is no longer shared is forgotten
		if kept[id] == nil {
			st.letGo(sc, func(chunk.LogID, *logState) bool { return true })
		}
	}
	st.scopes = kept
	return st
}

// oweNews notes that the peer is owed entries that are new here.
func (st *state) oweNews() {
	if st.greeted && st.allHeads != st.theirAll {
		st.oweEntries, st.oweHello, st.entriesHeld = true, true, false
	}
}

// writable returns of v what a frame can carry: all of it, unless there are more logs than any practice makes; then the
// first.
func writable(v chunk.Vector) chunk.Vector {
	maps.DeleteFunc(v, func(_ chunk.LogID, p chunk.Position) bool { return p.Counter == 0 })
	if len(v) > chunk.MaxLogs {
		for _, id := range v.Logs()[chunk.MaxLogs:] {
			delete(v, id)
		}
	}
	return v
}

func (sc *scope) log(id chunk.LogID) *logState {
	l := sc.logs[id]
	if l == nil {
		l = &logState{sent: sc.theirs[id].Counter}
		sc.logs[id] = l
	}
	return l
}

// raise notes that the peer holds a log up to p.
func (sc *scope) raise(id chunk.LogID, p chunk.Position) (news bool) {
	have, ok := sc.theirs[id]
	if p.Counter <= have.Counter || !ok && len(sc.theirs) >= chunk.MaxLogs {
		return false
	}
	sc.theirs[id] = p
	l := sc.log(id)
	l.sent = max(l.sent, p.Counter)
	l.stall, l.notBefore = 0, time.Time{}
	return true
}

// compare finds out whether the peer's log stands at another chunk than ours with the same counter.
func (sc *scope) compare(id chunk.LogID, p chunk.Position) {
	if mine := sc.mine[id]; p.Counter > 0 && mine.Counter == p.Counter && mine.Tip != p.Tip {
		sc.setFork(id)
	}
}

// behind reports whether the peer holds what we lack.
func (sc *scope) behind() bool {
	for id, p := range sc.theirs {
		if p.Counter > sc.mine[id].Counter {
			return true
		}
	}
	return false
}

// hear takes the peer's digest. If it equals ours the peer holds exactly what we hold.
func (sc *scope) hear(d Digest) (equal bool) {
	sc.remote = d
	if !sc.equal() {
		return false
	}
	sc.paused = false
	if sc.mine.Hash() == sc.digest.VectorHash {
		for id, p := range sc.mine {
			sc.raise(id, p)
		}
		for id, l := range sc.logs {
			if l.fork {
				l.whole = sc.print(id)
			}
		}
		sc.known = true
	}
	return true
}

func (sc *scope) equal() bool { return sc.shared && sc.remote.VectorHash == sc.digest.VectorHash }

func (sc *scope) agreed() bool { return sc.equal() && sc.remote == sc.digest && sc.digest.AtEnd }

// differs says that both have applied all of the same vector and have not got the same.
func (sc *scope) differs() bool {
	return sc.equal() && sc.remote.AtEnd && sc.digest.AtEnd && sc.remote.Applied != sc.digest.Applied
}

// judge follows signs of divergence; confirmed says that a HELLO has come that answers ours.
func (sc *scope) judge(now time.Time, confirmed bool) {
	switch {
	case !sc.differs():
		sc.suspects, sc.diverged = time.Time{}, false
	case sc.suspects.IsZero():
		sc.suspects = now
	case confirmed && now.Sub(sc.suspects) >= divergedCheck:
		sc.diverged = true
	}
}

func (st *state) inSync() bool {
	if !st.greeted || st.allHeads != st.theirAll {
		return false
	}
	for _, sc := range st.scopes {
		if !sc.equal() {
			return false
		}
	}
	return true
}

// noteAgreement freezes the count of round trips when both agree for the first time.
func (st *state) noteAgreement() {
	if !st.agreedOnce && st.inSync() {
		st.agreedOnce = true
		st.status.RoundTrips = int(st.hop+1) / 2
	}
}

// nextHop is what the next frame says.
func (st *state) nextHop() uint64 {
	if st.agreedOnce {
		return 0
	}
	return min(st.hop+1, maxHop)
}

// standsOut says whether anything is left that only the peer can settle.
func (st *state) standsOut() bool {
	if !st.inSync() || len(st.inflight) > 0 {
		return true
	}
	for _, sc := range st.scopes {
		if !st.blind && !sc.agreed() {
			return true
		}
	}
	return false
}

// resolve takes off the books what the peer holds, or has seen and not kept: frames up to number seen. What the peer said
// of one scope says nothing of another, whose ACK may be on the way; only is that scope, or nil if it spoke of all.
func (st *state) resolve(now time.Time, seen uint64, only *trust.ScopeID) {
	left := st.inflight[:0]
	for _, f := range st.inflight {
		if only != nil && f.scope != *only {
			left = append(left, f)
			continue
		}
		sc := st.scopes[f.scope]
		held := sc == nil || !f.fork && sc.theirs[f.log].Counter >= f.last || f.fork && f.seq <= seen
		if !held && f.seq > seen {
			left = append(left, f)
			continue
		}
		st.bytesOut -= f.bytes
		if held {
			continue
		}
		// Lost on the way, out of order, or refused. Sent again at once it could circle for ever.
		l := sc.log(f.log)
		if have := sc.theirs[f.log].Counter; l.sent > have {
			l.sent = have
			l.stall = min(max(2*l.stall, stallFirst), stallMost)
			l.notBefore = now.Add(l.stall)
			sc.loose = nil // which may be what was lost
		}
	}
	st.inflight = left
}

// forget drops what was believed to be on the way, since the peer has begun anew. What it told to hold, it still holds.
func (st *state) forget() {
	st.inflight, st.bytesOut, st.seenSeq = nil, 0, 0
	st.places = 0
	for _, sc := range st.scopes {
		sc.logs, sc.loose, sc.unheard = map[chunk.LogID]*logState{}, nil, 0
		sc.paused = false
	}
}

// hurry sends again at once what the peer did not keep: it has room now.
func (st *state) hurry(now time.Time) {
	for _, sc := range st.scopes {
		for _, l := range sc.logs {
			if l.stall > 0 {
				l.stall, l.notBefore = 0, now
			}
		}
	}
}

// mostBehind ends the sum of what a peer claims to hold, before it and the bytes estimated from it go round.
const mostBehind = 1 << 40

// Status returns the session's state at now.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.state
	r := st.status
	r.Started = st.started
	r.Greeted, r.Incompatible = st.greeted, st.incompat
	r.PeerVersion, r.PeerProtocol, r.PeerSchema = st.theirs.version, st.theirs.protocol, st.theirs.schema
	r.PeerFull = st.theirsFull
	r.InSync = st.inSync()
	r.Agreed = r.InSync
	for _, sc := range st.scopes {
		r.Agreed = r.Agreed && (st.blind || sc.agreed())
		r.Diverged = r.Diverged || sc.diverged
		for _, l := range sc.logs {
			if l.fork {
				r.Forked++
			}
		}
		for id, p := range sc.theirs {
			if have := sc.mine[id].Counter; p.Counter > have {
				r.BehindChunks = min(r.BehindChunks+p.Counter-have, mostBehind)
			}
		}
		if sc.shared {
			for id, p := range sc.mine {
				if have := sc.theirs[id].Counter; p.Counter > have {
					r.AheadChunks += p.Counter - have
				}
			}
		}
	}
	mean := uint64(meanChunk)
	if r.ChunksIn > 0 {
		mean = st.chunkBytesIn / r.ChunksIn
	}
	r.BehindBytes = r.BehindChunks * mean
	r.InFlight = st.bytesOut
	r.RTT, r.ClockOffset = st.rtt, st.offset
	return r
}

func compareScopes(a, b trust.ScopeID) int {
	return slices.Compare(a[:], b[:])
}

// pending lists the logs of a scope that hold more than the peer has or is about to get, ascending.
func (sc *scope) pending(now time.Time) []chunk.LogID {
	if !sc.shared || !sc.known || sc.paused {
		return nil
	}
	var ids []chunk.LogID
	for id, p := range sc.mine {
		l := sc.log(id)
		if l.fork && sc.pendingBranch(id, l, now) || !l.fork && p.Counter > l.sent && !now.Before(l.notBefore) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, chunk.LogID.Compare)
	return ids
}

// pass forgets times to wait for that are over. One that stayed would be a deadline that is always past, and while the
// window is full nothing else would end it.
func (st *state) pass(now time.Time) {
	for _, sc := range st.scopes {
		for _, l := range sc.logs {
			if !now.Before(l.notBefore) {
				l.notBefore = time.Time{}
			}
		}
	}
}

// takeAck returns where the logs stand of which the peer is owed word, and forgets the debt.
func (sc *scope) takeAck() chunk.Vector {
	v := chunk.Vector{}
	for id := range sc.ackLogs {
		if p, ok := sc.mine[id]; ok {
			v[id] = p
		}
	}
	sc.oweAck, sc.ackLogs = false, nil
	return v
}

// needs reports whether the peer is to be sent a checkpoint or word out of its turn. How far it holds a log with several
// histories does not say that it holds this one.
func (sc *scope) needs(it Item) bool {
	_, sent := sc.loose[looseAt{it.Log, it.Counter}]
	l := sc.log(it.Log)
	return !sent && (l.fork || l.sent < it.Counter)
}

func locate(b []byte) (Place, error) {
	if chunk.IsSkip(b) {
		skip, err := chunk.ParseSkip(b)
		return Place{Scope: skip.Scope, Log: skip.Log, Position: skip.Position()}, err
	}
	sealed, err := chunk.Parse(b)
	if err != nil {
		return Place{}, err
	}
	return Place{Scope: sealed.Header().Scope, Log: sealed.Log(), Position: sealed.Position()}, nil
}
