package api

import (
	"context"
	"net/http"
	"time"
)

// Membership is the part of Agent that is about who belongs to the practice.
type Membership interface {
	// MembershipLog lists who did what to whom. With verify every signature and right is checked anew, from the founding on.
	MembershipLog(ctx context.Context, verify bool) (MembershipLog, error)
	// Rename names a device, or the practice. CodeForbidden unless this device may.
	Rename(ctx context.Context, req RenameRequest) error
	// Remove removes a device for ever, and begins new keys that it does not get. CodeForbidden unless this device is an
	// administrator's, or a recovery code is given.
	Remove(ctx context.Context, req RemovalRequest) (RemovalReport, error)
	// SetRole gives a device another role: admin, member, reader or server.
	SetRole(ctx context.Context, req RoleRequest) error
	// AgreeMembership has this administrator's device agree to the membership log so far. Once all administrators have, nothing that somebody
	// dates back comes beside it. CodeForbidden unless this device is an administrator's.
	AgreeMembership(ctx context.Context) (Agreement, error)
	// AddAnchor adds an always-on peer that keeps what all write, and can read none of it. CodeForbidden unless this device is an
	// administrator's.
	AddAnchor(ctx context.Context, req AnchorRequest) (AddedAnchor, error)
	// CheckRecovery reports what a recovery code opens. CodeInvalid says what is wrong with it.
	CheckRecovery(ctx context.Context, code string) (RecoveryReport, error)
	// Promote makes this device an administrator's by the recovery code, when there is no other left.
	Promote(ctx context.Context, code string) error
	// ReplaceRecovery makes another recovery code, and new keys that the old one does not open. The answer is the only place
	// where the new code ever stands. An empty old code is one that nobody has any more.
	ReplaceRecovery(ctx context.Context, old string) (ReplacedRecovery, error)
}

// Keyring is the part of Agent that is about how this device keeps its keys.
type Keyring interface {
	KeyringStatus(ctx context.Context) (KeyringStatus, error)
	// ProtectKeyring seals the keys on disk under a passphrase or a key in the system's keychain, or leaves them to the file's permissions.
	ProtectKeyring(ctx context.Context, req ProtectionRequest) error
}

// KeyringStatus says where and how this device keeps its keys.
type KeyringStatus struct {
	File       string `json:"file"`
	Protection string `json:"protection"` // permissions: of the file alone; passphrase; keychain
	Epochs     int    `json:"epochs"`     // keys of scopes that are open

	// StoreKeyChanged is when the store was last encrypted anew; nil: never.
	StoreKeyChanged *time.Time `json:"store_key_changed,omitempty"`
}

// StoreRotation says how the store was encrypted anew.
type StoreRotation struct {
	Values  uint64        `json:"values"`
	Bytes   uint64        `json:"bytes"` // on disk, before
	Changed time.Time     `json:"store_key_changed"`
	Took    time.Duration `json:"took_ns"`
}

// ProtectionRequest says what the keys on disk are to be sealed by: neither leaves them to the file's permissions.
type ProtectionRequest struct {
	Passphrase string `json:"passphrase,omitempty"`
	Keychain   bool   `json:"keychain,omitempty"`
}

// MembershipLog is the membership log, the oldest entry first.
type MembershipLog struct {
	Practice string            `json:"practice"`
	Founding string            `json:"founding"` // ID of the founding entry, which names the practice
	Root     string            `json:"root"`     // root key in force
	Verified bool              `json:"verified"` // everything was checked anew
	Entries  []MembershipEntry `json:"entries"`
}

// MembershipEntry is what somebody stated.
type MembershipEntry struct {
	ID     string        `json:"id"`
	Time   time.Time     `json:"time"` // by the author's clock
	Kind   string        `json:"kind"` // found, add, remove, role, rename, rotate, scope, anchor, reseed, checkpoint, recovery or another
	By     MembershipKey `json:"by"`
	Device MembershipKey `json:"device,omitzero"` // whom it is about
	Role   string        `json:"role,omitempty"`
	Scope  string        `json:"scope,omitempty"`
	Void   string        `json:"void,omitempty"` // why it has no effect
	Bytes  int           `json:"bytes"`
}

// MembershipKey is a device, an anchor or the practice's root key.
type MembershipKey struct {
	Name   string `json:"name,omitempty"`
	Site   string `json:"site,omitempty"`
	PeerID string `json:"peer_id,omitempty"`
	Root   bool   `json:"root,omitempty"` // the root key, which is the recovery code's
}

// RenameRequest names a device, by its name or peer ID, or the practice if Device is empty. What is empty stays.
type RenameRequest struct {
	Device string `json:"device,omitempty"`
	Name   string `json:"name,omitempty"`
	Site   string `json:"site,omitempty"`
}

// Agreement says who of the administrators has agreed to the membership log so far.
type Agreement struct {
	Did     string          `json:"did"` // began, agreed, or nothing: nothing has changed since, or others are waited for
	Agreed  []MembershipKey `json:"agreed"`
	Waiting []MembershipKey `json:"waiting"` // nobody: it is sealed
	Sealed  bool            `json:"sealed"`
}

// AnchorRequest says where an anchor is: multiaddrs, each with the same /p2p/ at its end.
type AnchorRequest struct {
	Addresses []string `json:"addresses"`
	Name      string   `json:"name"`
}

// AddedAnchor is an anchor that the practice has now. Whoever runs it admits the practice by the token, which is no secret.
type AddedAnchor struct {
	Name      string   `json:"name"`
	PeerID    string   `json:"peer_id"`
	Addresses []string `json:"addresses"` // at which it is looked for
	Token     string   `json:"token"`
	Again     bool     `json:"again,omitempty"` // it was added before, and stays as it is
}

