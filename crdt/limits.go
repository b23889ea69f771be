package crdt

// Caps on everything that a change from elsewhere may claim, and on what a writer here may make. They are part of the
// verdict (docs/spec/change-validation.md): two peers with different caps would hold different documents, so a change
// of any of them is a new ValidatorVersion.
const (
	// ValidatorVersion names the set of rules and caps by which Decode and Index.Judge refuse.
	ValidatorVersion = 1

	MaxChangeBytes    = 4 << 20 // one uncompressed change
	MaxChangeOps      = 65_536
	MaxChangeDeps     = 1_024
	MaxChangeActors   = 256     // the author and all others that the operations name
	MaxChangePreds    = 131_072 // predecessors of all operations together
	MaxChangeNames    = 1 << 20 // bytes of all different keys of a change and of the resources that it touches
	MaxMessageBytes   = 1_024
	MaxKeyBytes       = 1_024 // a key as stored, with its slot prefix
	MaxRootKeyBytes   = 256   // "Type/id"
	MaxValueBytes     = 1 << 20
	MaxDepth          = 64      // of containers; a resource is at 1
	MaxCounter        = 1 << 31 // of an operation; the core's own end is near 1<<32
	MaxSeq            = 1 << 31
	MaxAbsTimeSeconds = 1 << 40

	// MaxCounterGap is how far a change's first operation may lie beyond the ancestors' last plus one. A gap is honest
	// when the writer knew of more than it built on; without an end, one change could use up all counters.
	MaxCounterGap = 1 << 20

	// MaxRecordBytes caps a saved Record. That of an accepted change stays below: at most 28 bytes for an operation,
	// and MaxChangeNames, MaxChangeDeps and MaxChangeActors.
	MaxRecordBytes = 3 << 20
)
