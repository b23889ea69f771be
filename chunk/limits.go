package chunk

import "chartmesh/trust"

// Caps on everything that comes from outside. All of them are part of the format.
const (
	// MaxChunk is the size of a whole chunk.
	MaxChunk = 8 << 20
	// MaxBody is how much a body may inflate to.
	MaxBody = 16 << 20
	// MaxChanges is the size of all raw changes of one chunk together.
	MaxChanges = 4 << 20
	// MaxChangeCount is how many changes one chunk carries.
	MaxChangeCount = 4096
	// MaxParts is how many chunks one checkpoint packs, and MaxCheckpointChanges how many changes.
	MaxParts             = 1 << 16
	MaxCheckpointChanges = 1 << 17
	// MaxRuns is how many runs one checkpoint covers.
	MaxRuns = 1 << 15
	// MaxClear is the size of a chunk's clear part.
	MaxClear = 4 << 20
	// MaxAuthor is the length of a user's name in bytes.
	MaxAuthor = 256
	// MaxReason is the length in bytes of what somebody says about a decision.
	MaxReason = 1024
	// MaxReplaces is how many earlier decisions one decision takes the place of.
	MaxReplaces = 64
	// MaxKeys is how many epochs one KEYS chunk opens.
	MaxKeys = trust.MaxParents
	// MaxStatement is the size of what a voter signs of a document, and MaxHeads how many heads a certificate names.
	MaxStatement = 512
	MaxHeads     = 64
	// MaxSchema is the largest schema number.
	MaxSchema = 1<<16 - 1
	// MaxLogs is how many logs one vector names.
	MaxLogs = 4096
	// MaxDictionary is the size of a compression dictionary.
	MaxDictionary = 1 << 20
)

// maxHeader is more than any header takes.
const maxHeader = 512
