package quorum

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/ranges"
	"chartmesh/trust"
)

// openRanges opens what gives numbers of ranges.
func (s *Service) openRanges() {
	s.low = make(chan struct{}, 1)
	s.ranges = ranges.New(ranges.Config{
		Store: s.cfg.Store, Device: s.self, Quorum: rangeQuorum{s}, Marks: s.cfg.Marks, Logger: s.log,
		Log: ranges.Log{Current: s.cfg.Log.Current, Continues: s.cfg.Log.Continues, All: s.cfg.Logs, Replaced: s.cfg.Replaced},
	})
}

// rangeQuorum is what the device's parts of ranges are asked of.
type rangeQuorum struct{ s *Service }

// Read implements ranges.Quorum.
func (q rangeQuorum) Read(ctx context.Context) (*lockquorum.View, error) {
	st, err := q.s.client.ReadAll(ctx, lockquorum.Query{Kind: lockquorum.ReadRanges})
	if err == nil {
		q.s.voter.Heard(ctx, st)
	}
	return st, err
}

// Take implements ranges.Quorum.
func (q rangeQuorum) Take(ctx context.Context, id lockquorum.RangeID, log [32]byte, have int) error {
	return q.s.client.Take(ctx, id, log, have)
}

// GiveBack implements ranges.Quorum. What was taken back otherwise meanwhile is taken back.
func (q rangeQuorum) GiveBack(ctx context.Context, id lockquorum.RangeID, lo, from int64) error {
	note, err := q.s.partNote(id, lo, note{time: now(), subject: q.s.nameOf(kindRange, id), reason: goneOn})
	if err != nil {
		return err
	}
	err = q.s.client.GiveBack(ctx, lockquorum.Void{Range: id, Min: lo, From: from, Note: note})
	if errors.Is(err, client.ErrResolved) || errors.Is(err, client.ErrUnknown) {
		return nil
	}
	return err
}

// goneOn is why a device gives back what is left of a part.
const goneOn = "its folder was copied, moved or put back, and goes on under a new log"

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// partNote seals a note on a part.
func (s *Service) partNote(id lockquorum.RangeID, lo int64, n note) ([]byte, error) {
	return s.seal(n, aboutPart(id, lo))
}

func aboutPart(id lockquorum.RangeID, lo int64) []byte {
	var first [32]byte
	binary.BigEndian.PutUint64(first[24:], uint64(lo))
	return about(kindRange, id, first)
}

// owned lists this device's parts of ranges, as a quorum that is founded anew has to know them.
func (s *Service) owned() ([]lockquorum.Owned, error) {
	held, err := s.ranges.Parts()
	if err != nil {
		return nil, err
	}
	list := make([]lockquorum.Owned, len(held))
	for i, h := range held {
		list[i] = lockquorum.Owned{Range: h.Range, Part: h.Part}
		list[i].Note = nil
	}
	return list, nil
}

// Periods of looking after parts of ranges.
const (
	tendSoon  = time.Second // where the quorum was not reached, and twice as long each time
	tendEvery = 10 * time.Minute
)

// tendRanges gives back what is left of parts that this folder gives nothing from any more, and takes what this device is to have, until ctx ends.
func (s *Service) tendRanges(ctx context.Context) {
	wait := time.Duration(0)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.low:
			timer.Stop()
		case <-timer.C:
		}
		err := s.ranges.Tend(ctx)
		switch {
		case err == nil:
			wait = tendEvery
		case errors.Is(err, client.ErrExhausted):
			s.log.Warn("a range has no number left for this device; an administrator says more with `chartmesh range set`")
			wait = tendEvery
		default:
			s.log.Debug("this device's parts of ranges were not looked after", "error", err)
			wait = min(tendEvery, max(tendSoon, 2*wait))
		}
	}
}

