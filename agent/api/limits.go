package api

import "time"

// Everything that a caller can make large or slow has its cap here.
const (
	MaxResource        = 4 << 20  // bytes of one resource's JSON
	MaxImportBytes     = 32 << 20 // bytes of all resources of one ImportBatch
	MaxImportResources = 5000     // resources of one ImportBatch
	MaxUser            = 256      // bytes of a user's name
	MaxText            = 1000     // bytes of a text to find
	MaxMatches         = 1000     // results of one find
	MaxReason          = 1024     // bytes of why something was decided
	MaxHeldPage        = 1000     // held chunks of one page
	MaxHistory         = 32 << 20 // bytes of the resources in one history
	MaxInvite          = 30 * 24 * time.Hour

	maxType       = 64       // a resource type's letters
	maxID         = 64       // FHIR R4: id is [A-Za-z0-9\-\.]{1,64}
	maxHeldCursor = 256      // where a page of held chunks begins
	maxVersion    = 128      // a version, a conflict's id, a peer's name
	maxSmall      = 64 << 10 // a request body that holds no resource
	maxHeader     = 16 << 10 // all headers of a request
	maxEvent      = 64 << 10 // one event on the stream

	headerTimeout   = 10 * time.Second // from the connection's first byte to the end of the headers
	eventTimeout    = 10 * time.Second // until the reader of a stream has taken an event; a slower one is cut off
	eventKeepAlive  = 15 * time.Second // a comment on a silent stream, so that both sides notice a dead one
	shutdownTimeout = 10 * time.Second // for requests under way when the agent ends
)
