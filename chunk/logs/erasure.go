package logs

import (
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A document is erased by an administrator's order and somebody else's assent to it (docs/spec/erasure.md). Whether they count follows from the two chunks
// and the membership log, on devices and anchors alike; so does what goes.

// MayErase reports whether an assent makes an order count: both are of administrators, of today or before, within their logs' cuts, and of two devices, or the
// root key has signed the assent.
func (s *Set) MayErase(v storage.Reader, order, assent chunk.Sealed) (bool, error) {
	said, err := assent.Assent()
	h, of := assent.Header(), order.Header()
	if err != nil || !order.IsErasure() || said.Erasure != order.Place() || h.Scope != of.Scope || h.Tag != of.Tag {
		return false, nil //nolint:nilerr // it is none that this version knows, or of another document
	}
	st := s.state()
	rooted := slices.Contains(st.Roots(), said.Root.Root) && said.Root.Verify(order.ID())
	if !rooted && order.Header().Device == assent.Header().Device {
		return false, nil
	}
	for _, sealed := range []chunk.Sealed{order, assent} {
		if ok, err := s.byAdministrator(v, st, sealed); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// byAdministrator reports whether an administrator's device wrote a chunk, before its logs' cut if it has one.
func (s *Set) byAdministrator(v storage.Reader, st *trust.State, sealed chunk.Sealed) (bool, error) {
	h := sealed.Header()
	right, cut := st.Right(h.Device, h.Scope)
	switch {
	case !st.WasAdministrator(h.Device):
		return false, nil
	case right == trust.RightUntil:
		ok, err := s.Within(v, cut, h.Scope, sealed.Log(), sealed.Position())
		if err != nil {
			return false, fmt.Errorf("hold an erasure against its author's cut: %w", err)
		}
		return ok, nil
	}
	return right == trust.RightNow, nil
}

// AssentTo returns an assent that makes an order count, of those that were noted; none if none does.
func (s *Set) AssentTo(v storage.Reader, order chunk.Sealed) (found chunk.Sealed, ok bool, err error) {
	err = assentsTo(v, order, func(assent chunk.Sealed) error {
		if ok, err = s.MayErase(v, order, assent); err != nil || !ok {
			return err
		}
		found = assent
		return storage.ErrStop
	})
	return found, ok, err
}

// assents returns AssentTo for ReadProof.
func (s *Set) assents(v storage.Reader) Assents {
	return func(order chunk.Sealed) (chunk.Sealed, bool, error) { return s.AssentTo(v, order) }
}

// assentsTo calls do for each assent to an order that was noted and is here.
func assentsTo(v storage.Reader, order chunk.Sealed, do func(chunk.Sealed) error) error {
	err := v.Scan(storage.Assent.With(order.ID()), nil, func(_, value []byte) error {
		at, err := ParsePlace(value)
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
		}
		assent, err := ReadAt(v, order.Header().Scope, at)
		if err != nil {
			return storage.IgnoreNotFound(err)
		}
		if about, err := assent.Assent(); err != nil || about.Erasure != order.Place() {
			return nil //nolint:nilerr // of a later version
		}
		return do(assent)
	})
	if err != nil {
		return fmt.Errorf("read assents to an erasure: %w", err)
	}
	return nil
}

// DeleteErased adds to a batch the deletion of what an order names, and the skips in its place, which rest on the order and the assent that makes it count. It fails
// as DeleteCovered does. An order names nothing but what has its document's tag: changes, and checkpoints with all that they stand for, and the words on these.
func DeleteErased(v storage.Reader, b *storage.Batch, order, assent chunk.Sealed) (d Deletion, err error) {
	return deleteCovered(v, b, order, func(trust.DeviceID) chunk.Place { return assent.Place() })
}

// FitsErasure reports whether what is held is what an order names, and what an order can name: it fails as DeleteErased would. All that it names is held.
func FitsErasure(v storage.Reader, order chunk.Sealed) error {
	var b storage.Batch
	_, err := deleteCovered(v, &b, order, nil)
	return err
}
