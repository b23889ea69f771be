package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Quarantine is the part of [Agent] for chunks that are stored and not part of their documents.
type Quarantine interface {
	// Held lists held chunks in a fixed order, a page at a time.
	Held(ctx context.Context, query HeldQuery) (HeldPage, error)
	// HeldChunk returns one of them, by the beginning of its ID, with what can be shown of its content.
	HeldChunk(ctx context.Context, id string) (HeldDetail, error)
	// DecideHeld releases or discards a chunk, on all devices.
	DecideHeld(ctx context.Context, user, id string, decision HeldDecision) (HeldOutcome, error)
	// RetryHeld tries again, now, what this machine failed on: one chunk, or with no ID all of them.
	RetryHeld(ctx context.Context, id string) (HeldRetry, error)
}

// Held is a chunk that is stored but not part of its document.
type Held struct {
	Chunk  string `json:"chunk"` // the beginning of its ID
	State  string `json:"state"` // parked, quarantined, unapplied, discarded
	Reason string `json:"reason"`
	Device string `json:"device"` // its author's
	Site   string `json:"site,omitempty"`

	Kind    string     `json:"kind,omitempty"` // changes, decision, …
	Scope   string     `json:"scope,omitempty"`
	Log     string     `json:"log,omitempty"` // the beginning of its log's ID
	Counter uint64     `json:"counter,omitempty"`
	Written *time.Time `json:"written,omitempty"` // by its author's clock
	Since   *time.Time `json:"since,omitempty"`   // when it was first held here
	// Document is the beginning of the document's ID, Resources some of the resources that it touches; absent where that
	// cannot be told.
	Document  string   `json:"document,omitempty"`
	Resources []string `json:"resources,omitempty"`
	WaitsFor  *Need    `json:"waits_for,omitempty"`
	Waiting   []string `json:"waiting,omitempty"` // held chunks that wait for this one; at most 100
	// Releasable: a release would take it in; for what breaks a rule, waits or failed here it would not.
	Releasable bool       `json:"releasable,omitempty"`
	Tries      int        `json:"tries,omitempty"`    // unapplied: how often this machine failed
	NextTry    *time.Time `json:"next_try,omitempty"` // unapplied: not tried by itself before, and then at a start
}

// Need is what a held chunk waits for.
type Need struct {
	Kind  string `json:"kind"`            // change, key, newer version, member, certificate, quorum
	ID    string `json:"id,omitempty"`    // the beginning of it
	Chunk string `json:"chunk,omitempty"` // the held chunk that would bring the change, if there is one
}

// HeldQuery says what to list.
type HeldQuery struct {
	State     string // parked, quarantined, unapplied, discarded; "": all that are not discarded
	Discarded bool   // the discarded ones too
	After     string // HeldPage.Next of the page before
	Limit     int    // 0: 100
}

// HeldPage is a page of a list.
type HeldPage struct {
	Chunks []Held `json:"chunks"`
	Total  int    `json:"total"`          // on all pages
	Next   string `json:"next,omitempty"` // where the next page begins; "": this is the last
}

// HeldDetail is one held chunk in full.
type HeldDetail struct {
	Held
	ID        string        `json:"id"` // the whole
	Bytes     int           `json:"bytes"`
	Decisions []HeldDecided `json:"decisions,omitempty"` // oldest first by their authors' clocks; at most 100
	Content   *HeldContent  `json:"content,omitempty"`
	Hidden    string        `json:"hidden,omitempty"` // why there is no content
}

// HeldDecided is one decision about a chunk.
type HeldDecided struct {
	Verdict  string    `json:"verdict"` // release, discard
	Replaced bool      `json:"replaced,omitempty"`
	User     string    `json:"user"`
	Device   string    `json:"device"`
	Site     string    `json:"site,omitempty"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason,omitempty"`
}

// HeldContent is what can be read of a chunk.
type HeldContent struct {
	Author  string       `json:"author,omitempty"`
	Origin  string       `json:"origin,omitempty"`
	Changes []HeldChange `json:"changes,omitempty"`
	// Decides: of a held decision, what it is about.
	Decides string `json:"decides,omitempty"`
	Cut     bool   `json:"cut,omitempty"` // there is more than is shown
}

