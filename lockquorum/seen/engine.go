package seen

import (
	"context"
	"fmt"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
)

// Engine returns the voter of a device as this device asks it: what was seen is shown, and an answer that does not go on from it is refused, as
// lockquorum.ErrForked, lockquorum.ErrOver or lockquorum.ErrUnsigned.
func (k *Keeper) Engine(voter lockquorum.DeviceID, e lockquorum.Engine) lockquorum.Engine {
	return &showing{k, voter, e}
}

type showing struct {
	k     *Keeper
	voter lockquorum.DeviceID
	lockquorum.Engine
}

// Do implements lockquorum.Engine.
func (s *showing) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	r.Shown = s.k.Shows()
	a, err := s.Engine.Do(ctx, from, r)
	if err == nil {
		err = s.takes(ctx, r.Shown, a.Position, lasts(r.Operation))
	}
	if err != nil {
		return lockquorum.Answer{}, err
	}
	return a, nil
}

// Read implements lockquorum.Engine.
func (s *showing) Read(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Query, _ ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	shown := s.k.Shows()
	st, p, err := s.Engine.Read(ctx, from, q, shown...)
	if err == nil && st.Seen() != p.Seen {
		err = fmt.Errorf("%w: it is at %v, and says %v", lockquorum.ErrUnsigned, st.Seen().Place, p.Place)
	}
	if err == nil {
		err = s.takes(ctx, shown, p, true)
	}
	if err != nil {
		return nil, lockquorum.Position{}, err
	}
	return st, p, nil
}

// lasts reports whether what an operation answers outlasts the process that asks. A lease does not, and what was certified under it is.
func lasts(o lockquorum.Operation) bool {
	switch o.(type) {
	case *lockquorum.Open, *lockquorum.Keep, *lockquorum.End, *lockquorum.Acquire, *lockquorum.Cancel, *lockquorum.Renew, *lockquorum.Release:
		return false
	}
	return true
}

// takes checks what came with an answer, and keeps it if it is one that others believe.
func (s *showing) takes(ctx context.Context, shown []lockquorum.Position, p lockquorum.Position, lasts bool) error {
	st := s.k.cfg.Members()
	if p.Voter != s.voter || !s.k.verifies(st.Practice(), p) {
		return lockquorum.ErrUnsigned
	}
	if err := p.GoesOn(lockquorum.SeenOf(shown)...); err != nil {
		return err
	}
	if s.k.counts(st, p) {
		s.k.told(ctx, p, lasts)
	}
	return nil
}

// certifier is a voter that signs what it says of a document.
type certifier interface {
	Certify(ctx context.Context, lock lockquorum.LockID, document lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error)
}

// Certifies asks the voter of another device for what is certified of a document, in the same way. False: it is not one that is asked so.
func (k *Keeper) Certifies(ctx context.Context, e lockquorum.Engine, lock lockquorum.LockID, document lockquorum.DocumentID) (signed certificate.Signed, ok bool, err error) {
	s, _ := e.(*showing)
	if s == nil {
		return signed, false, nil
	}
	c, ok := s.Engine.(certifier)
	if !ok {
		return signed, false, nil
	}
	shown := k.Shows()
	if signed, err = c.Certify(ctx, lock, document, shown...); err != nil {
		return signed, true, err
	}
	says, err := certificate.Parse(signed.Statement)
	switch {
	case err != nil:
	case signed.Voter != s.voter, !trust.VerifySignature(signed.Voter, trust.ContextCertificate, signed.Statement, signed.Signature[:]):
		err = lockquorum.ErrUnsigned
	default:
		err = lockquorum.Seen{Place: says.Place, Chain: says.Chain}.GoesOn(lockquorum.SeenOf(shown)...)
	}
	if err != nil {
		return certificate.Signed{}, true, err
	}
	return signed, true, nil
}
