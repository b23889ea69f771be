package keyring

import (
	"bytes"
	"fmt"
	"slices"
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
	if err := k.random(f.Nonce[:]); err != nil {
		return e, "", err
	}
	type fresh struct{ body, index [32]byte }
	keys := map[trust.ScopeID]fresh{}
	for _, name := range []string{trust.ScopeBilling, trust.ScopeClinical} { // ascending, as the format has it
		var n fresh
		if err := k.random(n.body[:]); err != nil {
			return e, "", err
		}
		if err := k.random(n.index[:]); err != nil {
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
	if f.Practice, err = k.sealNames(index, f.Nonce, trust.DeviceID{}, opts.Practice, ""); err != nil {
		return e, "", err
	}
	names, err := k.sealNames(index, f.Nonce, k.device, opts.Device, opts.Site)
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

// Newcomer is a device to be added.
type Newcomer struct {
	Device     trust.DeviceID
	HPKE       []byte
	Role       trust.Role // zero: member
	DeviceName string
	SiteName   string
	Now        time.Time
}

// Admit makes the entry that adds a device, with a key box for every scope's current epoch. It is ErrNotAdmin unless this
// device is an administrator, and trust.ErrNoKey when it lacks a current key itself.
func (k *Keyring) Admit(st *trust.State, n Newcomer) (trust.Entry, error) {
	if n.Role == 0 {
		n.Role = trust.RoleMember
	}
	fail := func(err error) (trust.Entry, error) {
		return trust.Entry{}, fmt.Errorf("admit device %v: %w", n.Device, err)
	}
	if self, ok := st.Member(k.device); !ok || self.Role != trust.RoleAdmin {
		return fail(ErrNotAdmin)
	}
	if _, ok := st.Member(n.Device); ok {
		return fail(trust.ErrMemberAlready)
	}
	a := trust.Addition{Device: trust.Device{ID: n.Device, HPKE: n.HPKE, Role: n.Role}}
	for _, sc := range st.Scopes() {
		epoch := st.CurrentEpoch(sc.ID)
		body, err := k.epochKey(sc.ID, epoch)
		if err != nil {
			return fail(err)
		}
		index, err := k.indexKey(sc.ID)
		if err != nil {
			return fail(err)
		}
		box, err := sealBox(sc.ID, body, index, n.HPKE)
		if err != nil {
			return fail(err)
		}
		a.Boxes = append(a.Boxes, trust.EpochBox{Scope: sc.ID, Epoch: epoch, Sealed: box})
		if sc.Name == trust.ScopeClinical {
			a.Device.Names, err = k.sealNames(index, st.Founding().Nonce, n.Device, n.DeviceName, n.SiteName)
			if err != nil {
				return fail(err)
			}
		}
	}
	slices.SortFunc(a.Boxes, func(x, y trust.EpochBox) int { return bytes.Compare(x.Scope[:], y.Scope[:]) })
	draft := trust.Draft{
		Kind: trust.KindAdd, Parents: st.Heads(), TimeMillis: n.Now.UnixMilli(), Payload: a.Encode(),
	}
	e, err := draft.Sign(k)
	if err != nil {
		return fail(err)
	}
	return e, nil
}
