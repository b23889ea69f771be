package keyring

import (
	"fmt"
	"time"

	"chartmesh/trust"
)

// FoundOptions names a new practice and its first device.
type FoundOptions struct {
	Practice string
	Device   string
	Site     string
	Now      time.Time
}

// Found makes the founding entry of a practice with this device as its first administrator, and the recovery code,
// which is nowhere kept: whoever calls shows it once. The code's keys sign the entry and receive every epoch.
func (k *Keyring) Found(opts FoundOptions) (e trust.Entry, recoveryCode string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("found practice: %w", err)
		}
	}()
	code, err := k.newRecoveryCode()
	if err != nil {
		return e, "", err
	}
	root, recovery, err := code.keys()
	if err != nil {
		return e, "", err
	}
	f := trust.Founding{Root: root.Device(), Recovery: recovery.PublicKey().Bytes()}
	if err := k.fill(f.Nonce[:]); err != nil {
		return e, "", err
	}
	type fresh struct{ body, index [32]byte }
	keys := map[trust.ScopeID]fresh{}
	for _, name := range []string{trust.ScopeBilling, trust.ScopeClinical} { // ascending, as the format has it
		var n fresh
		if err := k.fill(n.body[:]); err != nil {
			return e, "", err
		}
		if err := k.fill(n.index[:]); err != nil {
			return e, "", err
		}
		scope := trust.ScopeIDOf(f.Nonce, name)
		keys[scope] = n
		forRecovery, err := sealBox(scope, n.body, n.index, f.Recovery)
		if err != nil {
			return e, "", err
		}
		forDevice, err := sealBox(scope, n.body, n.index, k.HPKEPublic())
		if err != nil {
			return e, "", err
		}
		f.Scopes = append(f.Scopes, trust.NewScope{
			Name:       name,
			Commitment: trust.Commit(scope, n.body, n.index),
			Boxes:      []trust.ScopeBox{{Sealed: forRecovery}, {Recipient: k.device, Sealed: forDevice}},
		})
	}
	index := keys[trust.ScopeIDOf(f.Nonce, trust.ScopeClinical)].index
	if f.Practice, err = sealNames(k.random, index, f.Nonce, trust.DeviceID{}, opts.Practice, ""); err != nil {
		return e, "", err
	}
	names, err := sealNames(k.random, index, f.Nonce, k.device, opts.Device, opts.Site)
	if err != nil {
		return e, "", err
	}
	f.Device = trust.Device{ID: k.device, HPKE: k.HPKEPublic(), Role: trust.RoleAdmin, Names: names}

	draft := trust.Draft{Kind: trust.KindFound, TimeMillis: opts.Now.UnixMilli(), Payload: f.Encode()}
	if e, err = draft.Sign(k, root); err != nil {
		return e, "", err
	}
	for scope, n := range keys {
		k.put(scope, trust.EpochIDOf(e.ID(), scope), n.body, n.index)
	}
	return e, code.Reveal(), nil
}
