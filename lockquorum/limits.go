package lockquorum

// Caps on what commands bring. They are part of the format: what one voter takes, every voter takes.
const (
	// MaxCommand is the size of a command in bytes.
	MaxCommand = 8 << 10
	// MaxSessions is how many sessions there are at a time.
	MaxSessions = 4096
	// MaxSessionsOfOne is how many of them are of one device.
	MaxSessionsOfOne = 256
	// MaxLocks is how many locks were ever named.
	MaxLocks = 4096
	// MaxLocksOfOne is how many of them one device was the first to name: they are kept for ever, and nobody else may be left without.
	MaxLocksOfOne = 1024
	// MaxQueue is how many sessions wait for a lock.
	MaxQueue = 1024
	// MaxDocuments is how many documents a lock protects.
	MaxDocuments = 256
	// MaxHistory is how many certified heads of a document are kept, to which a break may go back.
	MaxHistory = 16
	// MaxBreaks is how many breaks of a lock are remembered.
	MaxBreaks = 16
	// MaxWindow is how many commands of a session may be under way.
	MaxWindow = 64
	// MaxCircles is how many circles of numbers there are.
	MaxCircles = 256
	// MaxItems is how many numbers a circle gives.
	MaxItems = 1 << 20
	// MaxSeries is how many series a circle has, one after another.
	MaxSeries = 1024
	// MaxNote is the length of a sealed note: who, when and why.
	MaxNote = 1024
	// MaxRanges is how many number spaces are divided, and MaxGrants into how many parts each.
	MaxRanges = 64
	MaxGrants = 1024
	// MaxVoters is how many devices vote, learners included.
	MaxVoters = 7
	// MaxPosition is the size of a position in bytes; one that is well formed takes less. MaxShown is how many are shown with a question.
	MaxPosition = 160
	MaxShown    = 2
	// MaxNumber is the largest number that is given.
	MaxNumber = 1<<53 - 1 // JSON's numbers are exact up to there
)

// Times, in milliseconds of the replicated clock.
const (
	// MinTTL and MaxTTL bound how long a lease or a session lasts without being renewed.
	MinTTL = 100
	MaxTTL = 3600_000
	// MaxClock is beyond what the clock reaches in a practice's life.
	MaxClock = 1 << 52
)
