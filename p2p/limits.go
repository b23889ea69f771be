package p2p

// Caps on what comes from outside, and what this side keeps to. The session's own stand in package session.
const (
	// MaxCodeAddrs is how many addresses a code carries.
	MaxCodeAddrs = 6
	// MaxCodeText is how long a typed code may be.
	MaxCodeText = 1024
)
