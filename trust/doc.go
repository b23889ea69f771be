// Package trust says who belongs to a practice, in which role, and which keys they were given.
//
// Nouns: an [Entry] is one signed statement of the membership log; entries name their parents, so that the log is a
// graph that administrators extend apart. A [State] is what a set of entries amounts to: [Member]s, [Scope]s with their
// epochs, and the [KeyBox]es that carry epoch keys to their recipients.
//
// Guarantees: a State is a pure function of the set of entries, never of the order in which they came. Two things are kept apart.
// Whether an entry is admitted follows from its own ancestors alone, so that everybody judges it alike and for ever: the root key and
// administrators make entries, nobody else. Whether it stands follows from the whole set, and may change as entries come:
// [State.Void] says which have no effect, and why. Entries are kept byte for byte.
// An entry of a kind that this version does not know is kept and passed on; it makes [State.Unknown] non-empty, and what
// only it could allow is kept undecided beside it, never dropped.
//
// Layout of an entry (docs/spec/membership-log.md is normative):
//
//	"cmm" 0x01 | kind | author (32) | parents | time | payload | signatures
//
// Everything here is public to whoever transports the log: device keys and roles are in clear so that a blind anchor can
// verify chunks, names are sealed. Private keys, and the sealing and opening of boxes and names, are left to package
// keyring; storage and transport are left to others.
package trust
