package quorum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/local"
	"chartmesh/storage"
	"chartmesh/trust"
)

// goesOn says what works without a quorum.
const goesOn = "reading and writing records goes on; what needs a lease or a number waits: an invoice stays a draft"

// voters asks for nothing but how far the quorum has come, and who votes.
var voters = lockquorum.Query{Kind: lockquorum.ReadVoters}

// read returns what is asked for of what the quorum agrees on: of a list of locks, circles or ranges, all.
func (s *Service) read(ctx context.Context, q lockquorum.Query) (*lockquorum.View, error) {
	if err := s.serves(); err != nil {
		return nil, err
	}
	st, err := s.client.ReadAll(ctx, q)
	if err != nil {
		return nil, s.explain(err)
	}
	s.voter.Heard(ctx, st)
	return st, nil
}

// serves reports whether there is anybody to be asked at all.
func (s *Service) serves() error {
	s.mu.Lock()
	running := s.mu.running
	s.mu.Unlock()
	if !running {
		return &api.Error{Code: api.CodeUnavailable, Message: "no agent is running for this folder", Hint: "start it with `chartmesh agent`"}
	}
	return nil
}

// What a quorum cannot notice.
const (
	oneVoter  = "there is one voter: if its folder is put back from a copy and nobody has seen the later state, a number can be given twice"
	allVoters = "if the folders of all voters are put back from copies, or of two while the third is away, and nobody has seen the later state, a number can be given twice"
)

// asksAround bounds how long a status waits for a voter's word.
const asksAround = 3 * time.Second

// Quorum implements api.Exclusive.
func (s *Service) Quorum(ctx context.Context) (api.QuorumStatus, error) {
	at := s.voter.Status()
	s.mu.Lock()
	running := s.mu.running
	s.mu.Unlock()
	out := api.QuorumStatus{State: api.QuorumNone, Voters: []api.QuorumVoter{}}
	var leader lockquorum.DeviceID
	switch {
	case at.Stopped != nil:
		out.State, out.Reason = api.QuorumStopped, reason(at.Stopped)
	case !running:
		out.Reason = "no agent is running for this folder"
	case at.Runs:
		st := at.Voter
		if out.Epoch, out.Index, leader = st.Epoch, st.Index, st.Leader; leader == (lockquorum.DeviceID{}) {
			out.Reason = "no voter leads"
		}
	default:
		ctx, cancel := context.WithTimeout(ctx, asksAround)
		defer cancel()
		st, err := s.client.Read(ctx, voters)
		no, none := errors.AsType[*client.NoQuorumError](err)
		switch {
		case err == nil:
			s.voter.Heard(ctx, st)
			out.Epoch, out.Index, leader = st.Epoch(), st.Index(), s.client.Leader()
		case none:
			out.Reason = strings.TrimPrefix(s.noQuorum(no), thereIsNone)
		default:
			out.Reason = "no voter answers in time"
		}
	}
	if leader != (lockquorum.DeviceID{}) {
		who := s.cfg.Name(leader)
		out.State, out.Leader = api.QuorumOK, &who
	}
	voters := s.voter.Voting()
	var silent []string
	if running {
		silent = s.silent(ctx, voters, leader)
	}
	for i, v := range voters {
		self := v.Device == s.self
		out.Voters = append(out.Voters, api.QuorumVoter{
			Party: s.cfg.Name(v.Device), Self: self, Anchor: s.cfg.Members().IsAnchor(v.Device), Leads: v.Device == leader, Reachable: self && at.Runs || s.reaches(v.Device),
			Removed: !s.belongs(v.Device),
		})
		if silent != nil {
			out.Voters[i].Out = silent[i]
		}
	}
	if out.Risk = allVoters; len(voters) == 1 {
		out.Risk = oneVoter
	}
	if running && out.State != api.QuorumOK {
		out.Next = s.next(at.Stopped, out.Voters)
	} else if running && slices.ContainsFunc(out.Voters, func(v api.QuorumVoter) bool { return v.Removed }) {
		out.Next = "a voter was removed from the practice, and the others must all be reached: an administrator's device puts another one in its place: `chartmesh quorum add NAME`"
	} else if running {
		out.Next = cmp.Or(replace(out.Voters), s.promote(voters))
	}
	out.Founded, out.Notice = s.founded()
	return out, nil
}

