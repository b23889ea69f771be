package storage

// Every cap of this package stands here.

const (
	// MaxBatch is how many bytes of keys and values (plus perOp for each pair) always fit one Commit.
	MaxBatch = 4 << 20

	// MaxKey is the longest key.
	MaxKey = 4096

	// MaxValue is the longest value; it and its key just fit one batch.
	MaxValue = MaxBatch - perOp - MaxKey

	// perOp is what each put or delete counts beside its bytes. It covers the record around a value and the node that
	// the engine's table in memory needs, so that a batch within MaxBatch is within the engine's limits too.
	perOp = 128
)
