package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// MembershipLog lists who did what to whom.
func (a *Agent) MembershipLog(_ context.Context, verify bool) (api.MembershipLog, error) {
	st := a.records.State()
	if verify {
		again, rejected := trust.Replay(st.Entries())
		if len(rejected) > 0 {
			return api.MembershipLog{}, &api.Error{Code: api.CodeDamaged, Message: "an entry of the membership log does not hold",
				Hint: "run `chartmesh verify`", Err: rejected[0].Err}
		}
		if again.HeadsHash() != st.HeadsHash() {
			return api.MembershipLog{}, errors.New("the membership log amounts to something else when it is read again")
		}
	}
	founding, root := st.Practice(), func() trust.DeviceID { root, _ := st.Root(); return root }()
	log := api.MembershipLog{
		Practice: a.keys.PracticeName(st), Founding: hex.EncodeToString(founding[:]), Root: hex.EncodeToString(root[:]), Verified: verify,
	}
	for _, e := range st.Entries() {
		log.Entries = append(log.Entries, a.membershipEntry(st, e))
	}
	return log, nil
}

func (a *Agent) membershipEntry(st *trust.State, e trust.Entry) api.MembershipEntry {
	id := e.ID()
	m := api.MembershipEntry{
		ID: hex.EncodeToString(id[:]), Time: time.UnixMilli(e.TimeMillis()).UTC(), Kind: e.Kind().String(),
		By: a.membershipKey(st, e.Author()), Bytes: len(e.Bytes()),
	}
	about := e.About()
	if about.Device != (trust.DeviceID{}) {
		m.Device = a.membershipKey(st, about.Device)
	}
	if about.Role != 0 {
		m.Role = about.Role.String()
	}
	if sc, ok := st.Scope(about.Scope); ok {
		m.Scope = scopeName(sc)
	}
	if v, void := st.Void(e.ID()); void {
		m.Void = string(v.Why)
	} else if slices.ContainsFunc(st.Unknown(), func(u trust.Entry) bool { return u.ID() == e.ID() }) {
		m.Void = "this version does not know what it means"
	}
	return m
}

// scopeName names a scope; by its ID if this device cannot read its name.
func scopeName(sc trust.Scope) string { return cmp.Or(sc.Name, sc.ID.String()) }

func (a *Agent) membershipKey(st *trust.State, id trust.DeviceID) api.MembershipKey {
	if root, _ := st.Root(); id == root || st.WasRoot(id) {
		return api.MembershipKey{Root: true}
	}
	k := api.MembershipKey{}
	k.Name, k.Site = a.keys.Names(st, id)
	if peer, err := p2p.PeerID(id); err == nil {
		k.PeerID = peer.String()
	}
	return k
}

// device finds a device that belongs by its name or peer ID.
func (a *Agent) device(st *trust.State, text string) (trust.DeviceID, error) {
	var found []trust.DeviceID
	for _, m := range slices.Concat(st.Members(), st.Anchors()) {
		name, _ := a.keys.Names(st, m.Device)
		peer, err := p2p.PeerID(m.Device)
		if err == nil && peer.String() == text {
			return m.Device, nil
		}
		if name == text {
			found = append(found, m.Device)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return trust.DeviceID{}, &api.Error{Code: api.CodeNotFound, Message: "no device of the practice has that name or peer ID",
			Hint: "see chartmesh peer list"}
	}
	return trust.DeviceID{}, &api.Error{Code: api.CodeInvalid, Message: "several devices have that name",
		Hint: "give its peer ID: see chartmesh peer list --json"}
}

// enter makes membership entries and tells the other devices.
func (a *Agent) enter(ctx context.Context, make func(*trust.State) ([]trust.Entry, error)) error {
	if err := a.records.Enter(ctx, make); errors.Is(err, keyring.ErrNotAdmin) {
		return &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device may do that",
			Hint: "see chartmesh peer list for one", Err: err}
	} else if err != nil {
		return explain(err)
	}
	if host := a.host.Load(); host != nil {
		host.MembershipChanged()
	}
	return nil
}

