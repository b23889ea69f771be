package storage

// Every cap of this package stands here.

const (
	// MaxBatch is how many bytes of keys and values, plus 64 for each pair, fit one Commit. It is far above
	// what one is meant to hold, so that a change of very many resources (25 MB at the
	// validator's caps) fits with all that follows from it.
	MaxBatch = 32 << 20

	// MaxKey is the longest key.
	MaxKey = 4096

	// MaxValue is the longest value. A chunk has at most 8 MiB; what is shown of a resource of 4 MiB that several sites
	// changed apart holds all its versions.
	MaxValue = 24 << 20

	// perOp is what each put or delete counts beside its bytes.
	perOp = 64
)
