package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/trust"
)

// Founding a quorum anew goes in this order. (1) All say what they have, and their voters stop for a while. (2) The entry is signed; its epoch follows. (3) The State goes to those who
// are to vote, who store it beside what they have. (4) The entry is put into the membership log: that is when the quorum is founded. (5) Whoever hears of it follows. Cut short before (4) nothing has
// happened, and another run makes another entry, of another epoch; cut short after it, the rest happens by itself.

// begins bounds how long it is waited for the new quorum's first word.
const begins = 30 * time.Second

// margin is for how long the voters must still stop when the entry is made.
const margin = 30 * time.Second

// Reseed implements api.Exclusive: it founds the quorum anew, with these voters (none: this device), or with plan says what that would do. Devices that are gone for good are not waited for.
func (s *Service) Reseed(ctx context.Context, voters, gone []trust.DeviceID, plan bool) (api.Reseed, error) {
	if err := s.serves(); err != nil {
		return api.Reseed{}, err
	}
	if len(voters) == 0 {
		voters = []trust.DeviceID{s.self}
	}
	if err := s.mayFound(voters, gone); err != nil {
		return api.Reseed{}, err
	}
	if !s.founding.TryLock() {
		return api.Reseed{}, &api.Error{Code: api.CodeConflict, Message: "the quorum is being founded anew by another command just now"}
	}
	defer s.founding.Unlock()
	if err := s.stuck(ctx); err != nil {
		return api.Reseed{}, err
	}
	has, err := s.gather(ctx, gone, false)
	if err != nil {
		return api.Reseed{}, err
	}
	out, err := s.plan(has, voters, gone)
	if err != nil || plan {
		return out, err
	}
	if err := s.ready(has, out, voters); err != nil {
		return api.Reseed{}, err
	}
	begun := time.Now()
	if has, err = s.gather(ctx, gone, true); err != nil {
		return api.Reseed{}, err
	}
	if out, err = s.plan(has, voters, gone); err != nil {
		return api.Reseed{}, err
	}
	if err := s.ready(has, out, voters); err != nil {
		return api.Reseed{}, err
	}
	epoch, err := s.foundAnew(ctx, has, voters, func() bool {
		now := time.Now()
		return now.Sub(begun) < remote.Hold-margin && now.Round(0).Sub(begun.Round(0)) < remote.Hold-margin // the machine may have slept
	})
	if err != nil {
		return api.Reseed{}, err
	}
	out.Done, out.NewEpoch = true, epoch
	status, err := s.begun(ctx)
	out.Status = &status
	return out, err
}

// mayFound reports whether this device may do that with these.
func (s *Service) mayFound(voters, gone []trust.DeviceID) error {
	st := s.cfg.Members()
	if m, _ := st.Member(s.self); m.Role != trust.RoleAdmin {
		return &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device may do that", Hint: "see chartmesh peer list for one"}
	}
	if len(voters) != 1 && len(voters) != 3 {
		return &api.Error{Code: api.CodeInvalid, Message: "a quorum has one voter or three", Hint: "begin with one; `chartmesh quorum add` makes them three later"}
	}
	for i, d := range voters {
		switch {
		case slices.Contains(voters[:i], d):
			return &api.Error{Code: api.CodeInvalid, Message: "a device is named twice"}
		case slices.Contains(gone, d):
			return &api.Error{Code: api.CodeInvalid, Message: "a device is to vote, and is said to be gone for good"}
		}
		if err := s.mayVote(d); err != nil {
			return err
		}
	}
	if slices.Contains(gone, s.self) {
		return &api.Error{Code: api.CodeInvalid, Message: "this device is not gone"}
	}
	return nil
}

// stuck is an error if the quorum goes on: then nothing is to be founded anew.
func (s *Service) stuck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, asksAround)
	defer cancel()
	if st, err := s.client.Read(ctx, voters); err == nil {
		s.voter.Heard(ctx, st)
		return &api.Error{Code: api.CodeConflict, Message: "the quorum goes on, and need not be founded anew",
			Hint: "`chartmesh quorum remove` and `chartmesh quorum add` change who votes"}
	}
	return nil
}