// RemovalRequest names a device by its name or peer ID. With a recovery code the removal outranks whatever the device may
// state meanwhile.
type RemovalRequest struct {
	Device       string `json:"device"`
	RecoveryCode string `json:"recovery_code,omitempty"`
	// AlthoughOlder removes an administrator that was added before who removes it, also without a recovery code.
	AlthoughOlder bool `json:"although_older,omitempty"`
	// AlthoughVoter removes a device, or an anchor, that keeps leases and numbers: one that was lost or stolen.
	AlthoughVoter bool `json:"although_voter,omitempty"`
}

// RemovalReport says what a removed device had, and so may still know.
type RemovalReport struct {
	Device      MembershipKey  `json:"device"`
	Role        string         `json:"role"`
	LastContact *time.Time     `json:"last_contact,omitempty"` // as far as this device knows
	Scopes      []RemovedScope `json:"scopes"`
	Older       bool           `json:"older,omitempty"`  // an administrator that was added before who removed it, without a recovery code
	Quorum      *QuorumLeft    `json:"quorum,omitempty"` // it kept leases and numbers
}

// QuorumLeft is what a voter that was removed leaves of its quorum.
type QuorumLeft struct {
	Voters int     `json:"voters"` // with it
	Left   []Party `json:"left"`
	GoesOn bool    `json:"goes_on"` // while all that are left can be reached
	Next   string  `json:"next"`    // what to do
}

// RemovedScope is what a removed device had of a scope.
type RemovedScope struct {
	Name      string `json:"name"`
	Documents int    `json:"documents"`
	Patients  int    `json:"patients"`
	Chunks    uint64 `json:"chunks"`   // that it wrote and that count
	LastKey   int    `json:"last_key"` // number of the scope's last key that it was given, from 1
	NewKey    bool   `json:"new_key"`  // what is written from now on it cannot read
}

// RoleRequest names a device, by its name or peer ID, and its new role.
type RoleRequest struct {
	Device string `json:"device"`
	Role   string `json:"role"`
}

// RecoveryRequest carries a recovery code.
type RecoveryRequest struct {
	Code string `json:"code"`
}

// RecoveryReport says what a recovery code opens.
type RecoveryReport struct {
	Practice string `json:"practice"`
	Scopes   int    `json:"scopes"`
	Epochs   int    `json:"epochs"`
	Closed   int    `json:"closed,omitempty"` // epochs that whoever began them did not seal to the code
}

// Restored says what was found when a new device was founded with the recovery code.
type Restored struct {
	RecoveryReport
	PeerID  string           `json:"peer_id"` // of the new device
	Devices []RestoredDevice `json:"devices"` // the others, lost ones among them
}

// RestoredDevice is another device of a practice, as its membership log names it.
type RestoredDevice struct {
	PeerID   string `json:"peer_id"`
	Name     string `json:"name,omitempty"`
	Site     string `json:"site,omitempty"`
	Role     string `json:"role"`
	Answered bool   `json:"answered"` // and took the new device in
}

// ReplacedRecovery is a new recovery code.
type ReplacedRecovery struct {
	Code   string `json:"recovery_code"`
	Scopes int    `json:"scopes"` // which have new keys
}

func (h *handler) membership(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "verify")
	if err != nil {
		return err
	}
	verify, err := boolean(q, "verify")
	if err != nil {
		return err
	}
	log, err := h.agent.MembershipLog(r.Context(), verify)
	return writeJSON(w, log, err)
}

func (h *handler) rename(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RenameRequest](w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, req, h.agent.Rename(r.Context(), req))
}

func (h *handler) agree(w http.ResponseWriter, r *http.Request) error {
	if _, err := small[struct{}](w, r); err != nil {
		return err
	}
	a, err := h.agent.AgreeMembership(r.Context())
	return writeJSON(w, a, err)
}

func (h *handler) addAnchor(w http.ResponseWriter, r *http.Request) error {
	req, err := small[AnchorRequest](w, r)
	if err != nil {
		return err
	}
	a, err := h.agent.AddAnchor(r.Context(), req)
	return writeJSON(w, a, err)
}

func (h *handler) remove(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RemovalRequest](w, r)
	if err != nil {
		return err
	}
	report, err := h.agent.Remove(r.Context(), req)
	return writeJSON(w, report, err)
}

func (h *handler) setRole(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RoleRequest](w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, req, h.agent.SetRole(r.Context(), req))
}

func (h *handler) checkRecovery(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RecoveryRequest](w, r)
	if err != nil {
		return err
	}
	report, err := h.agent.CheckRecovery(r.Context(), req.Code)
	return writeJSON(w, report, err)
}

func (h *handler) promote(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RecoveryRequest](w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, struct{}{}, h.agent.Promote(r.Context(), req.Code))
}

func (h *handler) replaceRecovery(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RecoveryRequest](w, r)
	if err != nil {
		return err
	}
	replaced, err := h.agent.ReplaceRecovery(r.Context(), req.Code)
	return writeJSON(w, replaced, err)
}

func (h *handler) keyring(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	status, err := h.agent.KeyringStatus(r.Context())
	return writeJSON(w, status, err)
}

func (h *handler) protectKeyring(w http.ResponseWriter, r *http.Request) error {
	req, err := small[ProtectionRequest](w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, struct{}{}, h.agent.ProtectKeyring(r.Context(), req))
}

// small reads a request that is a little JSON without a query.
func small[T any](w http.ResponseWriter, r *http.Request) (req T, err error) {
	if _, err = query(r); err != nil {
		return req, err
	}
	data, err := body(w, r, maxSmall)
	if err != nil {
		return req, err
	}
	return req, decode(data, &req)
}