// HeldChange is one change of a held chunk.
type HeldChange struct {
	Hash       string      `json:"hash,omitempty"`
	Bytes      int         `json:"bytes"`
	Operations int         `json:"operations,omitempty"`
	Malformed  string      `json:"malformed,omitempty"` // why it cannot be read
	Values     []HeldValue `json:"values,omitempty"`
}

// HeldValue is one value that a change writes.
type HeldValue struct {
	Path    string          `json:"path"`
	Value   json.RawMessage `json:"value,omitempty"`
	Removed bool            `json:"removed,omitempty"`
}

// HeldDecision is the body of POST /v1/quarantine/{id}/decision.
type HeldDecision struct {
	Verdict string `json:"verdict"` // release, discard
	Reason  string `json:"reason,omitempty"`
}

// HeldOutcome says what became of a chunk once the decision was durable.
type HeldOutcome struct {
	Chunk   string `json:"chunk"`
	Verdict string `json:"verdict"` // release, discard, retry
	State   string `json:"state"`   // applied, or why not: parked, quarantined, unapplied, discarded
	Reason  string `json:"reason,omitempty"`
	With    int    `json:"with,omitempty"` // discarded: how many that wait for it were discarded with it
}

// HeldRetry counts what RetryHeld did.
type HeldRetry struct {
	Tried   int `json:"tried"`
	Applied int `json:"applied"`
}

// Check says what is wrong with d.
func (d HeldDecision) Check() error {
	switch {
	case d.Verdict != "release" && d.Verdict != "discard":
		return invalid("the verdict is release or discard", "")
	}
	return checkLine(d.Reason)
}

// checkLine says what is wrong with what somebody says of why.
func checkLine(reason string) error {
	switch {
	case len(reason) > MaxReason:
		return invalid("the reason is longer than 1,024 bytes", "")
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl):
		return invalid("the reason is one line of plain text", "")
	}
	return nil
}

func (h *handler) held(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "state", "discarded", "after", "limit")
	if err != nil {
		return err
	}
	ask := HeldQuery{State: q.Get("state"), Limit: 100}
	switch ask.State {
	case "", "parked", "quarantined", "unapplied", "discarded":
	default:
		return invalid("state is parked, quarantined, unapplied or discarded", "")
	}
	if ask.Discarded, err = boolean(q, "discarded"); err != nil {
		return err
	}
	if ask.After = q.Get("after"); len(ask.After) > maxHeldCursor {
		return invalid("after is what the page before gave as next", "")
	}
	if q.Has("limit") {
		if ask.Limit, err = strconv.Atoi(q.Get("limit")); err != nil || ask.Limit < 1 || ask.Limit > MaxHeldPage {
			return invalid("limit is 1 to 1,000", "")
		}
	}
	page, err := h.agent.Held(r.Context(), ask)
	page.Chunks = list(page.Chunks)
	return writeJSON(w, page, err)
}

func pathHeld(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if len(id) > maxVersion {
		return "", invalid("the id is too long", "")
	}
	return id, nil
}

func (h *handler) heldChunk(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := pathHeld(r)
	if err != nil {
		return err
	}
	detail, err := h.agent.HeldChunk(r.Context(), id)
	return writeJSON(w, detail, err)
}

func (h *handler) decideHeld(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	id, err := pathHeld(r)
	if err != nil {
		return err
	}
	data, err := body(w, r, maxSmall)
	if err != nil {
		return err
	}
	var decision HeldDecision
	if err := decode(data, &decision); err != nil {
		return err
	}
	if err := decision.Check(); err != nil {
		return err
	}
	outcome, err := h.agent.DecideHeld(r.Context(), user, id, decision)
	return writeJSON(w, outcome, err)
}

// AllHeld stands for every unapplied chunk in the path of a retry.
const AllHeld = "all"

func (h *handler) retryHeld(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := pathHeld(r)
	if err != nil {
		return err
	}
	if id == AllHeld {
		id = ""
	}
	result, err := h.agent.RetryHeld(r.Context(), id)
	return writeJSON(w, result, err)
}