// What a quorum that is founded anew cannot know.
const (
	lostNumbers = "a number that only a lost voter gave is not given again: numbers go on in a new series with a name of its own; what had such a number is given another one there"
	sealed      = "leases that are held end; what was written under them and is not committed is kept aside and shown"
	fromNothing = "no voter's log is there: it begins from nothing; circles are to be opened anew, and what had a number before is given another one"
	lostParts   = "a part of a range that only devices know that are gone may be granted once more: a patient's number can be given twice"
	otherwise   = "two devices know a part of a range otherwise: see `chartmesh range show` afterwards"
	farther     = "the quorum came farther than any log that is left: a part of a range that was granted since, and that its own device does not know of either, may be granted once more: a patient's number can be given twice; " +
		"before anybody takes one, have the range begin beyond the last number that was given: `chartmesh range set`"
	notWhole = "the log that reaches farthest has lost something; what there is of it counts"
)

// plan says what founding the quorum anew would do.
func (s *Service) plan(has gathered, voters, gone []trust.DeviceID) (out api.Reseed, err error) {
	if has.unknownEpoch(s.cfg.Members()) {
		return out, &api.Error{Code: api.CodeConflict, Message: "the quorum was founded anew by another administrator, of which this device has not heard yet",
			Hint: "wait until it is in sync, and see chartmesh quorum status"}
	}
	st, same, err := has.begin()
	if err != nil {
		return out, err
	}
	out.Voters, out.Missing, out.Gone, out.Devices = s.parties(voters), s.parties(has.missing(gone)), s.parties(gone), []api.ReseedDevice{}
	for _, h := range has.list {
		d := api.ReseedDevice{Party: s.cfg.Name(h.device), Self: h.device == s.self, Parts: len(h.parts), Whole: h.whole}
		if h.state != nil {
			d.Epoch, d.Index = h.reach.Epoch, h.reach.Index
		}
		switch {
		case h.err != nil:
			d.Problem = problem(h.err, slices.Contains(gone, h.device))
		case h.unfit != nil:
			d.Problem = "what its voter stored does not read"
		}
		out.Devices = append(out.Devices, d)
		if errors.Is(h.err, errGone) {
			return out, &api.Error{Code: api.CodeInvalid, Message: "a device that is said to be gone for good can be reached: " + named(d.Party),
				Hint: "leave it out of --gone, so that what it has counts"}
		}
	}
	out.Notes = []string{lostNumbers, sealed}
	if has.best >= 0 {
		h := has.list[has.best]
		from := s.cfg.Name(h.device)
		out.From, out.Epoch, out.Index = &from, h.reach.Epoch, h.reach.Index
		if !h.whole && !s.over(h) {
			out.Notes = append(out.Notes, notWhole)
		}
	} else {
		out.Notes = append(out.Notes, fromNothing)
	}
	for _, l := range st.Leases() {
		if l.Holder != (lockquorum.DeviceID{}) {
			out.Leases++
		}
	}
	out.Circles, out.Ranges = len(st.Circles()), len(st.Ranges())
	if len(gone) > 0 {
		out.Notes = append(out.Notes, lostParts)
	}
	if s.cameFarther(has) {
		out.Notes = append(out.Notes, farther)
	}
	if !same {
		out.Notes = append(out.Notes, otherwise)
	}
	return out, nil
}

// cameFarther reports whether somebody saw the quorum come farther than the log that reaches farthest: as this device was told and heard, or as its own voter noted outside of
// the folder.
func (s *Service) cameFarther(has gathered) bool {
	var reach driver.Reach
	if has.best >= 0 {
		reach = has.list[has.best].reach
	}
	beyond := func(epoch, index uint64) bool {
		return epoch > reach.Epoch || epoch == reach.Epoch && index > reach.Index
	}
	for _, p := range s.voter.Seen().Shows() {
		if beyond(p.Epoch, p.Index) {
			return true
		}
	}
	if s.cfg.Witness == nil {
		return false
	}
	was, ok, err := s.cfg.Witness.Read()
	return ok && err == nil && beyond(was.Epoch, was.Index)
}

// over reports whether a log ended since its quorum did, of which a later one is in force.
func (s *Service) over(h heard) bool { return h.reach.Epoch < s.voter.InForce().Epoch }

