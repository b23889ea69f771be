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

func EncodeVector(scope trust.ScopeID, v chunk.Vector) Frame {
	m := vector{scope: scope, vector: v}
	return m.encode()
}

func EncodeAck(scope trust.ScopeID, v chunk.Vector) Frame {
	m := ack{scope: scope, stored: v}
	return m.encode()
}