// Rename names a device or the practice.
func (a *Agent) Rename(ctx context.Context, req api.RenameRequest) error {
	req.Name, req.Site = strings.TrimSpace(req.Name), strings.TrimSpace(req.Site)
	switch {
	case req.Name == "" && req.Site == "", req.Device == "" && req.Name == "":
		return &api.Error{Code: api.CodeInvalid, Message: "there is no new name"}
	case req.Device == "" && req.Site != "":
		return &api.Error{Code: api.CodeInvalid, Message: "a practice has no site of its own"}
	case len(req.Name) > trust.MaxName || len(req.Site) > trust.MaxName:
		return &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("a name has at most %d bytes", trust.MaxName)}
	}
	return a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		var device trust.DeviceID
		if req.Device != "" {
			var err error
			if device, err = a.device(st, req.Device); err != nil {
				return nil, err
			}
			name, site := a.keys.Names(st, device)
			req.Name, req.Site = cmp.Or(req.Name, name), cmp.Or(req.Site, site)
		}
		e, err := a.keys.Rename(st, device, req.Name, req.Site, time.Now())
		return []trust.Entry{e}, err
	})
}

// AgreeMembership agrees to the checkpoint that is open, or begins one. One that waits for somebody who is no administrator any more is
// never sealed, and another is begun in its place.
func (a *Agent) AgreeMembership(ctx context.Context) (out api.Agreement, err error) {
	out.Did = "nothing"
	err = a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		self := a.keys.Device()
		if m, _ := st.Member(self); m.Role != trust.RoleAdmin {
			return nil, keyring.ErrNotAdmin
		}
		var of trust.EntryID
		if last, ok := openAgreement(st); ok {
			if len(last.Waiting) == 0 && !changedSince(st, last) || slices.Contains(last.Agreed, self) && len(last.Waiting) > 0 {
				return nil, nil
			}
			if slices.Contains(last.Waiting, self) {
				of = last.Entry
			}
		}
		e, err := a.keys.CheckIn(st, of, time.Now())
		if err != nil {
			return nil, err
		}
		if out.Did = "agreed"; of == (trust.EntryID{}) {
			out.Did = "began"
		}
		return []trust.Entry{e}, nil
	})
	if err != nil {
		return api.Agreement{}, err
	}
	st := a.records.State()
	last, ok := openAgreement(st)
	if !ok {
		return out, nil
	}
	for _, id := range last.Agreed {
		out.Agreed = append(out.Agreed, a.membershipKey(st, id))
	}
	out.Waiting = []api.MembershipKey{}
	for _, id := range last.Waiting {
		out.Waiting = append(out.Waiting, a.membershipKey(st, id))
	}
	out.Sealed = len(out.Waiting) == 0
	return out, nil
}

// openAgreement returns the last checkpoint that is sealed or may still be.
func openAgreement(st *trust.State) (trust.Agreement, bool) {
	for _, c := range slices.Backward(st.Agreements()) {
		if !slices.ContainsFunc(c.Waiting, func(id trust.DeviceID) bool {
			m, ok := st.Member(id)
			return !ok || m.Role != trust.RoleAdmin
		}) {
			return c, true
		}
	}
	return trust.Agreement{}, false
}

// changedSince reports whether the membership log holds something that a checkpoint has not seen, but for words on it.
func changedSince(st *trust.State, c trust.Agreement) bool {
	return slices.ContainsFunc(st.Since([]trust.EntryID{c.Entry}), func(e trust.Entry) bool { return e.Kind() != trust.KindCheckpoint })
}

// CheckRecovery reports what a recovery code opens.
func (a *Agent) CheckRecovery(_ context.Context, code string) (api.RecoveryReport, error) {
	st := a.records.State()
	r, err := keyring.OpenWithRecovery(code, st)
	if err != nil {
		return api.RecoveryReport{}, explainRecovery(err)
	}
	return opens(st, r), nil
}

// opens says what a recovery code opens.
func opens(st *trust.State, r *keyring.Recovery) api.RecoveryReport {
	report := api.RecoveryReport{Practice: r.PracticeName(st)}
	for _, sc := range st.Scopes() {
		report.Scopes++
		for _, e := range sc.Epochs {
			if r.Opens(e.ID) {
				report.Epochs++
			} else {
				report.Closed++
			}
		}
	}
	return report
}

func explainRecovery(err error) error {
	e := &api.Error{Code: api.CodeInvalid, Err: err}
	switch {
	case errors.Is(err, keyring.ErrRecoveryCode):
		e.Message, e.Hint = err.Error(), "letters and digits, in groups of five; dashes and case do not matter"
	case errors.Is(err, keyring.ErrReplacedRecovery):
		e.Message, e.Hint = keyring.ErrReplacedRecovery.Error(), "use the one that was printed when it was replaced"
	case errors.Is(err, keyring.ErrWrongRecovery):
		e.Message = keyring.ErrWrongRecovery.Error()
	default:
		return explain(err)
	}
	return e
}

