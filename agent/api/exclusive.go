package api

import (
	"context"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Exclusive is the part of Agent for what one device may do at a time, and for numbers. Where no majority of the voters can be reached the error is
// CodeUnavailable, at once, and says who is.
type Exclusive interface {
	// Quorum says who the voters are and how things stand with them.
	Quorum(ctx context.Context) (QuorumStatus, error)
	// ChangeQuorum has other devices vote: from one voter to three, or back. CodeForbidden unless this device is an administrator's. Where a device is
	// not ready it is CodeUnavailable: the voters of before go on, and asked again it goes on.
	ChangeQuorum(ctx context.Context, req QuorumChange) (QuorumStatus, error)
	// ReseedQuorum founds the quorum anew, where it cannot go on, or says what that would do. CodeForbidden unless this device is an administrator's; CodeConflict while the
	// quorum goes on; CodeUnavailable while a device is waited for, or where it was cut short: nothing has happened then, and it is given again.
	ReseedQuorum(ctx context.Context, req ReseedRequest) (Reseed, error)
	// Leases lists the locks that anybody ever asked for.
	Leases(ctx context.Context) ([]Lease, error)
	// AcquireLease waits for a lease, or not with Try (then it is CodeHeld), and keeps it for as long as is asked, or until it is released.
	AcquireLease(ctx context.Context, user string, req LeaseRequest) (Lease, error)
	// HoldLease waits for a lease, tells it, and holds it until ctx ends. CodeHeld says that it was lost before.
	HoldLease(ctx context.Context, user string, req LeaseRequest, held func(Lease) error) error
	// WaitLease waits until nobody holds a lock, or waits for it.
	WaitLease(ctx context.Context, name string) (Lease, error)
	// ReleaseLease gives back a lease that this device holds. CodeNotFound says that it holds none.
	ReleaseLease(ctx context.Context, name string) error
	// BreakLease ends somebody's lease. CodeForbidden unless this device is an administrator's.
	BreakLease(ctx context.Context, user string, req BreakRequest) (Lease, error)

	// Circles lists the circles of numbers.
	Circles(ctx context.Context) ([]Circle, error)
	// OpenCircle begins a circle, or its next series after it was closed. CodeForbidden unless this device is an administrator's.
	OpenCircle(ctx context.Context, req CircleRequest) (Circle, error)
	// CloseCircle ends a circle's series: it gives no number any more.
	CloseCircle(ctx context.Context, name string) (Circle, error)
	// AssignNumber gives an item its number, once and for ever: asked again it is the same.
	AssignNumber(ctx context.Context, req NumberRequest) (Number, error)
	// ResolveNumber says once what became of an item's number.
	ResolveNumber(ctx context.Context, user string, req ResolveRequest) (Number, error)
	// Numbers lists every number that a circle ever gave, without a gap.
	Numbers(ctx context.Context, circle string) (NumberReport, error)
}

// Party is a device of the practice.
type Party struct {
	Name   string `json:"name"`
	Site   string `json:"site,omitempty"`
	PeerID string `json:"peer_id,omitempty"`
}

// States of a quorum as this device sees it.
const (
	QuorumOK      = "ok"
	QuorumNone    = "no quorum" // no majority of the voters can be reached, or none leads
	QuorumStopped = "stopped"   // this device is a voter, and must not go on
)

// QuorumStatus is what `chartmesh quorum status --json` prints.
type QuorumStatus struct {
	State  string        `json:"state"`
	Reason string        `json:"reason,omitempty"`
	Epoch  uint64        `json:"epoch"` // rises whenever the voters are founded anew
	Index  uint64        `json:"index"` // of the last command that is known here
	Leader *Party        `json:"leader,omitempty"`
	Voters []QuorumVoter `json:"voters"`
	// Risk names what this quorum cannot notice.
	Risk string `json:"risk,omitempty"`
	// Next says what to do where it does not go on.
	Next string `json:"next,omitempty"`
	// Founded says by whom the quorum was founded anew; nil: it is that of the practice's founding. Notice says what else is to be known of that.
	Founded *QuorumFounding `json:"founded,omitempty"`
	Notice  string          `json:"notice,omitempty"`
}

// QuorumFounding says who founded a quorum anew, and when by the clock there.
type QuorumFounding struct {
	By    Party     `json:"by"`
	Time  time.Time `json:"time"`
	Epoch uint64    `json:"epoch"`
}

// ReseedRequest founds the quorum anew with the devices that are to vote, by name or peer ID; none: this one. Gone are devices that never come back. Plan: nothing is done.
type ReseedRequest struct {
	Voters []string `json:"voters,omitempty"`
	Gone   []string `json:"gone,omitempty"`
	Plan   bool     `json:"plan,omitempty"`
}

// Reseed is what founding the quorum anew does, or would do.
type Reseed struct {
	Done     bool           `json:"done"`
	NewEpoch uint64         `json:"new_epoch,omitempty"`
	Voters   []Party        `json:"voters"`         // that are to vote
	From     *Party         `json:"from,omitempty"` // whose log it begins with; nil: there is none
	Epoch    uint64         `json:"epoch"`          // of that log
	Index    uint64         `json:"index"`          // that it reaches to
	Devices  []ReseedDevice `json:"devices"`        // that may have something of the quorum
	Missing  []Party        `json:"missing"`        // of these, those that are waited for
	Gone     []Party        `json:"gone"`
	Leases   int            `json:"leases"`  // that are held and end
	Circles  int            `json:"circles"` // whose numbers go on in a new series
	Ranges   int            `json:"ranges"`
	Notes    []string       `json:"notes"` // what it means
	Status   *QuorumStatus  `json:"status,omitempty"`
}

// ReseedDevice is a device that may have something of the quorum.
type ReseedDevice struct {
	Party
	Self    bool   `json:"self,omitempty"`
	Epoch   uint64 `json:"epoch,omitempty"` // of its voter's log; 0: it has none
	Index   uint64 `json:"index,omitempty"` // that the log reaches to
	Whole   bool   `json:"whole,omitempty"` // the log has lost nothing, and its voter could go on
	Parts   int    `json:"parts"`           // of ranges
	Problem string `json:"problem,omitempty"`
}

// QuorumVoter is a device that votes.
type QuorumVoter struct {
	Party
	Self      bool `json:"self,omitempty"`
	Anchor    bool `json:"anchor,omitempty"`
	Leads     bool `json:"leads,omitempty"`
	Reachable bool `json:"reachable"`
	Removed   bool `json:"removed,omitempty"` // it was removed from the practice, or may not write any more: nobody hears it
	// Out is why its voter gives nothing, although its device is reached, while the quorum goes on.
	Out string `json:"out,omitempty"`
}

// QuorumChange says which devices are to vote, by name or peer ID, and which no more.
type QuorumChange struct {
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// Lease is what is known of a lock.
type Lease struct {
	Name    string       `json:"name"`  // empty: this device does not know it
	ID      string       `json:"id"`    // the beginning of its keyed hash
	Token   string       `json:"token"` // of the lease that is held, or was last
	Held    bool         `json:"held"`
	Holder  *Party       `json:"holder,omitempty"`
	Mine    bool         `json:"mine,omitempty"`    // this agent holds it
	Expires *time.Time   `json:"expires,omitempty"` // unless it is renewed
	Waiting []Party      `json:"waiting"`           // in the order in which they will have it
	Ended   string       `json:"ended,omitempty"`   // how the last one ended: released, expired, broken
	Breaks  []LeaseBreak `json:"breaks,omitempty"`
	// TakenBack says how many documents BreakLease took back.
	TakenBack int `json:"taken_back,omitempty"`
}

// LeaseBreak is a lease that was broken.
type LeaseBreak struct {
	Token  string     `json:"token"`
	By     Party      `json:"by"`
	User   string     `json:"user,omitempty"`
	Time   *time.Time `json:"time,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	Name string `json:"name"`
	For  int64  `json:"for_ms,omitempty"` // AcquireLease: how long it is kept; 0: DefaultLease
	Try  bool   `json:"try,omitempty"`    // do not wait
}

// BreakRequest ends a lease.
type BreakRequest struct {
	Name   string `json:"name"`
	Token  string `json:"token,omitempty"` // that it is thought to have; empty: whichever is held
	Reason string `json:"reason"`
	// TakeBack goes back, of documents of which the device does not have what is certified, to the last that it has and that was certified before; also if nobody holds the lease.
	TakeBack bool `json:"take_back,omitempty"`
}

// Circle is a circle of numbers.
type Circle struct {
	Name   string         `json:"name"` // empty: this device does not know it
	ID     string         `json:"id"`
	Series []NumberSeries `json:"series"` // the newest last
}

// NumberSeries is one of a circle's series.
type NumberSeries struct {
	ID       string `json:"id"`
	First    int64  `json:"first"`
	Last     int64  `json:"last"`
	Given    int    `json:"given"`
	Reserved int    `json:"reserved"` // of these: it is not said yet what became of it
	Used     int    `json:"used"`
	Void     int    `json:"void"`
	Closed   string `json:"closed,omitempty"` // why it gives no number any more
}

// CircleRequest begins a circle.
type CircleRequest struct {
	Name  string `json:"name"`
	First int64  `json:"first"`
	Last  int64  `json:"last"` // 0: as far as numbers go
}

// States of a number.
const (
	NumberReserved = "reserved"
	NumberUsed     = "used"
	NumberVoid     = "void"
)

// Number is a number that was given.
type Number struct {
	Circle string     `json:"circle"`
	Series string     `json:"series"`
	Number int64      `json:"number"`
	Item   string     `json:"item"` // empty: this device does not know it
	ItemID string     `json:"item_id"`
	State  string     `json:"state"`
	Device *Party     `json:"device,omitempty"` // that asked for it
	User   string     `json:"user,omitempty"`   // who said what became of it
	Time   *time.Time `json:"time,omitempty"`   // when that was
	Reason string     `json:"reason,omitempty"`
}

// NumberRequest asks for an item's number.
type NumberRequest struct {
	Circle string `json:"circle"`
	Item   string `json:"item"`
}

// ResolveRequest says what became of an item's number.
type ResolveRequest struct {
	Circle string `json:"circle"`
	Item   string `json:"item,omitempty"`
	Number int64  `json:"number,omitempty"` // in place of the item, which nobody may know any more
	Series string `json:"series,omitempty"` // of that number; empty: there is one that has it
	State  string `json:"state"`            // used, void
	Reason string `json:"reason,omitempty"`
}

// NumberReport is every number of a circle, by series, from each one's first on without a gap.
type NumberReport struct {
	Circle
	Numbers []Number `json:"numbers"`
}

// Caps of names in leases and numbers.
const (
	MaxLockName   = 200 // bytes
	MaxNoteReason = 400 // bytes of why a lease was broken, or what became of a number
	DefaultLease  = 5 * time.Minute
	MaxLease      = 24 * time.Hour
)

// CheckName refuses what names no lock, circle or item.
func CheckName(what, name string) error {
	if name == "" || len(name) > MaxLockName || !utf8.ValidString(name) || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return invalid("a "+what+" has 1 to 200 printable characters, and none of them is a space at an end", "")
	}
	return nil
}

func (req LeaseRequest) check() error {
	if req.For < 0 || req.For > MaxLease.Milliseconds() {
		return invalid("a lease is kept for at most 24 hours", "")
	}
	return CheckName("lock's name", req.Name)
}

func checkReason(reason string) error {
	if len(reason) > MaxNoteReason || !utf8.ValidString(reason) {
		return invalid("a reason has at most 400 bytes", "")
	}
	return nil
}

// named is a request that holds a name alone.
type named struct {
	Name string `json:"name"`
}

func (h *handler) quorum(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	s, err := h.agent.Quorum(r.Context())
	return writeJSON(w, s, err)
}

func (h *handler) changeQuorum(w http.ResponseWriter, r *http.Request) error {
	req, err := small[QuorumChange](w, r)
	if err != nil {
		return err
	}
	if n := len(req.Add) + len(req.Remove); n == 0 || n > maxVoters {
		return invalid("one device at least is to vote, or to vote no more", "")
	}
	s, err := h.agent.ChangeQuorum(r.Context(), req)
	return writeJSON(w, s, err)
}

// maxGone is how many devices may be said to be gone.
const maxGone = 64

func (h *handler) reseedQuorum(w http.ResponseWriter, r *http.Request) error {
	req, err := small[ReseedRequest](w, r)
	if err != nil {
		return err
	}
	if len(req.Voters) > maxVoters || len(req.Gone) > maxGone {
		return invalid("too many devices are named", "")
	}
	done, err := h.agent.ReseedQuorum(r.Context(), req)
	return writeJSON(w, done, err)
}

func (h *handler) leases(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := h.agent.Leases(r.Context())
	return writeJSON(w, list, err)
}

func (h *handler) leaseRequest(w http.ResponseWriter, r *http.Request) (user string, req LeaseRequest, err error) {
	if user, err = requestUser(r); err != nil {
		return user, req, err
	}
	if req, err = small[LeaseRequest](w, r); err != nil {
		return user, req, err
	}
	return user, req, req.check()
}

func (h *handler) acquireLease(w http.ResponseWriter, r *http.Request) error {
	user, req, err := h.leaseRequest(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	lease, err := h.agent.AcquireLease(ctx, user, req)
	return writeJSON(w, lease, err)
}

// holdLease streams: an event "lease" when the lease is held, and "error" when it is lost. It is given back when the caller goes away.
func (h *handler) holdLease(w http.ResponseWriter, r *http.Request) error {
	user, req, err := h.leaseRequest(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	s := &stream{w: w, control: http.NewResponseController(w)}
	stop := func() {}
	err = h.agent.HoldLease(ctx, user, req, func(l Lease) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writeLocked("", "lease", l)
		stop = s.keepAlive(ctx, cancel)
		return s.flushLocked()
	})
	stop()
	if context.Cause(ctx) == errShutdown {
		err = &Error{Code: CodeUnavailable, Message: errShutdown.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.failed != nil || r.Context().Err() != nil:
		return nil // the caller is gone
	case !s.mu.begun:
		return err
	case err != nil:
		s.writeLocked("", EventError, AsError(err))
	default:
		s.writeLocked("", EventEnd, struct{}{})
	}
	_ = s.flushLocked()
	return nil
}

func (h *handler) lockName(w http.ResponseWriter, r *http.Request, what string) (string, error) {
	req, err := small[named](w, r)
	if err != nil {
		return "", err
	}
	return req.Name, CheckName(what, req.Name)
}

func (h *handler) waitLease(w http.ResponseWriter, r *http.Request) error {
	name, err := h.lockName(w, r, "lock's name")
	if err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	lease, err := h.agent.WaitLease(ctx, name)
	return writeJSON(w, lease, err)
}

func (h *handler) releaseLease(w http.ResponseWriter, r *http.Request) error {
	name, err := h.lockName(w, r, "lock's name")
	if err != nil {
		return err
	}
	return writeJSON(w, struct{}{}, h.agent.ReleaseLease(r.Context(), name))
}

func (h *handler) breakLease(w http.ResponseWriter, r *http.Request) error {
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	req, err := small[BreakRequest](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("lock's name", req.Name); err != nil {
		return err
	}
	if err := checkReason(req.Reason); err != nil {
		return err
	}
	lease, err := h.agent.BreakLease(r.Context(), user, req)
	return writeJSON(w, lease, err)
}

func (h *handler) circles(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := h.agent.Circles(r.Context())
	return writeJSON(w, list, err)
}

// maxVoters is how many devices a change of voters names.
const maxVoters = 7

// maxNumber is the largest number that JSON's numbers hold exactly.
const maxNumber = 1<<53 - 1

func (h *handler) openCircle(w http.ResponseWriter, r *http.Request) error {
	req, err := small[CircleRequest](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("circle's name", req.Name); err != nil {
		return err
	}
	if req.Last == 0 {
		req.Last = maxNumber
	}
	if req.First < 0 || req.First > req.Last || req.Last > maxNumber {
		return invalid("a circle's numbers go from the first to the last, both at least 0", "")
	}
	circle, err := h.agent.OpenCircle(r.Context(), req)
	return writeJSON(w, circle, err)
}

func (h *handler) closeCircle(w http.ResponseWriter, r *http.Request) error {
	name, err := h.lockName(w, r, "circle's name")
	if err != nil {
		return err
	}
	circle, err := h.agent.CloseCircle(r.Context(), name)
	return writeJSON(w, circle, err)
}

func (h *handler) assignNumber(w http.ResponseWriter, r *http.Request) error {
	req, err := small[NumberRequest](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("circle's name", req.Circle); err != nil {
		return err
	}
	if err := CheckName("item", req.Item); err != nil {
		return err
	}
	n, err := h.agent.AssignNumber(r.Context(), req)
	return writeJSON(w, n, err)
}

func (h *handler) resolveNumber(w http.ResponseWriter, r *http.Request) error {
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	req, err := small[ResolveRequest](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("circle's name", req.Circle); err != nil {
		return err
	}
	if req.Number == 0 {
		if err := CheckName("item", req.Item); err != nil {
			return err
		}
	} else if req.Number < 0 || req.Item != "" || len(req.Series) > 64 {
		return invalid("either an item is named or its number, and the series that has it", "")
	}
	if req.State != NumberUsed && req.State != NumberVoid {
		return invalid("a number becomes used or void", "")
	}
	if req.State == NumberVoid && strings.TrimSpace(req.Reason) == "" {
		return invalid("a number is void for a reason", "")
	}
	if err := checkReason(req.Reason); err != nil {
		return err
	}
	n, err := h.agent.ResolveNumber(r.Context(), user, req)
	return writeJSON(w, n, err)
}

func (h *handler) numbers(w http.ResponseWriter, r *http.Request) error {
	name, err := h.lockName(w, r, "circle's name")
	if err != nil {
		return err
	}
	report, err := h.agent.Numbers(r.Context(), name)
	return writeJSON(w, report, err)
}
