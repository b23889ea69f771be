package api

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// Ranges is the part of Agent for numbers that each device gives from a part of its own, without a network: patients' numbers. Of what the quorum says
// errors are those of Exclusive.
type Ranges interface {
	// Ranges lists the ranges, by name. Where there is no quorum it says what this device knows of itself, and why.
	Ranges(ctx context.Context) ([]Range, error)
	// SetRange says which numbers a range has, and how many of them a device takes at a time. CodeForbidden unless this device is an administrator's.
	SetRange(ctx context.Context, req RangeRequest) (Range, error)
	// GrantRange sets a part aside for each device of a name, peer ID or site. CodeForbidden unless this device is an administrator's.
	GrantRange(ctx context.Context, req RangeGrant) (Range, error)
	// VoidRange takes back what is left of a part. CodeForbidden unless this device is an administrator's.
	VoidRange(ctx context.Context, user string, req RangeVoid) (Range, error)
	// NextInRange gives this device's next number, or the one that the item has here. It is durable when it is told. CodeUnavailable says that this
	// device has none left and cannot ask for more.
	NextInRange(ctx context.Context, req RangeNext) (RangeNumber, error)
	// RangeReport explains every number of a range.
	RangeReport(ctx context.Context, name string) (RangeReport, error)
}

// Range is a range of numbers.
type Range struct {
	Name      string      `json:"name"` // empty: this device does not know it
	ID        string      `json:"id"`   // the beginning of its keyed hash
	First     int64       `json:"first"`
	Last      int64       `json:"last"`
	Increment int64       `json:"increment"`
	Part      int64       `json:"part,omitempty"` // how many numbers a device takes by itself; 0: an administrator grants them
	Free      int64       `json:"free"`           // numbers in no part
	Parts     []RangePart `json:"parts"`          // ascending
	Here      RangeHere   `json:"here"`
	Unreached string      `json:"unreached,omitempty"` // why the quorum says nothing: what is shown is what this device knows of itself
}

// States of a part.
const (
	PartAside = "set aside" // its device has not taken it yet
	PartInUse = "in use"
	PartUsed  = "used up"
	PartVoid  = "void" // what was left of it was taken back, and is given to nobody
	// PartForgotten is one of this device whose store does not say any more how far it came: nothing is given from it. An administrator takes it back.
	PartForgotten = "forgotten"
)

// RangePart is a part of a range, which one device gives numbers from.
type RangePart struct {
	First     int64      `json:"first"`
	Last      int64      `json:"last"`
	Increment int64      `json:"increment"`
	Device    Party      `json:"device"`
	Mine      bool       `json:"mine,omitempty"` // this device gives numbers from it
	State     string     `json:"state"`
	Left      *int64     `json:"left,omitempty"` // how many may still be given; nil: only its device knows
	From      *int64     `json:"from,omitempty"` // of a part that is void: the first number that certainly was not given
	User      string     `json:"user,omitempty"` // who took it back
	Time      *time.Time `json:"time,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	// Of a part of another device that is in use or set aside: whether that is connected, when it was last, as far as this device knows, and whether it was removed from the practice.
	Connected   bool       `json:"connected,omitempty"`
	LastContact *time.Time `json:"last_contact,omitempty"`
	Removed     bool       `json:"removed,omitempty"`
}

// RangeHere is what this device may still give.
type RangeHere struct {
	Left    int64   `json:"left"`
	PerDay  float64 `json:"per_day"`        // given here in a day, over the last 30
	Days    *int64  `json:"days,omitempty"` // that it is enough for, at that rate
	Warning string  `json:"warning,omitempty"`
}

// RangeRequest defines a range.
type RangeRequest struct {
	Name      string `json:"name"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
	Increment int64  `json:"increment,omitempty"` // 0: 1
	Part      int64  `json:"part,omitempty"`
}

// RangeGrant sets parts aside. First and Last name one, for one device; else each device has the lowest Count numbers that nobody has.
type RangeGrant struct {
	Name  string `json:"name"`
	To    string `json:"to"`
	Count int64  `json:"count,omitempty"` // 0: as many as a device takes by itself
	First int64  `json:"first,omitempty"`
	Last  int64  `json:"last,omitempty"` // 0: Count says how many
	// Increment is how far it is from one number of First to Last to the next; 0: as the range says.
	Increment int64 `json:"increment,omitempty"`
}

// RangeVoid takes back what is left of a part.
type RangeVoid struct {
	Name   string `json:"name"`
	First  int64  `json:"first"`          // of the part
	From   *int64 `json:"from,omitempty"` // the first number that certainly was not given; nil: that is not known
	Reason string `json:"reason"`
}