// NextInRange implements api.Ranges.
func (s *Service) NextInRange(ctx context.Context, req api.RangeNext) (api.RangeNumber, error) {
	if m, ok := s.cfg.Members().Member(s.self); !ok || !m.Role.MayWrite() {
		return api.RangeNumber{}, &api.Error{Code: api.CodeForbidden, Message: "this device's role does not allow it", Hint: "who writes may give numbers"}
	}
	id, err := s.rangeID(ctx, req.Name)
	if err != nil {
		return api.RangeNumber{}, s.explain(err)
	}
	item, err := s.id(kindRangeItem, req.Name, req.For)
	if err != nil {
		return api.RangeNumber{}, s.explain(err)
	}
	g, err := s.ranges.Next(ctx, id, lockquorum.ItemID(item), req.For)
	if errors.Is(err, ranges.ErrNone) {
		if err := s.ranges.Refill(ctx, id); err != nil {
			return api.RangeNumber{}, s.explainNone(err)
		}
		g, err = s.ranges.Next(ctx, id, lockquorum.ItemID(item), req.For)
	}
	if err != nil {
		return api.RangeNumber{}, s.explainRange(err)
	}
	out := api.RangeNumber{Range: req.Name, Number: g.Number, Item: req.For, Time: g.At, Again: g.Again, Left: g.Left}
	if g.Low {
		here, err := s.here(id, g.Left, true)
		if err != nil {
			return api.RangeNumber{}, err
		}
		out.Warning = here.Warning
		select {
		case s.low <- struct{}{}:
		default:
		}
	}
	return out, nil
}

// rangeID names a range, which is known by its name later.
func (s *Service) rangeID(ctx context.Context, name string) (lockquorum.RangeID, error) {
	id, err := s.id(kindRange, name)
	if err == nil {
		err = s.remember(ctx, kindRange, id, name)
	}
	return lockquorum.RangeID(id), err
}

// explainNone says why a device without numbers was given none.
func (s *Service) explainNone(err error) error {
	const none = "this device has no number of that range left, and "
	e := &api.Error{Code: api.CodeUnavailable, Err: err}
	switch no, unreached := errors.AsType[*client.NoQuorumError](err); {
	case unreached:
		e.Message, e.Hint = none+"cannot ask for more: "+s.noQuorum(no), "it takes more when it is connected, and gives them without a network then"
	case errors.Is(err, client.ErrExhausted):
		e.Code, e.Message = api.CodeConflict, none+"none is set aside for it"
		e.Hint = "see chartmesh range show; an administrator says more with `chartmesh range grant` or `chartmesh range set`"
	default:
		return s.explainRange(err)
	}
	return e
}

// explainRange says what an error means to who asked.
func (s *Service) explainRange(err error) error {
	e := &api.Error{Err: err}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrUnknown):
		e.Code, e.Message = api.CodeNotFound, "there is no such range, or it has no such part or numbers"
		e.Hint = "see chartmesh range show; an administrator defines a range with `chartmesh range set`"
	case errors.Is(err, client.ErrOverlap):
		e.Code, e.Message, e.Hint = api.CodeConflict, "another part has some of these numbers", "see chartmesh range show"
	case errors.Is(err, client.ErrResolved):
		e.Code, e.Message, e.Hint = api.CodeConflict, "that part was taken back before", "see chartmesh range report"
	case errors.Is(err, client.ErrExhausted):
		e.Code, e.Message, e.Hint = api.CodeConflict, "the range has no number left", "an administrator says more with `chartmesh range set`"
	case errors.Is(err, ranges.ErrNotReady):
		e.Code, e.Message = api.CodeUnavailable, "this folder is to begin a new log first, and gives no number before"
		e.Hint = "see chartmesh status; it begins with the next edit, or when there is room on the disk"
	case errors.Is(err, ranges.ErrMark):
		e.Code, e.Message = api.CodeUnavailable, "how far numbers were given cannot be kept outside of the data folder, so that none is told"
		e.Hint = "make the user's state folder writable (XDG_STATE_HOME)"
	case errors.Is(err, lockquorum.ErrForbidden):
		e.Code, e.Message = api.CodeForbidden, "this device's role does not allow it"
		e.Hint = "who writes may give numbers; an administrator's device says which there are"
	default:
		return s.explain(err)
	}
	return e
}

// SetRange implements api.Ranges.
func (s *Service) SetRange(ctx context.Context, req api.RangeRequest) (api.Range, error) {
	return s.withRange(ctx, req.Name, func(id lockquorum.RangeID) error {
		return s.client.Define(ctx, lockquorum.Define{Range: id, First: req.First, Last: req.Last, Increment: req.Increment, Part: req.Part})
	})
}

// withRange changes a range and says what it is then.
func (s *Service) withRange(ctx context.Context, name string, change func(lockquorum.RangeID) error) (api.Range, error) {
	if err := s.serves(); err != nil {
		return api.Range{}, err
	}
	id, err := s.rangeID(ctx, name)
	if err != nil {
		return api.Range{}, s.explain(err)
	}
	if err := change(id); err != nil {
		return api.Range{}, s.explainRange(err)
	}
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadRange, ID: id})
	if err != nil {
		return api.Range{}, err
	}
	return s.describeRange(st, id)
}

// maxGrantTries is how often a part is looked for that others do not take at the same time.
const maxGrantTries = 5

