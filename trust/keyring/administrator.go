package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/trust"
)

// administrator makes entries of the membership log: as a device that is one, or as the practice's root key.
type administrator struct {
	opened
	signer trust.Signer
	random func([]byte) error // fills with random bytes
}

// sign makes an entry that follows everything that stands.
func (a *administrator) sign(st *trust.State, kind trust.Kind, payload []byte, now time.Time, others ...trust.Signer) (
	trust.Entry, error) {
	return a.signAfter(st, st.Parents(), kind, payload, now, others...)
}

// signAfter makes an entry with other parents than those.
func (a *administrator) signAfter(st *trust.State, parents []trust.EntryID, kind trust.Kind, payload []byte, now time.Time,
	others ...trust.Signer) (trust.Entry, error) {
	if root, _ := st.Root(); a.signer.Device() != root {
		if self, ok := st.Member(a.signer.Device()); !ok || self.Role != trust.RoleAdmin {
			return trust.Entry{}, ErrNotAdmin
		}
	}
	draft := trust.Draft{Kind: kind, Parents: parents, TimeMillis: now.UnixMilli(), Payload: payload}
	return draft.Sign(a.signer, others...)
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

// Admit makes the entry that adds a device, with a key box for every newest epoch of every scope that is read here. It is
// ErrNotAdmin unless this device is an administrator, and trust.ErrNoKey when it lacks a key itself; a scope that the recovery code does
// not open is left out.
func (a *administrator) Admit(st *trust.State, n Newcomer) (trust.Entry, error) {
	if n.Role == 0 {
		n.Role = trust.RoleMember
	}
	fail := func(err error) (trust.Entry, error) {
		return trust.Entry{}, fmt.Errorf("admit device %v: %w", n.Device, err)
	}
	if _, ok := st.Member(n.Device); ok {
		return fail(trust.ErrMemberAlready)
	}
	m := trust.Addition{Device: trust.Device{ID: n.Device, HPKE: n.HPKE, Role: n.Role}}
	var err error
	if m.Device.Names, err = a.sealNamesOf(st, n.Device, n.DeviceName, n.SiteName); err != nil {
		return fail(err)
	}
	for _, sc := range st.Scopes() { // ascending, and so are the newest epochs
		if !a.reads(st, sc) {
			continue
		}
		boxes, err := a.boxes(sc, n.HPKE)
		if errors.Is(err, trust.ErrNoKey) && a.isRoot(st) {
			// Whoever began an epoch did not seal it to the recovery key. That must not keep the practice out of all the others.
			continue
		}
		if err != nil {
			return fail(err)
		}
		m.Boxes = append(m.Boxes, boxes...)
	}
	e, err := a.sign(st, trust.KindAdd, m.Encode(), n.Now)
	if err != nil {
		return fail(err)
	}
	return e, nil
}

// reads reports whether the signer is one of a scope's readers; the recovery key is one of all.
func (a *administrator) reads(st *trust.State, sc trust.Scope) bool {
	return a.isRoot(st) || st.MayRead(a.signer.Device(), sc.ID)
}

func (a *administrator) isRoot(st *trust.State) bool {
	root, _ := st.Root()
	return a.signer.Device() == root
}

// boxes seals the keys of a scope's newest epochs.
func (a *administrator) boxes(sc trust.Scope, recipient []byte) (list []trust.EpochBox, err error) {
	for _, epoch := range sc.Newest {
		box, err := a.box(sc.ID, epoch, recipient)
		if err != nil {
			return nil, err
		}
		list = append(list, trust.EpochBox{Scope: sc.ID, Epoch: epoch, Sealed: box})
	}
	return list, nil
}

// box seals an epoch's keys.
func (a *administrator) box(scope trust.ScopeID, epoch trust.EpochID, recipient []byte) ([]byte, error) {
	body, err := a.epochKey(scope, epoch)
	if err != nil {
		return nil, err
	}
	index, err := a.indexKey(scope)
	if err != nil {
		return nil, err
	}
	return sealBox(scope, body, index, recipient)
}

// Remove makes the entry that removes a device. What it wrote counts up to cut; Rotate every scope that it could read next.
func (a *administrator) Remove(st *trust.State, device trust.DeviceID, cut trust.Cut, now time.Time) (trust.Entry, error) {
	e, err := a.sign(st, trust.KindRemove, trust.Removal{Device: device, Cut: cut}.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("remove device %v: %w", device, err)
	}
	return e, nil
}

// SetRole makes the entry that gives a device another role. For one that may not write, cut says how far its logs count.
func (a *administrator) SetRole(st *trust.State, device trust.DeviceID, role trust.Role, cut trust.Cut, now time.Time) (
	trust.Entry, error) {
	e, err := a.sign(st, trust.KindRole, trust.Promotion{Device: device, Role: role, Cut: cut}.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("give device %v the role %v: %w", device, role, err)
	}
	return e, nil
}

// Rename makes the entry that names a device and its site anew, or the practice for a zero device.
func (a *administrator) Rename(st *trust.State, device trust.DeviceID, name, site string, now time.Time) (trust.Entry, error) {
	names, err := a.sealNamesOf(st, device, name, site)
	if err != nil {
		return trust.Entry{}, fmt.Errorf("rename: %w", err)
	}
	e, err := a.sign(st, trust.KindRename, trust.Renaming{Device: device, Names: names}.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("rename: %w", err)
	}
	return e, nil
}

// AddAnchor makes the entry that adds an anchor, which is given no key.
func (a *administrator) AddAnchor(st *trust.State, anchor trust.DeviceID, addresses []string, name string, now time.Time) (
	trust.Entry, error) {
	names, err := a.sealNamesOf(st, anchor, name, "")
	if err != nil {
		return trust.Entry{}, fmt.Errorf("add anchor: %w", err)
	}
	e, err := a.sign(st, trust.KindAnchor, trust.Anchor{ID: anchor, Addresses: addresses, Names: names}.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("add anchor: %w", err)
	}
	return e, nil
}

// RotationsDue returns the scopes that this administrator should rotate: those that everybody finds due, those whose newest epoch was
// not given to him although he has a box of it, and those with an epoch that he alone may open.
func (a *administrator) RotationsDue(st *trust.State) (due []trust.ScopeID) {
	all := st.RotationsDue()
	for _, sc := range st.Scopes() {
		// Who was added apart from a rotation has no box of it, and waits for somebody who has.
		waits := !a.reads(st, sc) || len(sc.Newest) == 0 || slices.ContainsFunc(sc.Newest, func(id trust.EpochID) bool {
			return !a.has(id) && !a.closed(st, id)
		})
		closed := func(id trust.EpochID) bool { return a.closed(st, id) }
		if slices.Contains(all, sc.ID) || !waits && (slices.ContainsFunc(sc.Newest, closed) || len(a.loose(sc)) > 0) {
			due = append(due, sc.ID)
		}
	}
	return due
}

// closed reports whether an epoch opens neither here nor for another administrator, as far as the log says: the box for this one holds
// no key, or no administrator who remains was given one.
func (a *administrator) closed(st *trust.State, epoch trust.EpochID) bool {
	return a.isShut(epoch) || !a.has(epoch) && !slices.ContainsFunc(st.Members(), func(m trust.Member) bool {
		return m.Role == trust.RoleAdmin && slices.ContainsFunc(st.Boxes(m.Device), func(b trust.KeyBox) bool { return b.Epoch == epoch })
	})
}

// maxBeyond is how many entries that do not stand a rotation has among its parents to join their epochs. The others are joined by the
// next one.
const maxBeyond = trust.MaxParents / 2

// Rotate makes the entry that begins a scope's next epoch: new keys for all who read it and for the recovery key, and the keys
// of the epochs before it sealed under the new one. It joins epochs that were begun apart, and such as no other opens.
func (a *administrator) Rotate(st *trust.State, scope trust.ScopeID, now time.Time) (trust.Entry, error) {
	e, err := a.rotate(st, scope, now)
	if err != nil {
		return e, fmt.Errorf("rotate scope %v: %w", scope, err)
	}
	return e, nil
}

func (a *administrator) rotate(st *trust.State, scope trust.ScopeID, now time.Time) (e trust.Entry, err error) {
	sc, ok := st.Scope(scope)
	if !ok || len(sc.Newest) == 0 {
		return e, errNoScope
	}
	index, err := a.indexKey(scope)
	if err != nil {
		return e, err
	}
	var body [32]byte
	if err := a.random(body[:]); err != nil {
		return e, err
	}
	m := trust.Rotation{Scope: scope, Commitment: trust.Commit(scope, body, index)}
	joins := slices.Clone(sc.Newest)
	var beyond []trust.EntryID // what begins an epoch without standing is to be known to those who judge this
	room := min(maxBeyond, trust.MaxParents-len(st.Parents()))
	for _, epoch := range a.loose(sc) {
		_, void := st.Void(epoch.Entry)
		if len(joins) >= trust.MaxParents || void && len(beyond) >= room {
			continue
		}
		if joins = append(joins, epoch.ID); void {
			beyond = append(beyond, epoch.Entry)
		}
	}
	for _, epoch := range joins {
		p := trust.PreviousEpoch{Epoch: epoch}
		key, err := a.epochKey(scope, epoch)
		switch {
		case err == nil:
			p.Sealed = sealPrevious(body, epoch, key)
		case a.closed(st, epoch):
			// Nobody could go on if this waited for somebody who can open it. If there is one, an administrator, he joins it again.
			p.Sealed = make([]byte, trust.PreviousEpochSize)
			if err := a.random(p.Sealed); err != nil {
				return e, err
			}
		default:
			return e, err
		}
		m.Previous = append(m.Previous, p)
	}
	slices.SortFunc(m.Previous, func(a, b trust.PreviousEpoch) int { return bytes.Compare(a.Epoch[:], b.Epoch[:]) })
	_, recovery := st.Root()
	box, err := sealBox(scope, body, index, recovery)
	if err != nil {
		return e, err
	}
	m.Boxes = append(m.Boxes, trust.ScopeBox{Sealed: box})
	for _, id := range st.Readers(scope) {
		member, _ := st.Member(id)
		if box, err = sealBox(scope, body, index, member.HPKE); err != nil {
			return e, fmt.Errorf("device %v: %w", id, err)
		}
		m.Boxes = append(m.Boxes, trust.ScopeBox{Recipient: id, Sealed: box})
	}
	if e, err = a.signAfter(st, st.Parents(beyond...), trust.KindRotate, m.Encode(), now); err != nil {
		return e, err
	}
	a.put(scope, trust.EpochIDOf(e.ID(), scope), body, index)
	return e, nil
}

// CheckIn makes the entry by which this administrator begins a checkpoint (a zero of), or agrees to another's.
func (a *administrator) CheckIn(st *trust.State, of trust.EntryID, now time.Time) (trust.Entry, error) {
	e, err := a.sign(st, trust.KindCheckpoint, trust.Checkpoint{Of: of}.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("agree to the membership: %w", err)
	}
	return e, nil
}

// Reseed makes the entry by which the practice's quorum is founded anew, with devices as its voters.
func (a *administrator) Reseed(st *trust.State, voters []trust.DeviceID, now time.Time) (trust.Entry, error) {
	m := trust.Reseed{Voters: slices.SortedFunc(slices.Values(voters), func(a, b trust.DeviceID) int { return bytes.Compare(a[:], b[:]) })}
	e, err := a.sign(st, trust.KindReseed, m.Encode(), now)
	if err != nil {
		return e, fmt.Errorf("found the quorum anew: %w", err)
	}
	return e, nil
}

// ReplaceRecovery makes the entry that puts another recovery code in the place of the one in force, and the new code, which
// is nowhere kept. Who types the old one in ends its right at once; without it (empty), it ends for those who know of the
// entry. Rotate every scope next: the old code opens every epoch so far, for ever.
func (k *Keyring) ReplaceRecovery(st *trust.State, old string, now time.Time) (e trust.Entry, code string, err error) {
	fail := func(err error) (trust.Entry, string, error) {
		return trust.Entry{}, "", fmt.Errorf("replace recovery code: %w", err)
	}
	replaced, _ := st.Root()
	var others []trust.Signer
	if old != "" {
		c, err := ParseRecoveryCode(old)
		if err != nil {
			return fail(err)
		}
		root, _, err := c.keys()
		if err != nil {
			return fail(err)
		}
		if root.Device() != replaced {
			return fail(ErrWrongRecovery)
		}
		others = append(others, root)
	}
	next, err := k.newRecoveryCode()
	if err != nil {
		return fail(err)
	}
	root, private, err := next.keys()
	if err != nil {
		return fail(err)
	}
	m := trust.Recovery{Replaced: replaced, Root: root.Device(), Key: private.PublicKey().Bytes()}
	others = append(others, root)
	if e, err = k.sign(st, trust.KindRecovery, m.Encode(), now, others...); err != nil {
		return fail(err)
	}
	return e, next.Reveal(), nil
}

// sealNamesOf seals names for the members of a practice.
func (a *administrator) sealNamesOf(st *trust.State, device trust.DeviceID, first, second string) ([]byte, error) {
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok {
		return nil, errNoScope
	}
	index, err := a.indexKey(scope)
	if err != nil {
		return nil, err
	}
	return sealNames(a.random, index, st.Founding().Nonce, device, first, second)
}

var errNoScope = errors.New("there is no such scope")
