// Package logs is what a device or an anchor holds of a practice's logs: sealed chunks, each in its place, without a key to any.
//
// Nouns: a [Set] is all logs of all scopes as they are held here; its [Memory] is what it keeps at hand of them. A log is a chain; one that
// was written twice is a tree, of which a [Fork] is what stands beside the main history. Where chunks were deleted a skip stands, with the
// [Proof] that it rests on. A [Follower] makes something of what comes: a device's documents. An anchor has none.
//
// Guarantees: what arrives is verified against the membership log and the chain, and counted when it is durable, never before. What
// fits nowhere yet is asked for again; what stands beside another is kept beside it. Which history is told of does not depend on the order
// in which they came. What is damaged is claimed no longer, so that it comes again: once it is met, or a [Set.Scrub] finds it.
//
// What a checkpoint covers is deleted by [DeleteCovered], on the words of all ([AgreementOn]), and what two administrators
// erase by [DeleteErased] ([Set.MayErase]); of who follows nothing, [Set.Settle] sees to it.
//
// Left to others: what chunks say (agent/replica), and who may send them (p2p).
package logs

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Ref names what stands in a log at a counter.
type Ref struct {
	Scope   trust.ScopeID
	Log     chunk.LogID
	Counter uint64
}

// Main names the chunk of the main history there.
func (at Ref) Main() storage.Ref {
	return storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter}
}

// Name names a log.
type Name struct {
	Scope trust.ScopeID
	Log   chunk.LogID
}

// End is the last chunk of a log.
type End struct {
	Counter uint64
	ID      chunk.ID
}

// Position returns where the log stands after it.
func (p End) Position() chunk.Position { return chunk.At(p.Counter, p.ID) }

// Unreadable says that a stored chunk does not read: of the main history of its log, without an ID, or beside it.
type Unreadable struct {
	At  storage.Ref
	Err error
}

func (u *Unreadable) Error() string {
	return fmt.Sprintf("chunk %d of log %v: %v", u.At.Counter, u.At.Log, u.Err)
}

func (u *Unreadable) Unwrap() error { return u.Err }

// UnreadableAs returns err as what it says about a chunk, if that is that the chunk is damaged or gone. One that names another chunk stays:
// what stands for the chunk rests on that.
func UnreadableAs(at storage.Ref, err error) error {
	if IsUnreadable(err) {
		return err
	}
	if errors.Is(err, storage.ErrDamaged) || errors.Is(err, ErrNotHeld) || errors.Is(err, storage.ErrNotFound) {
		return &Unreadable{at, err}
	}
	return err
}

// IsUnreadable reports whether an error says that a chunk does not read.
func IsUnreadable(err error) bool {
	_, ok := errors.AsType[*Unreadable](err)
	return ok
}

var (
	// ErrNotHeld says that a log holds neither a chunk nor a skip at a counter.
	ErrNotHeld = fmt.Errorf("a log has a gap: %w", storage.ErrDamaged)
	// ErrNoWord says that a skip does not rest on the word of the device whose log it is.
	ErrNoWord = errors.New("the device whose log it is has not found the checkpoint of a skip good")
	// ErrNotCovered says that a skip stands for something else than its checkpoint covers.
	ErrNotCovered = errors.New("the checkpoint of a skip does not cover it")

	errTooManyLogs = errors.New("its device has begun too many logs")
)
