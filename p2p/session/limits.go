package session

import (
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
)

// Caps on what a peer may send. They are part of the protocol (docs/spec/sync-session.md): a frame past one of them is
// malformed and ends the session.
const (
	// MaxChunk is how long one chunk may be.
	MaxChunk = chunk.MaxChunk
	// MaxFrame is how long a frame may be; a stream's reader allocates no more.
	MaxFrame = MaxChunk + 64<<10
	// MaxChunksPerFrame is how many chunks one CHUNKS frame carries at most.
	MaxChunksPerFrame = 4096
	// MaxHeads is how many membership heads a HELLO names; of more, the smallest are named.
	MaxHeads = 64
	// MaxScopes is how many scopes two devices share.
	MaxScopes = 256
	// MaxEntry is how long a membership entry may be.
	MaxEntry = trust.MaxEntry
	// MaxEntriesPerFrame is how many entries one ENTRIES frame carries.
	MaxEntriesPerFrame = 1024
	// MaxVersion is how long the product version may be.
	MaxVersion = 64
	// MaxExtra is room in HELLO for fields of later versions.
	MaxExtra = 1024
	// MaxCarried is how long what is carried of the practice's quorum may be.
	MaxCarried = 256
	// MaxBranchedLogs is how many logs one BRANCHES frame describes, and MaxLocators by how many positions each.
	MaxBranchedLogs = 4096
	MaxLocators     = 4096
	// MaxPlaces is how many positions a session remembers of what its peer told and sent of logs with several histories, all
	// scopes together: 1.5 MiB. A device has one session with each other device.
	MaxPlaces = 1 << 16
	// SignatureSize is the length of an ACK's signature (Ed25519).
	SignatureSize = 64

	// helloBurst and helloRate bound how often a peer may say HELLO: each may cost an answer.
	helloBurst = 64
	helloRate  = 8 // a second
)

// What this side keeps to.
const (
	defaultWindow       = 4 << 20
	defaultFramePayload = 256 << 10
	defaultRehello      = 30 * time.Second
	defaultPingEvery    = 15 * time.Second
	defaultRelayDelay   = 20 * time.Millisecond

	greetingRetry   = 5 * time.Second        // between HELLOs until the peer's has come
	helloPause      = 200 * time.Millisecond // between two HELLOs, except the first
	carryPause      = 30 * time.Second       // before a HELLO that says nothing new but what is carried
	firstPing       = time.Second            // after the start: an idle reconnect costs one HELLO each and no more
	divergedCheck   = 2 * time.Second        // between the first sign of divergence and the HELLO that confirms it
	entriesPatience = 2 * time.Second        // for the entries of a peer whose heads are unknown here
	feedPatience    = 5 * time.Second        // with a peer whose turn it is to send, and who does not
	feedRetry       = time.Second            // between looks whether it is another peer's turn
	feedRest        = 2 * feedRetry          // in which a peer that let its turn go by gets no other
	stallFirst      = time.Second            // before chunks are sent again that the peer received and did not keep
	stallMost       = time.Minute
	maxRelayDelay   = 500 * time.Millisecond
	meanChunk       = 1024 // bytes; an estimate until chunks have come
)

// FrameOverhead is the length prefix of a frame on a stream, which the byte counts of [Status] include.
const FrameOverhead = 4
