// Package natbed makes a small internet out of network namespaces: machines with public addresses, and machines behind routers that
// translate addresses as those of homes and practices do.
//
// Nouns: a [Bed] is the whole; a [Machine] is where processes are run; a [Router] stands before a machine, and says how it translates.
//
// Guarantees: nothing leaves the bed, and nothing of it is left when the test ends. The public addresses look like others' since libp2p
// takes those that are kept for documentation for no public ones. Every packet between two networks takes [Delay].
package natbed
