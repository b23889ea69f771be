package api

import (
	"net/http"
	"time"
)

// VerifyOptions say what to do about what is found.
type VerifyOptions struct {
	// Repair has what follows from the chunks made anew, and asks the other devices again for chunks that are damaged.
	Repair bool `json:"repair"`
}

// VerifyProgress says how far a verification is.
type VerifyProgress struct {
	Stage string `json:"stage"` // logs, documents, indexes, rest; repairing
	Done  uint64 `json:"done"`
	Of    uint64 `json:"of"` // 0: not known
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Logs      int           `json:"logs"`
	Chunks    uint64        `json:"chunks"`
	Documents uint64        `json:"documents"`
	Resources uint64        `json:"resources"`
	Values    uint64        `json:"values"` // of indexes, caches and all the rest
	Took      time.Duration `json:"took_ns"`
	Clean     bool          `json:"clean"`    // as far as is known now: after a repair, what is left
	Found     uint64        `json:"found"`    // how many things are damaged
	Findings  []Finding     `json:"findings"` // the first of them
	// Kinds counts everything that is damaged by the kinds of Finding.
	Kinds    map[string]uint64 `json:"kinds,omitempty"`
	Repaired bool              `json:"repaired"` // a repair was made of what was found
	Wanted   uint64            `json:"wanted"`   // damaged chunks, of now or before, that no device has sent again so far
	// Kept counts whole chunks that come after those: they are stored, and neither shown nor passed on until those have come.
	Kept uint64 `json:"kept,omitempty"`
}

// MaxFindings is how many findings a report names.
const MaxFindings = 1000

// Finding names one damaged thing: what kind it is of, and which one, by opaque IDs alone.
type Finding struct {
	Kind string `json:"kind"` // chunk, log, document, view, index, count, cache, held, member, or the kind of a stored value
	ID   string `json:"id,omitempty"`
	What string `json:"what"`
}

// Checks are what the last verification and the last scrub found, as far as this device has made any. They name nothing.
type Checks struct {
	Verify *Verified `json:"verify,omitempty"`
	Scrub  *Scrubbed `json:"scrub,omitempty"`
}

// Verified is what there is of a VerifyReport without a single ID.
type Verified struct {
	Began     time.Time         `json:"began"`
	Took      time.Duration     `json:"took_ns"`
	Logs      int               `json:"logs"`
	Chunks    uint64            `json:"chunks"`
	Documents uint64            `json:"documents"`
	Resources uint64            `json:"resources"`
	Values    uint64            `json:"values"`
	Clean     bool              `json:"clean"`
	Found     uint64            `json:"found"`
	Kinds     map[string]uint64 `json:"kinds,omitempty"`
	Repaired  bool              `json:"repaired"`
	Wanted    uint64            `json:"wanted"`
}

// Scrubbed is what the last reading of all chunks found, which a running agent does by itself once a day.
type Scrubbed struct {
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Chunks  uint64        `json:"chunks"`
	Damaged uint64        `json:"damaged"` // asked for again
	Whole   bool          `json:"whole"`   // false: an error ended it
}

// Names of the server-sent events of a verification.
const (
	verifyProgress = "progress"
	verifyReport   = "report"
)

// verify streams progress, and the report last.
func (h *handler) verify(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	data, err := body(w, r, maxSmall)
	if err != nil {
		return err
	}
	var opts VerifyOptions
	if err := decode(data, &opts); err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	s := &stream{w: w, control: http.NewResponseController(w)}
	defer s.keepAlive(ctx, cancel)()
	report, err := h.agent.Verify(ctx, opts, func(p VerifyProgress) { s.tell(verifyProgress, p) })
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.failed != nil || r.Context().Err() != nil:
		return nil // the reader is gone
	case err == nil:
		s.writeLocked("", verifyReport, report)
	case !s.mu.begun:
		return err
	default:
		s.writeLocked("", EventError, AsError(err))
	}
	_ = s.flushLocked()
	return nil
}

// tell sends what needs no cursor.
func (s *stream) tell(kind string, data any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeLocked("", kind, data)
	_ = s.flushLocked()
}
