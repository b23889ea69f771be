package fhir

// Caps on what comes from outside. They are generous for real records (the largest official example has 700 KB) and
// small enough that a hostile file costs little.
const (
	MaxResource = 4 << 20   // bytes of JSON of one resource
	MaxDepth    = 64        // objects and arrays inside one another
	MaxNumber   = 256       // characters of a number
	MaxTypeName = 64        // characters of a resource type
	MaxID       = 64        // characters of an id, by FHIR
	MaxDocument = 256 << 20 // bytes of a Bundle, or of a file that is no NDJSON, inflated
	MaxFile     = 16 << 30  // bytes of an NDJSON file, inflated; it is read as a stream
	MaxRun      = 1000      // NDJSON lines that make one unit

	maxTerms      = 256 // search terms of one resource
	maxTermLength = 64  // bytes of a search term
)
