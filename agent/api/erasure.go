package api

import (
	"context"
	"net/http"
	"time"
)

// Erasing is the part of [Agent] for taking records out of every device and anchor of the practice (docs/spec/erasure.md).
type Erasing interface {
	// PlanErasure says what an order would name, and what stands against it.
	PlanErasure(ctx context.Context, req ErasureRequest) (ErasurePlan, error)
	// OrderErasure orders it. With a recovery code the order is agreed at once. CodeForbidden unless this device is an administrator's.
	OrderErasure(ctx context.Context, user string, req ErasureRequest) (Erasure, error)
	// AgreeErasure agrees to an order of another administrator's, by the beginning of its ID; to one of this device's with the recovery code.
	AgreeErasure(ctx context.Context, user, id string, req ErasureAgreement) (Erasure, error)
	// Erasures lists what was ordered, the newest first; last what is worthless, at most 50.
	Erasures(ctx context.Context) ([]Erasure, error)
}

// ErasureRequest names a resource whose record is to be erased: a patient's whole chart, or the document of one that is in none. Again names an earlier
// erasure instead, of which more has come since.
type ErasureRequest struct {
	Resource     Ref    `json:"resource,omitzero"`
	Again        string `json:"again,omitempty"` // the beginning of an erasure's ID
	Reason       string `json:"reason,omitempty"`
	RecoveryCode string `json:"recovery_code,omitempty"`
}

// Check says what is wrong with r.
func (r ErasureRequest) Check() error {
	switch named := r.Resource != (Ref{}); {
	case named == (r.Again != ""):
		return invalid("an erasure names a resource or an earlier erasure, one of them", "")
	case named && !r.Resource.Valid():
		return invalid("the resource is not Type/id", "")
	case len(r.Again) > maxVersion:
		return invalid("the erasure's id is too long", "")
	}
	return checkLine(r.Reason)
}

// ErasureAgreement carries the recovery code where there is no other administrator.
type ErasureAgreement struct {
	RecoveryCode string `json:"recovery_code,omitempty"`
}

// ErasurePlan says what an order would name.
type ErasurePlan struct {
	Documents int            `json:"documents"`
	Chunks    uint64         `json:"chunks"`
	Resources map[string]int `json:"resources"`         // live ones that are shown, by type
	Stays     []ErasureNote  `json:"stays,omitempty"`   // what is about the patient and stays
	Against   []ErasureNote  `json:"against,omitempty"` // why it cannot be ordered; none: it can
	Alone     bool           `json:"alone"`             // there is no other administrator to agree: it takes the recovery code
}

// ErasureNote is about a resource, or about all of them if none is named.
type ErasureNote struct {
	Resource string `json:"resource,omitempty"`
	Note     string `json:"note"`
}

// Erasure is an order, over one document or several.
type Erasure struct {
	ID        string         `json:"id"`    // the beginning of its ID
	State     string         `json:"state"` // ordered, agreed: not all is deleted here, erased; refused: it names what it may not; worthless: no administrator ordered it
	Documents int            `json:"documents"`
	Chunks    uint64         `json:"chunks"`
	Resources map[string]int `json:"resources,omitempty"` // until it is agreed
	Patient   string         `json:"patient,omitempty"`   // likewise: the resource Patient/… among them
	Reason    string         `json:"reason,omitempty"`
	Ordered   ErasureWord    `json:"ordered"`
	Agreed    *ErasureWord   `json:"agreed,omitempty"`
	Late      []string       `json:"late,omitempty"` // chunks that came since and are held back; at most 100
}

// ErasureWord is who ordered or agreed.
type ErasureWord struct {
	Device   string    `json:"device"`
	Site     string    `json:"site,omitempty"`
	User     string    `json:"user,omitempty"`
	At       time.Time `json:"at"`                 // by that device's clock
	Recovery bool      `json:"recovery,omitempty"` // with the recovery code
}

// MaxLateShown bounds Erasure.Late.
const MaxLateShown = 100

func (h *handler) planErasure(w http.ResponseWriter, r *http.Request) error {
	req, err := small[ErasureRequest](w, r)
	if err != nil {
		return err
	}
	if err := req.Check(); err != nil {
		return err
	}
	plan, err := h.agent.PlanErasure(r.Context(), req)
	return writeJSON(w, plan, err)
}

func (h *handler) orderErasure(w http.ResponseWriter, r *http.Request) error {
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	req, err := small[ErasureRequest](w, r)
	if err != nil {
		return err
	}
	if err := req.Check(); err != nil {
		return err
	}
	e, err := h.agent.OrderErasure(r.Context(), user, req)
	return writeJSON(w, e, err)
}

func (h *handler) agreeErasure(w http.ResponseWriter, r *http.Request) error {
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	req, err := small[ErasureAgreement](w, r)
	if err != nil {
		return err
	}
	id, err := pathHeld(r)
	if err != nil {
		return err
	}
	e, err := h.agent.AgreeErasure(r.Context(), user, id, req)
	return writeJSON(w, e, err)
}

func (h *handler) erasures(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	all, err := h.agent.Erasures(r.Context())
	return writeJSON(w, list(all), err)
}