// next says what to do where the quorum does not go on.
func (s *Service) next(stopped error, voters []api.QuorumVoter) string {
	what := "start the agents of the voters that are missing; where they do not come back, "
	switch {
	case !s.mayGoOn():
		what = "too few voters are left that belong to the practice: "
	case tooFew(voters):
		what = "too few voters are left that have all that they said: "
	case stopped != nil:
		what = "while other voters go on, an administrator makes this device a voter anew (`chartmesh quorum remove`, `add`); where none do, "
	}
	if errors.Is(stopped, local.ErrWentBack) {
		what = "if this folder was copied from a device that still runs, stop this agent; else " + what
	}
	if m, _ := s.cfg.Members().Member(s.self); m.Role == trust.RoleAdmin {
		return what + "found the quorum anew: `chartmesh quorum reseed`"
	}
	return what + "an administrator's device founds the quorum anew: `chartmesh quorum reseed`"
}

// belongs reports whether a voter still belongs to the practice, as a device that writes or an anchor.
func (s *Service) belongs(d lockquorum.DeviceID) bool {
	st := s.cfg.Members()
	m, ok := st.Member(d)
	return ok && m.Role.MayWrite() || st.IsAnchor(d)
}

// promote says what to do about a voter that was made a plain member by a device that did not know that it votes; empty: there is none.
func (s *Service) promote(voters []lockquorum.Voter) string {
	for _, v := range voters {
		if s.belongs(v.Device) && !lockquorum.MayVote(s.cfg.Members(), v.Device) {
			return s.cfg.Name(v.Device).Name + " votes and is a plain member, whose word on protected documents counts with nobody: `chartmesh peer role NAME server`"
		}
	}
	return ""
}

// mayGoOn reports whether a majority of the voters belongs to the practice.
func (s *Service) mayGoOn() bool {
	belong, voters := 0, s.voter.Voting()
	for _, v := range voters {
		if s.belongs(v.Device) {
			belong++
		}
	}
	return belong > len(voters)/2
}

// founded says who founded the quorum anew, and who did so apart from that.
func (s *Service) founded() (*api.QuorumFounding, string) {
	list := lockquorum.Foundings(s.cfg.Members())
	in := list[len(list)-1]
	if in.Epoch == lockquorum.FirstEpoch {
		return nil, ""
	}
	out := &api.QuorumFounding{By: s.cfg.Name(in.Author), Time: time.UnixMilli(in.TimeMillis).UTC(), Epoch: in.Epoch}
	for _, f := range slices.Backward(list[1 : len(list)-1]) {
		if !slices.Contains(in.After, f.Entry) {
			return out, fmt.Sprintf("%s founded the quorum anew too, apart from that: what counts is what %s founded. What the other gave keeps its name, and is not known here; "+
				"where it gave parts of ranges, found the quorum anew once more", named(s.cfg.Name(f.Author)), named(out.By))
		}
	}
	return out, ""
}

func (s *Service) reaches(d lockquorum.DeviceID) bool {
	return s.cfg.Network != nil && s.cfg.Network.Reaches(d)
}

// reason is why a voter does not run, for a person.
func reason(err error) string {
	switch {
	case errors.Is(err, local.ErrWentBack):
		return "this device's folder was copied, moved or put back: its voter does not know what it has said since, and stays out"
	case errors.Is(err, lockquorum.ErrOver):
		return "the quorum was founded anew, of which this device has not heard yet by whom"
	case errors.Is(err, local.ErrNotFounded):
		return "this device's folder was once copied, moved, put back or filled anew, so that it may have founded the quorum elsewhere, and does not do it again"
	case errors.Is(err, driver.ErrBroken):
		return "this device's voter has lost something that it stored, and stays out: " + putRight
	case errors.Is(err, storage.ErrDamaged):
		return "what this device's voter stored is damaged"
	}
	return err.Error()
}

