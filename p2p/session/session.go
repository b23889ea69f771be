// Package session is the conversation by which two devices of a practice come to hold the same chunks.
//
// Nouns: a [Session] is one device's side of the conversation with one connected peer. It speaks in frames ([Frame]);
// the kinds are HELLO, ENTRIES, VECTOR, BRANCHES, CHUNKS, ACK, PING, PONG and BYE (messages.go, docs/spec/sync-session.md). A
// [Replica] is what the device holds. A [Digest] says in 65 bytes what a replica holds of a scope and has applied.
//
// Guarantees: a frame that is lost, repeated or late does no harm, the next exchange of HELLO and VECTOR heals it. What
// an ACK names was durable when it was made. What the peer holds is only ever learnt from the peer, and never taken
// back within a session; where it tells of more histories than a session remembers, the rest is asked for again. A peer
// gets nothing of a scope that the replica does not share with it, and no chunk before the membership entries that it
// lacks. Whatever is owed to the peer is kept as a fact and not as a queue of frames, so that memory stays bounded
// whatever the peer sends. Two replicas that agree find out by one HELLO each.
//
// It starts no goroutine, reads no clock and knows no network: the caller brings frames and the time, and takes out with
// [Session.Next] what is to be sent. Who the peer is, was proven by the connection; whether it may connect is the
// caller's to judge; whether a chunk is good, the replica's.
package session

import (
	"context"
	"sync"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
)

// Frame is one message, without the length that goes before it on a stream.
type Frame []byte

// Digest is what a replica holds of a scope, all of it taken at one moment.
type Digest struct {
	VectorHash [32]byte // of the durable vector: chunk.Vector.Hash
	Applied    [32]byte // of the set of what has been applied
	AtEnd      bool     // the applier has nothing left to do
}

// ScopeDigest is a scope with its digest.
type ScopeDigest struct {
	Scope trust.ScopeID
	Digest
}

// Local is what a HELLO says of the replica.
type Local struct {
	Practice trust.EntryID   // the founding entry
	Heads    []trust.EntryID // of the membership log
	Scopes   []ScopeDigest   // those that the peer belongs to as well, no others
}

// Ack is a peer's word on what it holds.
type Ack struct {
	Scope  trust.ScopeID
	Stored chunk.Vector // these logs are durable at the peer up to here
	Digest              // the peer's
	Time   time.Time    // the peer's clock, milliseconds
	// First says that the peer had said nothing of this scope in this session before, and that Stored is all that it holds: if it
	// held more in another session, it was put back or lost that.
	First bool
	// Message and Signature are the peer's signed statement; nil if what is held follows from a HELLO, a VECTOR or the chunks that it
	// sends, which the connection alone vouches for.
	Message, Signature []byte
}

