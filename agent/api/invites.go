package api

import (
	"context"
	"net/http"
	"time"
)

// Invitations is the part of Agent by which other devices are let in.
type Invitations interface {
	// Invite opens an invitation for one device. The answer is the only place where its secrets ever stand.
	Invite(ctx context.Context, req InviteRequest) (Invite, error)
	// Invites lists the invitations that this device has opened, until some time after their end.
	Invites(ctx context.Context) ([]InviteState, error)
	// WaitInvite returns an invitation as soon as its state is another than known. CodeTimeout when ctx ends before.
	WaitInvite(ctx context.Context, name, known string) (InviteState, error)
	// ConfirmInvite decides on the newcomer that waits to be confirmed.
	ConfirmInvite(ctx context.Context, name string, decision InviteDecision) error
	// RevokeInvite ends an invitation, and turns away who waits.
	RevokeInvite(ctx context.Context, name string) error
}

// InviteRequest asks for an invitation.
type InviteRequest struct {
	Role    string        `json:"role,omitempty"` // member (default), admin, reader, server
	Site    string        `json:"site,omitempty"` // where the newcomer is; empty: it says so itself
	Expires time.Duration `json:"expires_ns,omitempty"`
	Yes     bool          `json:"yes,omitempty"` // whoever has the code is admitted, and nobody confirms it
}

// Invite is an invitation, with its secrets: words to read aloud, and a code as text and as link.
type Invite struct {
	Name      string    `json:"name"`
	Words     string    `json:"words"`
	Code      string    `json:"code"`
	Link      string    `json:"link"`
	Role      string    `json:"role"`
	Site      string    `json:"site,omitempty"`
	Expires   time.Time `json:"expires"`
	Addresses []string  `json:"addresses"` // of the inviting device, for a network on which it cannot be found
	Anchors   []string  `json:"anchors"`   // where the practice's anchors are, which bring newcomers from elsewhere
}

// States of an invitation.
const (
	InviteOpen    = "open"
	InviteWaiting = "waiting" // a newcomer waits to be confirmed
	InviteUsed    = "used"
	InviteExpired = "expired"
	InviteBlocked = "blocked" // wrong words were tried too often; the code and the link go on
)

// InviteState is what became of an invitation.
type InviteState struct {
	Name      string         `json:"name"` // of two words, no secret
	Role      string         `json:"role"`
	Site      string         `json:"site,omitempty"`
	Expires   time.Time      `json:"expires"`
	State     string         `json:"state"`
	TriesLeft int            `json:"tries_left"` // of the words
	Newcomer  *Newcomer      `json:"newcomer,omitempty"`
	Device    *MembershipKey `json:"device,omitempty"` // that used it
}

// Newcomer is a device that waits to be confirmed. It has proven that it knows the code; the names are its own word.
type Newcomer struct {
	Name        string `json:"name"`
	Site        string `json:"site"`
	Fingerprint string `json:"fingerprint"` // which the newcomer's screen shows too
}

// InviteDecision lets the newcomer with a fingerprint in, or turns it away.
type InviteDecision struct {
	Admit       bool   `json:"admit"`
	Fingerprint string `json:"fingerprint"`
}

func (h *handler) invite(w http.ResponseWriter, r *http.Request) error {
	req, err := small[InviteRequest](w, r)
	if err != nil {
		return err
	}
	if req.Expires < 0 || req.Expires > MaxInvite {
		return invalid("an invite lasts at most 30 days", "")
	}
	invite, err := h.agent.Invite(r.Context(), req)
	return writeJSON(w, invite, err)
}

func (h *handler) invites(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := h.agent.Invites(r.Context())
	return writeJSON(w, list, err)
}

func (h *handler) waitInvite(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "known")
	if err != nil {
		return err
	}
	name, err := inviteName(r)
	if err != nil {
		return err
	}
	known, err := short(q, "known")
	if err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	state, err := h.agent.WaitInvite(ctx, name, known)
	return writeJSON(w, state, err)
}

func (h *handler) confirmInvite(w http.ResponseWriter, r *http.Request) error {
	name, err := inviteName(r)
	if err != nil {
		return err
	}
	d, err := small[InviteDecision](w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, d, h.agent.ConfirmInvite(r.Context(), name, d))
}

func (h *handler) revokeInvite(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	name, err := inviteName(r)
	if err != nil {
		return err
	}
	return writeJSON(w, struct{}{}, h.agent.RevokeInvite(r.Context(), name))
}

func inviteName(r *http.Request) (string, error) {
	name := r.PathValue("name")
	if name == "" || len(name) > maxVersion {
		return "", invalid("an invitation is named by two words", "")
	}
	return name, nil
}