func problem(err error, gone bool) string {
	switch {
	case gone:
		return "gone for good"
	case errors.Is(err, lockquorum.ErrUnreachable):
		return "not reachable"
	case errors.Is(err, lockquorum.ErrForbidden):
		return "it does not take this device for an administrator's yet, or is of an earlier version"
	case errors.Is(err, lockquorum.ErrBusy):
		return "it is busy"
	}
	return "it does not answer: " + err.Error()
}

func (s *Service) parties(list []trust.DeviceID) []api.Party {
	out := []api.Party{}
	for _, d := range list {
		out = append(out, s.cfg.Name(d))
	}
	return out
}

func named(p api.Party) string {
	if p.Name != "" {
		return p.Name
	}
	return p.PeerID
}

// ready is an error while somebody is waited for.
func (s *Service) ready(has gathered, out api.Reseed, voters []trust.DeviceID) error {
	if len(out.Missing) > 0 {
		var names []string
		for _, p := range out.Missing {
			names = append(names, named(p))
		}
		return &api.Error{Code: api.CodeUnavailable,
			Message: "devices that may have a voter's log or parts of ranges cannot be asked: " + strings.Join(names, ", "),
			Hint:    "start their agents; a device that is gone for good is named with --gone"}
	}
	for _, d := range voters {
		if i := slices.IndexFunc(has.list, func(h heard) bool { return h.device == d }); d != s.self && (i < 0 && !s.reaches(d) || i >= 0 && has.list[i].err != nil) {
			return &api.Error{Code: api.CodeUnavailable, Message: "a device that is to vote is not reached: " + named(s.cfg.Name(d)), Hint: "start its agent, and give the command again"}
		}
	}
	return nil
}

// foundAnew founds the quorum with what was gathered. inTime reports whether the voters of before still give nothing.
func (s *Service) foundAnew(ctx context.Context, has gathered, voters []trust.DeviceID, inTime func() bool) (uint64, error) {
	members, before := s.cfg.Members(), s.voter.InForce().Entry
	entry, err := s.cfg.Keys.Reseed(members, voters, time.Now())
	if err != nil {
		return 0, err
	}
	after, err := members.With(entry)
	if err != nil {
		return 0, fmt.Errorf("found the quorum anew: %w", err)
	}
	list := lockquorum.Foundings(after)
	next := list[len(list)-1]
	if next.Entry != entry.ID() {
		return 0, errors.New("found the quorum anew: it would be of no later epoch")
	}
	st, _, err := has.begin()
	if err != nil {
		return 0, err
	}
	st.Reseed(next.Epoch, next.Voters)
	state := st.Snapshot()
	for _, v := range next.Voters {
		p := remote.Prepare{Entry: next.Entry, Epoch: next.Epoch, Number: v.ID, State: state}
		if v.Device == s.self {
			err = s.voter.Prepare(ctx, s.self, p)
		} else {
			err = s.voter.Remote(v.Device).Prepare(ctx, p)
		}
		if err != nil {
			return 0, &api.Error{Code: api.CodeUnavailable, Message: "a device that is to vote is not ready: " + named(s.cfg.Name(v.Device)), Err: err,
				Hint: "nothing was founded; give the command again"}
		}
	}
	if s.voter.InForce().Entry != before {
		return 0, &api.Error{Code: api.CodeConflict, Message: "another administrator has founded the quorum anew meanwhile; nothing more was founded", Hint: "see chartmesh quorum status"}
	}
	if !inTime() {
		return 0, &api.Error{Code: api.CodeUnavailable, Message: "it took too long, and nothing was founded", Hint: "give the command again"}
	}
	if err := s.cfg.Enter(ctx, entry); err != nil {
		return 0, err
	}
	s.log.Info("this device founded the practice's quorum anew", "epoch", next.Epoch)
	s.voter.Learned()
	return next.Epoch, nil
}

// begun waits until the new quorum answers.
func (s *Service) begun(ctx context.Context) (api.QuorumStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, begins)
	defer cancel()
	for {
		st, err := s.client.Read(ctx, voters)
		if err == nil {
			s.voter.Heard(ctx, st)
			if status, err := s.Quorum(ctx); err == nil && status.State == api.QuorumOK {
				return status, nil
			}
		}
		select {
		case <-ctx.Done(): // it is founded, and begins when its voters have heard of it
			return s.Quorum(context.WithoutCancel(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