// ReplaceRecovery makes another recovery code, and new keys that the old one does not open.
func (a *Agent) ReplaceRecovery(ctx context.Context, old string) (replaced api.ReplacedRecovery, err error) {
	err = a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		e, code, err := a.keys.ReplaceRecovery(st, old, time.Now())
		if err != nil {
			return nil, err
		}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		rotated, err := a.rotate(st)
		replaced = api.ReplacedRecovery{Code: code, Scopes: len(rotated)}
		return append([]trust.Entry{e}, rotated...), err
	})
	if err != nil {
		return api.ReplacedRecovery{}, explainRecovery(err)
	}
	return replaced, nil
}

// Promote makes this device an administrator's by the recovery code.
func (a *Agent) Promote(ctx context.Context, code string) error {
	err := a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		r, err := keyring.OpenWithRecovery(code, st)
		if err != nil {
			return nil, err
		}
		if self, ok := st.Member(a.keys.Device()); ok && self.Role == trust.RoleAdmin {
			return nil, nil
		}
		e, err := r.SetRole(st, a.keys.Device(), trust.RoleAdmin, nil, time.Now())
		return []trust.Entry{e}, err
	})
	if errors.Is(err, trust.ErrNotMember) {
		return &api.Error{Code: api.CodeForbidden, Message: "this device was removed from the practice", Hint: "reset it and let it join anew", Err: err}
	}
	if err != nil {
		return explainRecovery(err)
	}
	return nil
}

// rotate makes the entries that begin a new epoch of every scope that is due and of which this device has the keys.
func (a *Agent) rotate(st *trust.State) (entries []trust.Entry, err error) {
	for _, scope := range a.keys.RotationsDue(st) {
		if !st.MayRead(a.keys.Device(), scope) {
			continue // for an administrator who reads it
		}
		e, err := a.keys.Rotate(st, scope, time.Now())
		if errors.Is(err, trust.ErrNoKey) {
			// Whoever began the last epoch gave this device no key, or a wrong one. That keeps nobody from removing him.
			a.log.Warn("new keys for a scope are left to another administrator's device", "scope", scope, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// rotateAfter is how long an administrator's device waits for each one before it, and for itself, to rotate what is due, so that
// they do not all rotate at once and then have to join what they began apart.
const rotateAfter = 5 * time.Second

// keepEpochs rotates what is due: a device went between a removal and the rotation, or two rotated apart. What a device that may not
// rotate could add to it, it says.
func (a *Agent) keepEpochs(ctx context.Context, after time.Duration) {
	var at time.Time // when it is this device's turn; zero: nothing is due
	var seen *trust.State
	var keys, turn int
	var due bool
	for {
		changed := a.records.Changed()
		if st, open := a.records.State(), a.keys.Count(); st != seen || open != keys { // what is due follows from them
			var err error
			if turn, due, err = a.epochsTurn(st); err != nil {
				a.log.Error("what is to be done about the keys of scopes is not known; it is looked at again", "error", err)
			} else {
				seen, keys = st, open
			}
		}
		var wait <-chan time.Time
		if !due {
			at = time.Time{}
		} else {
			if at.IsZero() {
				at = time.Now().Add(time.Duration(1+turn) * after)
			}
			wait = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-wait:
			at, seen = time.Time{}, nil
			if err := a.seeToEpochs(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("new keys for a scope were not made; it is tried again", "error", err)
			}
		}
	}
}

// seeToEpochs rotates what is due, or says the keys that nobody may have who rotates.
func (a *Agent) seeToEpochs(ctx context.Context) error {
	if self, _ := a.records.State().Member(a.keys.Device()); self.Role == trust.RoleAdmin {
		return a.enter(ctx, a.rotate)
	}
	return a.records.SayKeys(ctx)
}

// epochsTurn says whether this device is to see to something, and how many others come before it: administrators, then the rest.
func (a *Agent) epochsTurn(st *trust.State) (turn int, due bool, err error) {
	self, ok := st.Member(a.keys.Device())
	switch {
	case !ok:
	case self.Role == trust.RoleAdmin:
		due = len(a.keys.RotationsDue(st)) > 0
	default:
		due, err = a.records.KeysToSay()
	}
	if !due || err != nil {
		return 0, false, err
	}
	for _, m := range st.Members() {
		admin := m.Role == trust.RoleAdmin
		before := bytes.Compare(m.Device[:], self.Device[:]) < 0
		if admin && self.Role != trust.RoleAdmin || before && admin == (self.Role == trust.RoleAdmin) {
			turn++
		}
	}
	return turn, true, nil
}