// explain says what an error means to who asked.
func (s *Service) explain(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	e := &api.Error{Err: err}
	no, none := errors.AsType[*client.NoQuorumError](err)
	switch {
	case none:
		e.Code, e.Message, e.Hint = api.CodeUnavailable, s.noQuorum(no), goesOn
		if len(no.Ended) > 0 {
			e.Hint = putRight + "; " + goesOn
		}
		if no.Unknown {
			e.Hint = "whether it was carried out is not known: ask again, which is safe; " + goesOn
		}
	case errors.Is(err, lockquorum.ErrOutcomeUnknown):
		e.Code, e.Message, e.Hint = api.CodeUnavailable, "whether it was carried out is not known", "ask again, which is safe"
	case errors.Is(err, lockquorum.ErrForked), errors.Is(err, lockquorum.ErrUnsigned):
		e.Code, e.Message = api.CodeUnavailable, "the voter that answered does not have all that was said before, and is not believed"
		e.Hint = putRight + "; " + goesOn
	case errors.Is(err, lockquorum.ErrOver):
		e.Code, e.Message, e.Hint = api.CodeUnavailable, "the quorum was founded anew, of which the voter that answered has not heard", "ask again; see chartmesh quorum status"
	case errors.Is(err, lockquorum.ErrForbidden):
		e.Code, e.Message = api.CodeForbidden, "this device's role does not allow it"
		e.Hint = "who writes may take leases and numbers; an administrator's device breaks leases and begins circles"
	case errors.Is(err, client.ErrHeld):
		e.Code, e.Message, e.Hint = api.CodeHeld, "somebody else holds the lock, or waits for it", "see chartmesh lease list"
	case errors.Is(err, client.ErrLeaseLost):
		e.Code, e.Message = api.CodeHeld, "the lease was lost: it was not renewed in time, or somebody broke it"
		e.Hint = "what was done under it since may have met another's work; see chartmesh lease list"
	case errors.Is(err, client.ErrStaleToken):
		e.Code, e.Message, e.Hint = api.CodeConflict, "that lease is over already", "see chartmesh lease list"
	case errors.Is(err, client.ErrUnknown):
		e.Code, e.Message = api.CodeNotFound, "there is no such circle, or the item has no number in it"
		e.Hint = "see chartmesh number list; an administrator begins a circle with `chartmesh number open`"
	case errors.Is(err, client.ErrClosed):
		e.Code, e.Message, e.Hint = api.CodeConflict, "the circle is closed", "an administrator begins its next series with `chartmesh number open`"
	case errors.Is(err, client.ErrExhausted):
		e.Code, e.Message = api.CodeConflict, "the circle has no number left"
		e.Hint = "an administrator closes it and begins its next series: `chartmesh number close`, `chartmesh number open`"
	case errors.Is(err, client.ErrExists):
		e.Code, e.Message, e.Hint = api.CodeConflict, "the circle is there already, with other numbers", "see chartmesh number list"
	case errors.Is(err, client.ErrResolved):
		e.Code, e.Message, e.Hint = api.CodeConflict, "something else was said of that number before", "see chartmesh number report"
	case errors.Is(err, client.ErrFull):
		e.Code, e.Message = api.CodeUnavailable, "the quorum keeps no more of these"
	case errors.Is(err, storage.ErrNoRoom):
		e.Code, e.Message = api.CodeFull, "the disk has too little room left"
	default:
		return err
	}
	return e
}

// putRight says what becomes of a voter that has lost something.
const putRight = "an administrator takes that voter out, of three with another one that does not lead, and makes both voters anew (`chartmesh quorum remove`, `add`), or, if it is the only one, founds the quorum anew: `chartmesh quorum reseed`"

const thereIsNone = "there is no quorum: "

// noQuorum says who was reached.
func (s *Service) noQuorum(e *client.NoQuorumError) string {
	if stopped := s.voter.Status().Stopped; stopped != nil {
		return thereIsNone + reason(stopped)
	}
	var missing []string
	voters := s.voter.Voting()
	for _, v := range voters {
		if !slices.Contains(e.Reached, v.Device) {
			who := s.cfg.Name(v.Device)
			name := cmp.Or(who.Name, who.PeerID)
			switch {
			case !s.belongs(v.Device):
				name += " (it was removed from the practice)"
			case slices.Contains(e.Ended, v.Device) && len(voters) > 1:
				name += " (its voter does not have all that it said, and stays out)"
			}
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return thereIsNone + "none of the voters leads"
	case len(voters) == 1 && voters[0].Device == s.self:
		return thereIsNone + "this device's voter does not run"
	case len(voters) == 1 && !s.belongs(voters[0].Device):
		return thereIsNone + "who keeps leases and numbers was removed from the practice: " + missing[0]
	case len(voters) == 1 && slices.Contains(e.Ended, voters[0].Device):
		return thereIsNone + missing[0] + " keeps leases and numbers, and its voter does not have all that it said, and stays out"
	case len(voters) == 1:
		return thereIsNone + missing[0] + " keeps leases and numbers, and cannot be reached"
	}
	return fmt.Sprintf("%s%d of %d voters can be reached; missing: %s", thereIsNone, len(voters)-len(missing), len(voters), strings.Join(missing, ", "))
}
