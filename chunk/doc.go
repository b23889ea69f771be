// Package chunk is the wire form of what chartmesh stores, sends and backs up.
//
// Nouns: a chunk is a sealed, signed unit of one document's data in one device's log; [Sealed] is a parsed one, [Header]
// its clear part, [Body] what is inside. A log is the hash-linked sequence of chunks of one device under one nonce
// ([LogID]); a [Vector] says how far somebody holds each log; a [SetHash] names a set in 32 bytes.
//
// Guarantees: the bytes are made once, by the author, and never change. Parse takes exactly one form for what it
// returns. Verify is possible without any key, so that a blind anchor can do it; Open fails unless every byte is as the
// author sealed it. A body inflates to no more than [MaxBody], whatever it claims. Nobody writes under another's log,
// since a log's ID is a hash of the device's key.
//
// Layout (docs/spec/chunk.md is normative):
//
//	"cmc" 0x01 | algorithm | kind | flags | scope (16) | tag (16) | device (32) | nonce (16) | counter | previous (32)
//	| heads (32) | epoch (32) | [secret (16)] | schema | [dictionary] | [fence epoch, fence index] | salt (16) | length
//	| ciphertext | signature (64)
//
// Private keys are behind [Sealer] and [Opener]; who may write is the membership log's to say; what a change means is
// left to package crdt; keeping logs and vectors is left to the agent and its store.
package chunk