// Replica is what a device holds. Its methods are called from several goroutines and never under a lock of the session
// that a frame waits for, except Hello and Vector, which answer from memory and call nothing of the session.
type Replica interface {
	// Hello describes the replica to peer.
	Hello(peer trust.DeviceID) Local
	// Vector returns a copy of what is durable of a scope: contiguous prefixes.
	Vector(scope trust.ScopeID) chunk.Vector

	// EntriesSince returns the membership entries that are not known from heads, parents before children. Heads that
	// the replica does not know are left out of account.
	EntriesSince(heads []trust.EntryID) [][]byte
	// AddEntries returns once the entries are durable. An entry whose parents are missing is left out without an error
	// (the next HELLO asks again), one that is known already too; an error ends the session.
	AddEntries(ctx context.Context, from trust.DeviceID, entries [][]byte) error

	// Chunks returns what a log holds durably, ascending from after+1 without a gap: at least one item, if there is one,
	// and no more than fit maxBytes, which does not count what is Loose.
	Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) ([]Item, error)
	// Stood returns where the history of a log that Chunks returns stood at a counter; the zero Position if that cannot be told.
	Stood(scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error)
	// Forks names what is held of each log of a scope that has several histories: equal names for equal holdings. Like Hello
	// and Vector it answers from memory. Vector gives of such a log the longest history.
	Forks(scope trust.ScopeID) map[chunk.LogID][32]byte
	// Locators describes what is held of a log: the end of each history and chunks below it, ascending, at most MaxLocators.
	Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error)
	// Beyond returns durable chunks of a log, of all its histories, that are neither at one of the positions nor below it,
	// parents before children: at least one, if there is one, and no more than fit maxBytes.
	Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) ([]Item, error)
	// Arrive judges each item on its own and returns once those that it takes are durable; the vector then says how
	// far. What lies beyond prefix + 1 may be kept or dropped. An error says that this device cannot store, or that the
	// peer is hostile; it ends the session.
	Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) error

	// Acked takes note that the peer holds what ack says. It runs between the arrival of two frames: it should not wait
	// for the disk. What it forgets in a crash is told again in the next session.
	Acked(ctx context.Context, from trust.DeviceID, ack Ack) error
	// SignAck signs a statement of this device; VerifyAck checks one of another's.
	SignAck(message []byte) []byte
	VerifyAck(device trust.DeviceID, message, signature []byte) bool
}

// Bookkeeper is a Replica that remembers what its peers hold.
type Bookkeeper interface {
	Replica
	// Dropped takes note that the peer, by its own word, deletes all that it holds of the practice. Who may say so is the replica's to judge.
	Dropped(ctx context.Context, from trust.DeviceID) error
}

// Carrier is a Replica that carries how far its practice's quorum was seen to be, from one device to the next, as bytes that the session does not read.
type Carrier interface {
	Replica
	// Carries returns it; empty: nothing was seen. At most MaxCarried bytes; it answers from memory.
	Carries() []byte
	// Carried takes what the peer carries, if that is another than before in this session. What it can rely on is the replica's to judge.
	Carried(ctx context.Context, from trust.DeviceID, carried []byte)
}

// Range is an inclusive range of versions.
type Range struct{ Min, Max uint16 }

// Overlaps reports whether v and o have a version in common.
func (v Range) Overlaps(o Range) bool { return v.Min <= o.Max && o.Min <= v.Max }

// Item is what CHUNKS carries: a chunk, or a skip in the place of chunks that a checkpoint stands for.
type Item struct {
	Bytes []byte
	// Log and Counter say where the log stands after it.
	Log     chunk.LogID
	Counter uint64
	// Loose is a checkpoint, or a word on one, that comes out of its turn, since a skip after it needs it. Who holds it
	// already need not be sent it.
	Loose bool
	Skip  bool
}

// Protocol is the range of this package's protocol that it speaks. Versions, newest first:
//
//	2  2026-11-25  skips among chunks, and checkpoints out of their turn
//	1  2026-11-22  the first
var Protocol = Range{1, 2}

// protocolSkips is the first version that knows skips.
const protocolSkips = 2

// Config says who talks to whom. Self, Peer and Replica are needed, all else has a useful zero.
type Config struct {
	Self, Peer trust.DeviceID
	Replica    Replica
	Version    string // of the product, at most 64 bytes
	Protocol   Range  // zero: [Protocol]
	Schema     Range  // versions of documents that this device reads; zero: 1 to 1

	Window       int           // bytes of chunks that may be on the way unacknowledged; zero: 4 MiB
	FramePayload int           // bytes of chunks in one frame, if more than one chunk; zero: 256 KiB
	Rehello      time.Duration // how long something may stand out before it is asked for again; zero: 30 s
	PingEvery    time.Duration // zero: 15 s
	RelayDelay   time.Duration // how long others' chunks wait (plus a round trip) for the peer to get them; zero: 20 ms

	// Blind says that one of the two applies nothing: to hold the same is all that there is to agree on.
	Blind bool

	// Full says whether this device stores nothing, and why; nil: it always stores. The peer is told when it changes, as soon as Next
	// is called. It must not block.
	Full func() Full

	// Feed is shared by the sessions of a device that may lack the same from several peers; nil: each peer sends all.
	Feed *Feed

	// Locate tells a chunk's place from its header; nil: by chunk.Parse.
	Locate func(chunk []byte) (Place, error)
}