// GrantRange sets a part aside for each of some devices.
func (s *Service) GrantRange(ctx context.Context, req api.RangeGrant, to []trust.DeviceID) (api.Range, error) {
	if req.Last != 0 && len(to) != 1 {
		return api.Range{}, &api.Error{Code: api.CodeInvalid, Message: "numbers from a first to a last one are one device's", Hint: "name the device, or say with --count how many each has"}
	}
	if req.Increment < 0 || req.Increment > 0 && req.Last == 0 {
		return api.Range{}, &api.Error{Code: api.CodeInvalid, Message: "an increment is at least 1, and of numbers from a first to a last one"}
	}
	return s.withRange(ctx, req.Name, func(id lockquorum.RangeID) error {
		for i, device := range to {
			if err := s.grant(ctx, id, req, device); err != nil && i > 0 {
				return fmt.Errorf("%d of %d devices have a part: %w", i, len(to), err)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) grant(ctx context.Context, id lockquorum.RangeID, req api.RangeGrant, device trust.DeviceID) error {
	for try := 1; ; try++ {
		st, err := s.client.Read(ctx, lockquorum.Query{Kind: lockquorum.ReadRange, ID: id})
		if err != nil {
			return err
		}
		d, ok := st.Defined(id)
		if !ok {
			return client.ErrUnknown
		}
		o := lockquorum.Grant{Range: id, Owner: device, Min: req.First, Max: req.Last, Increment: cmp.Or(req.Increment, d.Increment)}
		if req.Last == 0 {
			size := cmp.Or(req.Count, d.Part)
			if size == 0 {
				return &api.Error{Code: api.CodeInvalid, Message: "how many numbers the device is to have is not said", Hint: "say it with --count"}
			}
			if o.Min, o.Max, ok = st.FreePart(id, size); !ok {
				return client.ErrExhausted
			}
		}
		if err = s.client.Grant(ctx, o); req.Last != 0 || try == maxGrantTries || !errors.Is(err, client.ErrOverlap) {
			return err
		}
	}
}

// VoidRange implements api.Ranges.
func (s *Service) VoidRange(ctx context.Context, user string, req api.RangeVoid) (api.Range, error) {
	return s.withRange(ctx, req.Name, func(id lockquorum.RangeID) error {
		st, err := s.client.Read(ctx, lockquorum.Query{Kind: lockquorum.ReadRange, ID: id})
		if err != nil {
			return err
		}
		parts := st.Range(id)
		i := slices.IndexFunc(parts, func(p lockquorum.Part) bool { return p.Min == req.First })
		if i < 0 {
			return client.ErrUnknown
		}
		o := lockquorum.Void{Range: id, Min: req.First, From: parts[i].Max + 1}
		if req.From != nil {
			o.From = *req.From
		}
		if o.From < parts[i].Min || o.From > parts[i].Max+1 {
			return &api.Error{Code: api.CodeInvalid, Message: "the first number that was not given is one of the part, or the one behind it"}
		}
		if o.Note, err = s.partNote(id, o.Min, note{user: user, time: now(), subject: req.Name, reason: req.Reason}); err != nil {
			return err
		}
		return s.client.Void(ctx, o)
	})
}

// here says what this device may still give of a range.
func (s *Service) here(id lockquorum.RangeID, left int64, low bool) (api.RangeHere, error) {
	given, err := s.ranges.Numbers(id)
	if err != nil {
		return api.RangeHere{}, s.explain(err)
	}
	out := api.RangeHere{Left: left, PerDay: ranges.PerDay(given, time.Now())}
	enough := ""
	if out.PerDay > 0 {
		days := int64(float64(left) / out.PerDay)
		out.Days = &days
		enough = ", enough for about " + counted(days, "day")
		if days == 0 {
			enough = ", enough for less than a day"
		}
	}
	switch {
	case low && left == 0:
		out.Warning = "this device has no number left"
	case low:
		out.Warning = "this device has " + counted(left, "number") + " left" + enough
	}
	return out, nil
}

// counted says how many there are of something.
func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// own returns this device's parts of a range by where they begin.
func (s *Service) own(id lockquorum.RangeID) (map[int64]ranges.Held, error) {
	list, err := s.ranges.Parts()
	if err != nil && !errors.Is(err, ranges.ErrNotReady) { // then it gives from none
		return nil, s.explain(err)
	}
	own := map[int64]ranges.Held{}
	for _, h := range list {
		if h.Range == id {
			own[h.Min] = h
		}
	}
	return own, nil
}
