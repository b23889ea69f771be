package lockquorum

import (
	"context"
	"errors"
)

// An Engine has a quorum carry operations out, and reads what it agrees on. Package quorumtest holds what every one keeps to.
type Engine interface {
	// Do has an operation carried out for a device, which the connection has proven. It answers when the operation is stored by a majority;
	// one that is asked for with Wait, when its session has the lease or ends. Errors are ErrForbidden, ErrBusy, ErrOutcomeUnknown, ErrStopped, ErrUnreachable, a
	// *NotLeaderError, ErrLost, ErrOver, and those of Marshal. Where the outcome is unknown, asking again under the same place in the session is safe.
	Do(ctx context.Context, from DeviceID, r Request) (Answer, error)
	// Read returns what is asked for of a State that has all that was answered before Read was called, and how far that is. shown is as in a Request, and errors are those
	// of Do.
	Read(ctx context.Context, from DeviceID, q Query, shown ...Position) (*View, Position, error)
}

// Request is what a client asks for. Who asks is not in it.
type Request struct {
	Session   SessionID
	Seq, Done uint64
	Operation Operation
	// Wait has the answer to an Acquire wait until the session's turn has come.
	Wait bool
	// Shown is how far whoever asks has seen the quorum come, at most MaxShown: a voter that has lost some of that ends, and answers nothing.
	Shown []Position
}

// Answer is what a request amounted to.
type Answer struct {
	Result
	// Place is that of the command, or a later one by which a lease was granted that was waited for.
	Place Place
	// Documents are those of the lock of an Acquire or Renew that was carried out: what is certified of them.
	Documents []Document
	// Position is how far the quorum had come, by the word of the voter that answers.
	Position Position
}

// Errors of an Engine.
var (
	// ErrNotLeader says that another voter has to be asked, or that nobody leads. It is a *NotLeaderError.
	ErrNotLeader = errors.New("this voter does not lead")
	// ErrBusy says that too much is under way. Nothing was done.
	ErrBusy = errors.New("too many commands are under way")
	// ErrOutcomeUnknown says that the command may or may not have been carried out. Asked again under the same place in its session, it is
	// so once.
	ErrOutcomeUnknown = errors.New("whether it was carried out is not known")
	// ErrStopped says that the voter does not go on. Nothing was done.
	ErrStopped = errors.New("this voter has stopped")
	// ErrUnreachable says that the voter cannot be reached. Nothing was done.
	ErrUnreachable = errors.New("the voter cannot be reached")
	// ErrLost says that a voter does not have all that it once stored, or was seen to have. It does not vote: it may have forgotten for whom it did, or what
	// a majority relies on it for.
	ErrLost = errors.New("the voter has lost something that it stored")
	// ErrOver says that a quorum of a later epoch has begun: the voter's own gives nothing any more.
	ErrOver = errors.New("a quorum of a later epoch has begun")
	// ErrForbidden says that the device may not ask for that.
	ErrForbidden = errors.New("this device may not do that")
)

// NotLeaderError is an ErrNotLeader with who leads, as far as it is known: zeros, nobody.
type NotLeaderError struct{ Leader DeviceID }

func (*NotLeaderError) Error() string        { return ErrNotLeader.Error() }
func (*NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// LockOf returns the lock that an operation is about; false if it is about none.
func LockOf(o Operation) (LockID, bool) {
	switch o := o.(type) {
	case *Acquire:
		return o.Lock, true
	case *Renew:
		return o.Lock, true
	case *Commit:
		return o.Lock, true
	case *Release:
		return o.Lock, true
	case *Cancel:
		return o.Lock, true
	case *Break:
		return o.Lock, true
	}
	return LockID{}, false
}