// Place is where a chunk belongs.
type Place struct {
	Scope    trust.ScopeID
	Log      chunk.LogID
	Position chunk.Position // of its log when the chunk is the last
}

// Progress names logs that hold more than before.
type Progress struct {
	Scope trust.ScopeID
	Logs  []chunk.LogID
}

// Result is what a frame brought. The caller tells the device's other sessions by Relayed and LocalEntries.
type Result struct {
	Arrived []Progress
	Entries bool // the membership log grew
}

// Full is why a device stores nothing.
type Full uint8

const (
	NotFull  Full = 0 // it stores
	DiskFull Full = 1 // its disk is nearly full
	UsedUp   Full = 2 // the practice's share of it is used up
)

// Status is a session's state at a glance.
type Status struct {
	Greeted      bool   // the peer's HELLO has come
	InSync       bool   // membership heads equal, and the vectors of every shared scope
	Agreed       bool   // in sync, applied hashes equal, and both appliers at the end
	Diverged     bool   // in sync, both at the end, applied hashes different, twice in a row
	Forked       int    // logs of which this device or the peer holds several histories
	Incompatible bool   // no version in common
	PeerFull     Full   // whether the peer stores nothing, as it says
	PeerVersion  string // of the product
	PeerProtocol Range
	PeerSchema   Range

	BehindChunks uint64 // what the peer has and we lack
	BehindBytes  uint64 // estimated by the mean size of what came so far
	AheadChunks  uint64 // what we have and the peer has not acknowledged
	InFlight     int    // bytes sent and not acknowledged

	RTT         time.Duration // zero: not measured yet
	ClockOffset time.Duration // the peer's clock minus ours; meaningful once RTT is
	RoundTrips  int           // until membership and vectors agreed for the first time

	BytesIn, BytesOut   uint64 // frames with their length prefix
	ChunksIn, ChunksOut uint64
	Started             time.Time
	LastFrame           time.Time // the last that came
}

// Session is one side of a conversation. Its methods are safe for concurrent use, but each of Handle and Next runs one
// call at a time. After any other call the caller should take out frames with Next until there are none.
type Session struct {
	cfg Config

	in    sync.Mutex // one Handle at a time
	out   sync.Mutex // one Next at a time
	local sync.Mutex // one look at the replica at a time, so that an older look never replaces a newer one

	mu struct { // locked after any of the above, never held while the replica is called
		sync.Mutex
		state
	}
}

// New makes a session; it says nothing before Start.
func New(cfg Config) *Session {
	cfg.defaults()
	s := &Session{cfg: cfg}
	s.mu.scopes, s.mu.mostOf, s.mu.blind = map[trust.ScopeID]*scope{}, MaxPlaces, cfg.Blind
	return s
}

func (c *Config) defaults() {
	if c.Protocol == (Range{}) {
		c.Protocol = Protocol
	}
	if c.Schema == (Range{}) {
		c.Schema = Range{1, 1}
	}
	if len(c.Version) > MaxVersion {
		c.Version = c.Version[:MaxVersion]
	}
	if c.Window <= 0 {
		c.Window = defaultWindow
	}
	if c.FramePayload <= 0 || c.FramePayload > MaxChunk {
		c.FramePayload = defaultFramePayload
	}
	if c.Rehello <= 0 {
		c.Rehello = defaultRehello
	}
	if c.PingEvery <= 0 {
		c.PingEvery = defaultPingEvery
	}
	if c.RelayDelay <= 0 {
		c.RelayDelay = defaultRelayDelay
	}
	if c.Locate == nil {
		c.Locate = locate
	}
}
