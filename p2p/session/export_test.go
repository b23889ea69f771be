package session

import (
	"chartmesh/chunk"
	"chartmesh/trust"
)

// Frames for tests that speak for a peer by hand.

func EncodeChunks(scope trust.ScopeID, seq uint64, list ...[]byte) Frame {
	m := chunks{scope: scope, seq: seq, chunks: list}
	return m.encode()
}

// EncodeBranch is a CHUNKS of a history beside the first.
func EncodeBranch(scope trust.ScopeID, seq uint64, list ...[]byte) Frame {
	m := chunks{scope: scope, seq: seq, flags: chunksBranch, chunks: list}
	return m.encode()
}

func EncodeVector(scope trust.ScopeID, v chunk.Vector) Frame {
	m := vector{scope: scope, vector: v}
	return m.encode()
}

func EncodeAck(scope trust.ScopeID, v chunk.Vector) Frame {
	m := ack{scope: scope, stored: v}
	return m.encode()
}

// EncodeSigned is an ACK as the peer itself makes it.
func EncodeSigned(r Replica, scope trust.ScopeID, seen uint64, v chunk.Vector, d Digest) Frame {
	m := ack{scope: scope, seen: seen, stored: v, digest: d.wire()}
	copy(m.signature[:], r.SignAck(m.message(r.Hello(trust.DeviceID{}).Practice)))
	return m.encode()
}

// EncodeSeen is a VECTOR that says that frames up to seen were handled.
func EncodeSeen(scope trust.ScopeID, seen uint64, v chunk.Vector) Frame {
	m := vector{scope: scope, seen: seen, vector: v}
	return m.encode()
}

// EncodeHello is a HELLO that claims the digests.
func EncodeHello(l Local, first bool, scopes ...ScopeDigest) Frame {
	m := hello{protocol: Protocol, schema: Range{1, 1}, practice: l.Practice}
	m.heads, m.headsHash = sortedHeads(l.Heads)
	if first {
		m.flags = helloFirst
	}
	for _, d := range scopes {
		m.scopes = append(m.scopes, wireDigest{scope: d.Scope, digest: d.wire()})
	}
	return m.encode()
}

// Remembered is how many logs a session keeps something of.
func Remembered(s *Session) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.mu.scopes {
		n += len(sc.theirs) + len(sc.logs) + len(sc.ackLogs)
	}
	return n
}

// Positions is how many places a session keeps of where its peer stands in a log.
func Positions(s *Session, scope trust.ScopeID, log chunk.LogID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.mu.scopes[scope].log(log)
	return len(l.has) + cap(l.got)
}

// SetMostPlaces lowers the bound on what a session remembers of what its peer holds.
func SetMostPlaces(s *Session, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.mostOf = n
}

// Places is how many positions a session keeps of what its peer told and sent, as counted and as they are.
func Places(s *Session) (counted, kept int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.mu.scopes {
		for _, l := range sc.logs {
			kept += cap(l.has) + len(l.got)
		}
	}
	return s.mu.places, kept
}

// EncodeBranches says of each log that the peer holds the positions.
func EncodeBranches(scope trust.ScopeID, logs []chunk.LogID, held []chunk.Position) Frame {
	m := branches{scope: scope}
	for _, id := range logs {
		m.logs = append(m.logs, branch{log: id, held: held})
	}
	return m.encode()
}
