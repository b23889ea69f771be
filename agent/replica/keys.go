package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Keys that only a member has. An administrator who began an epoch may be removed by one to whom he did not give its key, while members
// wrote under it. No administrator can join it to the others then; so a member says the key, in a KEYS chunk, and an administrator who
// has read it does. See docs/decisions/0054.

// saidKey is an epoch's key as a KEYS chunk has it.
type saidKey struct {
	under  trust.EpochID // whose key seals it
	sealed []byte
}

func (k saidKey) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(k.under[:])
	w.Raw(k.sealed)
	return w.Bytes()
}

func parseSaidKey(b []byte) (k saidKey, err error) {
	r := open(b)
	r.Fixed(k.under[:])
	k.sealed = r.Raw(trust.PreviousEpochSize)
	return k, r.Close()
}

// takeKeys keeps what a KEYS chunk says, and wakes what waited for it. What does not open is kept too if its epoch is not known yet.
func (t *transaction) takeKeys(scope trust.ScopeID, sealed chunk.Sealed, body *chunk.Keys) error {
	r, under := t.r, sealed.Header().Epoch
	for _, p := range body.Epochs {
		if ok, err := r.keys.TakeUnder(r.State(), scope, under, p); err == nil && !ok {
			r.log.Warn("a key of an epoch that a device said is not that epoch's", "device", sealed.Header().Device, "scope", scope)
			continue
		}
		t.batch.Put(storage.EpochKey.Key(scope, p.Epoch, sealed.ID()), saidKey{under, p.Sealed}.marshal())
	}
	// Also what was opened by an attempt before, the commit of which failed.
	return t.wakeOpened()
}

// wakeOpened queues the chunks that waited for keys which are held now.
func (t *transaction) wakeOpened() error {
	for m, refs := range t.waiting {
		if m.Kind == missingEpoch && t.r.keys.Opens(m.What) {
			t.woken = append(t.woken, refs...)
			delete(t.waiting, m)
		}
	}
	return t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Parked.With(missingEpoch), nil, func(key, _ []byte) error {
			_, epoch, at, err := storage.Parked.Parse(key)
			if err == nil && t.r.keys.Opens(epoch) {
				t.woken = append(t.woken, at)
			}
			return err
		})
	})
}

// takeSaid opens the keys that members said, as far as the membership log knows their epochs. One may open another.
func (r *Replica) takeSaid(st *trust.State) error {
	for before := -1; before < r.keys.Count(); {
		before = r.keys.Count()
		err := r.store.View(func(v storage.Reader) error {
			return v.Scan(storage.EpochKey.All(), nil, func(key, value []byte) error {
				scope, epoch, _, err := storage.EpochKey.Parse(key)
				if err != nil || r.keys.Opens(epoch) {
					return err
				}
				k, err := parseSaidKey(value)
				if err == nil { // else one that was proved wrong when its epoch came to be known, which is its author's doing
					_, _ = r.keys.TakeUnder(st, scope, k.under, trust.PreviousEpoch{Epoch: epoch, Sealed: k.sealed})
				}
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("read keys of epochs that members said: %w", err)
		}
	}
	return nil
}

// unsaid returns the epochs of a scope that are open here, that nothing opens which is read now, and that nobody has said.
func (r *Replica) unsaid(st *trust.State, scope trust.ScopeID) (epochs []trust.EpochID, err error) {
	for _, epoch := range r.keys.Loose(st, scope) {
		said := false
		err := r.store.View(func(v storage.Reader) error {
			return v.Scan(storage.EpochKey.With2(scope, epoch), nil, func(_, value []byte) error {
				k, err := parseSaidKey(value)
				if err != nil {
					return err
				}
				ok, err := r.keys.TakeUnder(st, scope, k.under, trust.PreviousEpoch{Epoch: epoch, Sealed: k.sealed})
				if err != nil || !ok {
					return nil
				}
				said = true
				return storage.ErrStop
			})
		})
		if err != nil {
			return nil, fmt.Errorf("read keys of epochs that members said: %w", err)
		}
		if !said {
			epochs = append(epochs, epoch)
		}
	}
	return epochs, nil
}

// KeysToSay reports whether this device holds keys that it should say, as SayKeys does. It is for devices that begin no epochs.
func (r *Replica) KeysToSay() (bool, error) {
	st := r.State()
	for _, sc := range st.Scopes() {
		if !r.maySay(st, sc.ID) {
			continue
		}
		if epochs, err := r.unsaid(st, sc.ID); err != nil || len(epochs) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// maySay reports whether this device can say keys in a scope now: not before the keys are made anew that a removed device holds.
func (r *Replica) maySay(st *trust.State, scope trust.ScopeID) bool {
	return !slices.Contains(st.RotationsDue(), scope) && st.MayWrite(r.keys.Device(), scope) && r.keys.Opens(st.CurrentEpoch(scope))
}

// SayKeys writes the keys of epochs that are open here and may be open to nobody who could join them to those that are read, so that
// an administrator can.
func (r *Replica) SayKeys(ctx context.Context) error {
	return r.transact(ctx, func(t *transaction) error {
		st := r.State()
		for _, sc := range st.Scopes() {
			if !r.maySay(st, sc.ID) {
				continue
			}
			epochs, err := r.unsaid(st, sc.ID)
			if err != nil {
				return err
			}
			for batch := range slices.Chunk(epochs, chunk.MaxKeys) {
				if err := t.sayKeys(sc.ID, st.CurrentEpoch(sc.ID), batch); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (t *transaction) sayKeys(scope trust.ScopeID, under trust.EpochID, epochs []trust.EpochID) error {
	body := &chunk.Keys{}
	for _, epoch := range epochs {
		p, err := t.r.keys.SealUnder(scope, under, epoch)
		if err != nil {
			return fmt.Errorf("say the key of an epoch: %w", err)
		}
		body.Epochs = append(body.Epochs, p)
	}
	slices.SortFunc(body.Epochs, func(a, b trust.PreviousEpoch) int { return bytes.Compare(a.Epoch[:], b.Epoch[:]) })
	_, sealed, err := t.seal(scope, body)
	if err != nil {
		return err
	}
	if sealed.Header().Epoch != under {
		return errors.New("say the key of an epoch: the membership changed meanwhile")
	}
	return t.takeKeys(scope, sealed, body)
}
