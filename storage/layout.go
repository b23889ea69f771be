package storage

// The key layout: the one place where keys are named. A kind is one line here and one row of the table in
// docs/spec/store-layout.md (a test holds them together). A number is never given a second meaning. 0x00 to 0x0f are the
// store's own: callers can neither read nor write them. 0x21 is the engine's.
//
// Each kind has Key and Parse, and the prefixes for a Scan: All of the kind, With its first parts, Beginning for the
// strings that begin alike.
type (
	digest = [32]byte
	scope  = [16]byte
)

var (
	// The store's own.
	keyFormat  = define1[byte](0x01, "format", "number")
	keySegment = define2[digest, uint64](0x02, "segment", "key hash", "index")
	keySerial  = define1[byte](0x03, "serial", "number")

	// Meta holds what there is one of; the numbers are the agent's, from 128 on those of logs.
	Meta = define1[byte](0x10, "meta", "number")
	// Member holds an entry of the membership log.
	Member = define1[digest](0x11, "member", "entry ID")

	// Chunk holds a sealed chunk at its place in a log.
	Chunk = define3[scope, digest, uint64](0x20, "chunk", "scope", "log ID", "counter")
	// Branch holds the chunks of a log that was written twice, beside those under Chunk.
	Branch = define4[scope, digest, uint64, digest](0x25, "branch", "scope", "log ID", "counter", "chunk ID")
	// Gone holds that a chunk beside others was damaged and has not come again.
	Gone = define4[scope, digest, uint64, digest](0x2e, "gone", "scope", "log ID", "counter", "chunk ID")
	// Loose holds a checkpoint, or a word on one, that came before its turn, since a skip needs it.
	Loose = define4[scope, digest, uint64, digest](0x26, "loose", "scope", "log ID", "counter", "chunk ID")
	// Skip stands for chunks of a log that a checkpoint holds, under the counter of the last of them.
	Skip = define3[scope, digest, uint64](0x27, "skip", "scope", "log ID", "counter")
	// LogHead holds how far a log is held: the contiguous prefix and the ID at its end.
	LogHead = define2[scope, digest](0x22, "log head", "scope", "log ID")
	// Cursor holds how far a log is applied.
	Cursor = define2[scope, digest](0x23, "cursor", "scope", "log ID")
	// Ack holds how far another device said that it holds a log.
	Ack = define3[digest, scope, digest](0x24, "ack", "device", "scope", "log ID")
	// Said holds when another device last said what it holds of a scope.
	Said = define2[digest, scope](0x62, "said", "device", "scope")

	// Parked wakes a chunk by what it waits for: a kind of thing and its name.
	Parked = define3[byte, digest, Ref](0x28, "parked", "kind of thing", "name", "chunk")
	// Held holds why a chunk is stored but not part of its document: parked, quarantined or unapplied.
	Held = define1[Ref](0x29, "held", "chunk")
	// Lost holds a change that is kept and does not stand, since its author wrote another in its place.
	Lost = define2[digest, digest](0x2d, "lost", "document ID", "change hash")

	// EpochKey holds a key of an epoch as a KEYS chunk has it.
	EpochKey = define3[scope, digest, digest](0x2f, "epoch key", "scope", "epoch", "chunk ID")

	// Decision holds one decision on a chunk, by the chunk that carries it; also that a decision which has not arrived is replaced.
	Decision = define2[Ref, digest](0x2a, "decision", "chunk", "chunk ID")
	// Decided holds how many decisions on a chunk stand.
	Decided = define1[Ref](0x2b, "decided", "chunk")

	// Document holds a document's head.
	Document = define1[digest](0x30, "document", "document ID")
	// Change holds the record of the nth change of a document.
	Change = define2[digest, uint64](0x31, "change", "document ID", "n")
	// ChangeAt finds a change's document and n by its hash.
	ChangeAt = define1[digest](0x32, "change at", "change hash")
	// Snapshot caches a document's saved form.
	Snapshot = define1[digest](0x33, "snapshot", "document ID")

	// Checkpoint holds what has become of a checkpoint of a document.
	Checkpoint = define3[digest, digest, uint64](0x34, "checkpoint", "document ID", "log ID", "counter")
	// Word holds a device's word on a checkpoint.
	Word = define2[digest, digest](0x35, "word", "chunk ID", "device")
	// Unsettled holds a checkpoint for which nothing was deleted yet, by who holds no key to its document.
	Unsettled = define1[digest](0x37, "unsettled", "chunk ID")
	// Erasure holds what has become of an order to erase a document.
	Erasure = define2[digest, digest](0x3e, "erasure", "document ID", "chunk ID")
	// Assent holds where an assent to an order to erase stands, by the order and itself.
	Assent = define2[digest, digest](0x3f, "assent", "chunk ID", "chunk ID")
	// Tail holds how many changes a document has that no checkpoint packs, once they are many.
	Tail = define1[digest](0x36, "tail", "document ID")

	// Quorum holds what there is one of for a voter (package lockquorum/driver), and who the voters are (lockquorum/local).
	Quorum = define1[byte](0x38, "quorum", "number")
	// QuorumEntry holds an entry of the quorum's log.
	QuorumEntry = define1[uint64](0x39, "quorum entry", "index")
	// QuorumName holds a name behind a keyed hash that the quorum knows, and that this device has used or was told.
	QuorumName = define2[byte, digest](0x3a, "quorum name", "kind of thing", "name")
	// Overlay holds a change of this device that is shown here and not certified.
	Overlay = define2[digest, digest](0x3b, "overlay", "document ID", "change hash")
	// Certificate holds what a voter certifies of a protected document, by the chunk that carries it.
	Certificate = define2[digest, digest](0x3c, "certificate", "document ID", "chunk ID")
	// Draft holds which drafts a change of this device made final, until they are removed.
	Draft = define2[digest, digest](0x3d, "draft", "document ID", "change hash")

	// Resource caches what is shown of a resource.
	Resource = define2[string, string](0x40, "resource", "type", "id")
	// ResourceIn caches a resource as it stands in one document.
	ResourceIn = define2[digest, string](0x41, "resource in document", "document ID", "root key")
	// DocumentsOf lists the documents that hold a resource; more than one if it was corrected apart.
	DocumentsOf = define3[string, string, digest](0x42, "documents of resource", "type", "id", "document ID")
	// OfPatient lists the resources of a patient's chart.
	OfPatient = define3[string, string, string](0x43, "resource of patient", "patient id", "type", "id")
	// Term finds resources by a search term.
	Term = define3[string, string, string](0x44, "term", "term", "type", "id")
	// Saving holds what a repair is about to write once more of a resource, until it has.
	Saving = define2[string, string](0x47, "saving", "type", "id")
	// Imported remembers what was last imported of a resource.
	Imported = define2[string, string](0x45, "imported", "type", "id")

	// Conflict holds an open conflict.
	Conflict = define1[[16]byte](0x50, "conflict", "conflict ID")
	// ConflictOf lists the open conflicts of a resource.
	ConflictOf = define3[string, string, [16]byte](0x51, "conflict of resource", "type", "id", "conflict ID")

	// Peer holds what is known of another device: its name, addresses and last contact.
	Peer = define1[digest](0x60, "peer", "device")
	// Event holds what happened, in the order of this device.
	Event = define1[uint64](0x61, "event", "cursor")

	// Range holds the parts of a range that a log of this device gives numbers from, and how far each came (package lockquorum/ranges).
	Range = define2[digest, digest](0x64, "range", "range", "log ID")
	// RangeNumber holds a number that this device gave, and RangeItem finds it by what it was given to.
	RangeNumber = define2[digest, uint64](0x65, "range number", "range", "n")
	RangeItem   = define2[digest, digest](0x66, "range item", "range", "name")

	// QuorumPiece holds a piece of a voter's snapshot.
	QuorumPiece = define1[digest](0x68, "quorum piece", "hash")

	// Within holds the store of one of many practices, at a number that the anchor gives it; see Part.
	Within = define1[uint64](0x70, "within", "practice number")
	// Practice holds what an anchor knows of a practice beside that.
	Practice = define1[digest](0x71, "practice", "founding entry")
	// Taken holds how much is under Within with its number; see Share.
	Taken = define1[uint64](0x72, "taken", "practice number")
	// Dropped holds a number whose practice was dropped, and whether what is under Within with it is deleted.
	Dropped = define1[uint64](0x73, "dropped", "practice number")
)
