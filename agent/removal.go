package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// Remove removes a device for ever: what it wrote counts as far as it has come here, its connections end, and the scopes that it
// read go on under new keys. All of that is one commit.
func (a *Agent) Remove(ctx context.Context, req api.RemovalRequest) (report api.RemovalReport, err error) {
	before := a.records.State()
	device, err := a.device(before, req.Device)
	if err != nil {
		return report, err
	}
	if device == a.keys.Device() {
		return report, &api.Error{Code: api.CodeInvalid, Message: "this is the device itself",
			Hint: "remove it at another administrator's device"}
	}
	var recovery *keyring.Recovery
	if req.RecoveryCode != "" {
		if recovery, err = keyring.OpenWithRecovery(req.RecoveryCode, before); err != nil {
			return report, explainRecovery(err)
		}
	}
	var scopes []trust.ScopeID // of report.Scopes
	if report, scopes, err = a.removal(before, device); err != nil {
		return report, explain(err)
	}
	if report.Older = report.Older && recovery == nil; report.Older && !req.AlthoughOlder {
		return report, &api.Error{Code: api.CodeForbidden,
			Message: "it is an administrator's device and was added before this one: whoever has it could remove this one in return",
			Hint:    "remove it with the recovery code: --recovery; or all the same: --yes"}
	}
	if report.Quorum, err = a.leavesVoters(ctx, before, device, req.AlthoughVoter); err != nil {
		return report, explain(err)
	}
	if report.Quorum != nil && !req.AlthoughVoter && (recovery != nil || a.isAdmin(before)) { // others are told that they may not
		e := a.stillVotes(device, report.Quorum)
		e.Hint += "; if it was lost or stolen, remove it at once: --stolen"
		return report, e
	}
	cut, err := a.records.CutOf(device)
	if err != nil {
		return report, explain(err)
	}
	for _, p := range cut {
		if at := slices.Index(scopes, p.Scope); at >= 0 {
			report.Scopes[at].Chunks += p.Counter
		}
	}
	err = a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		remove := a.keys.Remove
		if recovery != nil {
			remove = recovery.Remove
		}
		e, err := remove(st, device, cut, time.Now())
		if err != nil {
			return nil, err
		}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		list := []trust.Entry{e}
		if self, _ := st.Member(a.keys.Device()); self.Role == trust.RoleAdmin {
			rotated, err := a.rotate(st)
			if err != nil {
				return nil, err
			}
			list = append(list, rotated...)
		} // else an administrator's device rotates as soon as it hears of it
		return list, nil
	})
	if errors.Is(err, trust.ErrNotMember) {
		return report, &api.Error{Code: api.CodeNotFound, Message: "it was removed already", Err: err}
	}
	if err != nil {
		return report, err
	}
	after := a.records.State()
	for i, id := range scopes {
		sc, _ := after.Scope(id)
		report.Scopes[i].NewKey = len(sc.Epochs) > report.Scopes[i].LastKey
	}
	a.log.Info("a device was removed from the practice", "device", device)
	return report, nil
}

// removal says what a device has that is to be removed, and of which scopes.
func (a *Agent) removal(st *trust.State, device trust.DeviceID) (report api.RemovalReport, scopes []trust.ScopeID, err error) {
	report.Device = a.membershipKey(st, device)
	report.Scopes = []api.RemovedScope{}
	if last := a.peers.get(device).LastContact; !last.IsZero() {
		report.LastContact = &last
	}
	m, ok := st.Member(device)
	if !ok {
		report.Role = trust.RoleAnchor.String()
		return report, nil, nil
	}
	report.Role = m.Role.String()
	self, _ := st.Member(a.keys.Device())
	report.Older = m.Role == trust.RoleAdmin && st.Older(device, self.Device)
	for _, sc := range st.Scopes() {
		if !st.MayRead(device, sc.ID) {
			continue
		}
		s := api.RemovedScope{Name: scopeName(sc), LastKey: len(sc.Epochs)}
		if s.Documents, s.Patients, err = a.records.Contents(sc.ID); err != nil {
			return report, nil, err
		}
		report.Scopes, scopes = append(report.Scopes, s), append(scopes, sc.ID)
	}
	return report, scopes, nil
}

// SetRole gives a device another role.
func (a *Agent) SetRole(ctx context.Context, req api.RoleRequest) error {
	role, ok := roleNamed(req.Role)
	if !ok {
		return &api.Error{Code: api.CodeInvalid, Message: "the role must be admin, member, reader or server"}
	}
	device, err := a.device(a.records.State(), req.Device)
	if err != nil {
		return err
	}
	var cut trust.Cut
	if st := a.records.State(); !lockquorum.MayVoteAs(st, device, role) {
		left, err := a.leavesVoters(ctx, st, device, false)
		if err != nil {
			return explain(err)
		}
		if left != nil && a.isAdmin(st) {
			return a.stillVotes(device, left)
		}
	}
	if !role.MayWrite() {
		if cut, err = a.records.CutOf(device); err != nil {
			return explain(err)
		}
	}
	return a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		if m, ok := st.Member(device); ok && m.Role == role {
			return nil, nil
		}
		e, err := a.keys.SetRole(st, device, role, cut, time.Now())
		return []trust.Entry{e}, err
	})
}

// isAdmin reports whether this device is an administrator's.
func (a *Agent) isAdmin(st *trust.State) bool {
	m, ok := st.Member(a.keys.Device())
	return ok && m.Role == trust.RoleAdmin
}

func roleNamed(name string) (trust.Role, bool) {
	for role := trust.RoleAdmin; role <= trust.RoleServer; role++ {
		if role.String() == name {
			return role, true
		}
	}
	return 0, false
}
