package apitest

import (
	"context"

	"chartmesh/agent/api"
)

// RecoveryCode is the one that the Agent knows.
const RecoveryCode = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE-FFFFF"

// MembershipLog implements api.Agent.
func (a *Agent) MembershipLog(_ context.Context, verify bool) (api.MembershipLog, error) {
	founder := api.MembershipKey{Name: "Empfang", Site: "Mitte", PeerID: "12D3KooWEmpfang"}
	labor := api.MembershipKey{Name: "Labor", Site: "Nord", PeerID: "12D3KooWLabor"}
	return api.MembershipLog{Practice: "Praxis Berg", Founding: "f0", Root: "r0", Verified: verify, Entries: []api.MembershipEntry{
		{ID: "f0", Time: Begun, Kind: "found", By: founder, Device: founder, Role: "admin", Bytes: 9000},
		{ID: "a1", Time: Begun, Kind: "add", By: founder, Device: labor, Role: "member", Bytes: 4000},
		{ID: "e2", Time: Begun, Kind: "rotate", By: api.MembershipKey{Root: true}, Scope: "clinical", Bytes: 2600, Void: "it was too late"},
	}}, a.failing("MembershipLog")
}

// Rename implements api.Agent.
func (a *Agent) Rename(_ context.Context, req api.RenameRequest) error {
	if req.Device == "nobody" {
		return &api.Error{Code: api.CodeNotFound, Message: "no such device"}
	}
	return a.failing("Rename")
}

// AgreeMembership implements api.Agent.
func (a *Agent) AgreeMembership(context.Context) (api.Agreement, error) {
	return api.Agreement{Did: "began", Agreed: []api.MembershipKey{{Name: "Empfang", Site: "Mitte", PeerID: "12D3KooWEmpfang"}},
		Waiting: []api.MembershipKey{{Name: "Labor", Site: "Nord", PeerID: "12D3KooWLabor"}}}, a.failing("AgreeMembership")
}

// AddAnchor implements api.Agent.
func (a *Agent) AddAnchor(_ context.Context, req api.AnchorRequest) (api.AddedAnchor, error) {
	if len(req.Addresses) == 0 {
		return api.AddedAnchor{}, &api.Error{Code: api.CodeInvalid, Message: "an anchor has an address"}
	}
	return api.AddedAnchor{Name: req.Name, PeerID: "12D3KooWAnker", Token: "cma1-token"}, a.failing("AddAnchor")
}

// Remove implements api.Agent.
func (a *Agent) Remove(_ context.Context, req api.RemovalRequest) (api.RemovalReport, error) {
	if req.Device == "nobody" {
		return api.RemovalReport{}, &api.Error{Code: api.CodeNotFound, Message: "no such device"}
	}
	seen := Begun
	return api.RemovalReport{Device: api.MembershipKey{Name: req.Device}, Role: "member", LastContact: &seen,
		Scopes: []api.RemovedScope{{Name: "clinical", Documents: 3, Patients: 2, Chunks: 9, LastKey: 1, NewKey: true}}}, a.failing("Remove")
}

// SetRole implements api.Agent.
func (a *Agent) SetRole(_ context.Context, req api.RoleRequest) error {
	if req.Role == "king" {
		return &api.Error{Code: api.CodeInvalid, Message: "no such role"}
	}
	return a.failing("SetRole")
}

// CheckRecovery implements api.Agent.
func (a *Agent) CheckRecovery(_ context.Context, code string) (api.RecoveryReport, error) {
	if err := a.failing("CheckRecovery"); err != nil {
		return api.RecoveryReport{}, err
	}
	if code != RecoveryCode {
		return api.RecoveryReport{}, &api.Error{Code: api.CodeInvalid, Message: "the recovery code is not this practice's"}
	}
	return api.RecoveryReport{Practice: "Praxis Berg", Scopes: 2, Epochs: 3}, nil
}

// Promote implements api.Agent.
func (a *Agent) Promote(ctx context.Context, code string) error {
	if _, err := a.CheckRecovery(ctx, code); err != nil {
		return err
	}
	return a.failing("Promote")
}

// ReplaceRecovery implements api.Agent.
func (a *Agent) ReplaceRecovery(ctx context.Context, old string) (api.ReplacedRecovery, error) {
	if old != "" {
		if _, err := a.CheckRecovery(ctx, old); err != nil {
			return api.ReplacedRecovery{}, err
		}
	}
	return api.ReplacedRecovery{Code: "NEW00-BBBBB-CCCCC-DDDDD-EEEEE-FFFFF", Scopes: 2}, a.failing("ReplaceRecovery")
}

// KeyringStatus implements api.Agent.
func (a *Agent) KeyringStatus(context.Context) (api.KeyringStatus, error) {
	return api.KeyringStatus{File: "/data/keyring", Protection: "permissions", Epochs: 2}, a.failing("KeyringStatus")
}

// ProtectKeyring implements api.Agent.
func (a *Agent) ProtectKeyring(_ context.Context, req api.ProtectionRequest) error {
	if req.Passphrase == "short" {
		return &api.Error{Code: api.CodeInvalid, Message: "a passphrase has 12 to 1024 bytes"}
	}
	return a.failing("ProtectKeyring")
}