// RangeNext asks for a number.
type RangeNext struct {
	Name string `json:"name"`
	For  string `json:"for,omitempty"` // what is numbered: an ID that never changes
}

// RangeNumber is a number that this device gave.
type RangeNumber struct {
	Range   string    `json:"range"`
	Number  int64     `json:"number"`
	Item    string    `json:"item,omitempty"`
	Time    time.Time `json:"time"`
	Again   bool      `json:"again,omitempty"` // the item had it
	Left    int64     `json:"left"`            // here
	Warning string    `json:"warning,omitempty"`
}

// What became of the numbers of a RangeEntry.
const (
	RangeGiven   = "given"
	RangeLeft    = "left"      // this device may give them
	RangeOut     = "out"       // another device gives them, and its report says which it gave
	RangeAside   = "set aside" // a device is to have them
	RangeVoided  = "void"      // they were not given, and never will be
	RangeUnknown = "unknown"   // it is not known which of them were given; no more will be
	RangeFree    = "free"
)

// RangeEntry explains numbers that follow one another.
type RangeEntry struct {
	First  int64      `json:"first"`
	Last   int64      `json:"last"`
	What   string     `json:"what"`
	Device *Party     `json:"device,omitempty"`
	Item   string     `json:"item,omitempty"` // that it was given to
	User   string     `json:"user,omitempty"` // who took them back
	Time   *time.Time `json:"time,omitempty"` // when they were given, or taken back
	Reason string     `json:"reason,omitempty"`
}

// RangeReport explains every number of a range, ascending.
type RangeReport struct {
	Range
	Entries []RangeEntry `json:"entries"`
}

// maxParts is how many parts a range is meant to be divided into: a quorum keeps a few more.
const maxParts = 1000

func (req *RangeRequest) check() error {
	if err := CheckName("range's name", req.Name); err != nil {
		return err
	}
	if req.Increment == 0 {
		req.Increment = 1
	}
	if req.First < 0 || req.First > req.Last || req.Last > maxNumber || req.Increment < 0 || req.Increment > req.Last {
		return invalid("a range's numbers go from the first to the last, both at least 0, by an increment of at least 1", "")
	}
	all := (req.Last-req.First)/req.Increment + 1
	if req.Part < 0 || req.Part > all {
		return invalid("a part has no more numbers than the range", "")
	}
	if req.Part > 0 && all/req.Part > maxParts {
		return invalid("a range has at most 1000 parts", "let a device take more numbers at a time")
	}
	return nil
}

func (req RangeGrant) check() error {
	if err := CheckName("range's name", req.Name); err != nil {
		return err
	}
	if req.To == "" {
		return invalid("a part is set aside for a device, or for each of a site", "")
	}
	explicit := req.First != 0 || req.Last != 0
	if req.Count < 0 || req.Count > maxNumber || explicit && (req.Count != 0 || req.First < 0 || req.First > req.Last || req.Last > maxNumber) {
		return invalid("a part has a count of numbers, or goes from a first to a last one", "")
	}
	return nil
}

func (h *handler) ranges(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := h.agent.Ranges(r.Context())
	return writeJSON(w, list, err)
}

func (h *handler) setRange(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RangeRequest](w, r)
	if err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	out, err := h.agent.SetRange(r.Context(), req)
	return writeJSON(w, out, err)
}

func (h *handler) grantRange(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RangeGrant](w, r)
	if err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	out, err := h.agent.GrantRange(r.Context(), req)
	return writeJSON(w, out, err)
}

func (h *handler) voidRange(w http.ResponseWriter, r *http.Request) error {
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	req, err := small[RangeVoid](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("range's name", req.Name); err != nil {
		return err
	}
	if strings.TrimSpace(req.Reason) == "" {
		return invalid("a part is taken back for a reason", "")
	}
	if err := checkReason(req.Reason); err != nil {
		return err
	}
	out, err := h.agent.VoidRange(r.Context(), user, req)
	return writeJSON(w, out, err)
}

func (h *handler) nextInRange(w http.ResponseWriter, r *http.Request) error {
	req, err := small[RangeNext](w, r)
	if err != nil {
		return err
	}
	if err := CheckName("range's name", req.Name); err != nil {
		return err
	}
	if req.For != "" {
		if err := CheckName("what is numbered", req.For); err != nil {
			return err
		}
	}
	n, err := h.agent.NextInRange(r.Context(), req)
	return writeJSON(w, n, err)
}

func (h *handler) rangeReport(w http.ResponseWriter, r *http.Request) error {
	name, err := h.lockName(w, r, "range's name")
	if err != nil {
		return err
	}
	report, err := h.agent.RangeReport(r.Context(), name)
	return writeJSON(w, report, err)
}
