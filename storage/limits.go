package storage

// Every cap of this package stands here.

const (
	// MaxBatch is how many bytes of keys and values, plus 64 for each pair, fit one Commit.
	MaxBatch = 8 << 20

	// MaxKey is the longest key.
	MaxKey = 4096

	// MaxValue is the longest value; it and its key just fit one batch.
	MaxValue = MaxBatch - MaxKey - perOp

	// perOp is what each put or delete counts beside its bytes.
	perOp = 64
)
