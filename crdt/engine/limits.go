package engine

import "time"

// Caps on what passes the pipe and the shim. The supervisor and its child are one binary, so these keep a mistake or a
// damaged child from taking the agent's memory; what peers may send is judged before, by package crdt.
const (
	maxFrame        = 64 << 20         // bytes of one frame's body
	maxAnswer       = maxFrame - 1<<20 // bytes that a document may answer with
	maxBatch        = 16 << 20         // bytes of changes in one frame; more go as several
	maxChanges      = 1 << 20          // changes in one frame
	maxHeads        = 4096             // heads of a document
	maxKeys         = 1 << 20          // root keys of one read
	maxKey          = 64 << 10         // bytes of a key
	maxInstructions = 1 << 20          // of one edit
	maxIndex        = 1<<31 - 1        // positions in a list or text, references in an edit
	maxCounter      = 1<<63 - 1
	maxDepth        = 128 // containers inside one another, as read
	maxStderr       = 64 << 10
)

// Times of the supervision.
const (
	defaultMemory      = 2 << 30 // bytes of address space beyond what the child has mapped when it starts
	defaultCallTimeout = 30 * time.Second
	startTimeout       = 20 * time.Second // for the handshake
	closeTimeout       = 2 * time.Second  // for the child to end by itself
	firstBackoff       = 50 * time.Millisecond
	maxBackoff         = 5 * time.Second
	trimAfter          = 20 * time.Millisecond // of idleness, when documents were forgotten
	trimEvery          = 64                    // forgotten documents, idle or not
)
