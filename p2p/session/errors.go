package session

import (
	"errors"
	"fmt"

	"chartmesh/wire"
)

// Decisions that end a session. A malformed frame ends it with an error that wraps wire.ErrMalformed.
var (
	ErrWrongPractice = errors.New("the peer belongs to another practice")
	ErrFlood         = errors.New("the peer says HELLO too often")
	ErrBadSignature  = errors.New("the signature of an ACK is wrong")
)

// IncompatibleError says that two devices have no version in common. Nothing is lost: they sync once one is upgraded.
type IncompatibleError struct {
	OurVersion, TheirVersion   string // of the product
	OurProtocol, TheirProtocol Range
	OurSchema, TheirSchema     Range
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("no version in common: this device is %q (protocol %d to %d, schema %d to %d), "+
		"the peer is %q (protocol %d to %d, schema %d to %d)",
		e.OurVersion, e.OurProtocol.Min, e.OurProtocol.Max, e.OurSchema.Min, e.OurSchema.Max,
		e.TheirVersion, e.TheirProtocol.Min, e.TheirProtocol.Max, e.TheirSchema.Min, e.TheirSchema.Max)
}

// ByeError says that the peer ended the session.
type ByeError struct{ Reason Reason }

func (e *ByeError) Error() string { return "the peer ended the session: " + e.Reason.String() }

// Farewell returns the BYE that tells the peer why the session ends: err is what Handle or Next returned, or nil when
// this device closes.
func (s *Session) Farewell(err error) Frame {
	reason := ReasonFailed
	switch {
	case err == nil:
		reason = ReasonClosing
	case errors.Is(err, ErrWrongPractice):
		reason = ReasonWrongPractice
	case errors.Is(err, ErrFlood):
		reason = ReasonFlood
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, ErrBadSignature):
		reason = ReasonMalformed
	default:
		if _, ok := errors.AsType[*IncompatibleError](err); ok {
			reason = ReasonIncompatible
		}
	}
	return s.Bye(reason)
}

// Bye returns a BYE frame for reason.
func (s *Session) Bye(reason Reason) Frame {
	m := bye{reason: reason, protocol: s.cfg.Protocol, schema: s.cfg.Schema, version: s.cfg.Version}
	return m.encode()
}
