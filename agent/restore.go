package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// RestoreOptions bring a practice's recovery code to an empty folder.
type RestoreOptions struct {
	Code         string
	Site, Device string
	// Addresses are where devices of the practice may be, as people type them; none: the local network is searched.
	Addresses []string
	Logger    *slog.Logger
}

const (
	// restoreLinger is how long others are waited for when one device of the practice has answered: each may know of more.
	restoreLinger = 3 * time.Second
	restoreCalls  = 8 // at once
)

// Restore makes a new folder an administrator's device of the practice whose recovery code it is given. It asks the devices of the
// practice that it finds for the membership log, enters the new device in it under the recovery code's key, has it taken by them, and
// only then makes the store. Interrupted, it may be called again on the same folder: the device is the same.
func Restore(ctx context.Context, dir string, opts RestoreOptions) (report api.Restored, err error) {
	code, err := keyring.ParseRecoveryCode(opts.Code)
	if err != nil {
		return report, explainRecovery(err)
	}
	var places [][]string
	for _, text := range opts.Addresses {
		list, err := p2p.Addresses(text)
		if err != nil {
			return report, &api.Error{Code: api.CodeInvalid, Message: err.Error(), Err: err}
		}
		places = append(places, list)
	}
	keys, err := keyring.Create(dir, nil)
	if errors.Is(err, keyring.ErrExists) {
		if keys, err = keyring.Open(dir, nil); err == nil {
			err = unfinished(dir, keys)
		}
	}
	if err != nil {
		return report, err
	}
	caller, err := code.CallerKey()
	if err != nil {
		return report, err
	}
	network, err := p2p.NewCaller(caller)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()

	s := &survivors{root: caller.Device(), caller: network, log: cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))}
	if err := s.find(ctx, places); err != nil {
		return report, err
	}
	st, err := s.merge()
	if err != nil {
		return report, err
	}
	recovery, err := keyring.OpenWithRecovery(opts.Code, st)
	if err != nil {
		return report, explainRecovery(err)
	}
	if _, removed := st.Removed(keys.Device()); removed {
		return report, &api.Error{Code: api.CodeForbidden, Message: "the device that was begun in " + dir + " was removed from the practice",
			Hint: "name another folder with --data"}
	}
	if _, entered := st.Member(keys.Device()); !entered { // else an earlier try came as far
		e, err := recovery.Admit(st, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Role: trust.RoleAdmin,
			DeviceName: opts.Device, SiteName: opts.Site, Now: time.Now()})
		if err != nil {
			return report, err
		}
		if st, err = st.With(e); err != nil {
			return report, fmt.Errorf("enter this device in the membership log: %w", err)
		}
	}
	took := s.deliver(ctx, st, keys.Device())
	if len(took) == 0 {
		return report, &api.Error{Code: api.CodeUnavailable, Message: "devices of the practice were found, and none of them took this one in",
			Hint: "look at its log and at the room on its disk, then run the same command again"}
	}
	if err := adopt(ctx, dir, keys, st.Entries(), took...); err != nil {
		return report, err
	}
	return restored(st, keys.Device(), recovery, took)
}

// restored says what was found.
func restored(st *trust.State, self trust.DeviceID, r *keyring.Recovery, took []p2p.PeerAddr) (report api.Restored, err error) {
	report = api.Restored{RecoveryReport: opens(st, r), Devices: []api.RestoredDevice{}}
	for _, m := range slices.Concat(st.Members(), st.Anchors()) {
		id, err := p2p.PeerID(m.Device)
		if err != nil {
			return report, err
		}
		if m.Device == self {
			report.PeerID = id.String()
			continue
		}
		d := api.RestoredDevice{PeerID: id.String(), Role: m.Role.String()}
		d.Name, d.Site = r.Names(st, m.Device)
		d.Answered = slices.ContainsFunc(took, func(p p2p.PeerAddr) bool { return p.Device == m.Device })
		report.Devices = append(report.Devices, d)
	}
	return report, nil
}

// survivors are the devices of a practice that answer to its recovery code.
type survivors struct {
	root   trust.DeviceID
	caller *p2p.Caller
	log    *slog.Logger

	mu struct {
		sync.Mutex
		replies  []survivor
		refusals []error
	}
}

type survivor struct {
	peer p2p.PeerAddr
	st   *trust.State
}

// find asks the devices at the places, or at all that announce themselves on the local network, and returns when it has heard of enough.
func (s *survivors) find(ctx context.Context, places [][]string) error {
	find, stop := context.WithCancel(ctx)
	defer stop()
	answered := make(chan struct{}, 1)
	slots := make(chan struct{}, restoreCalls)
	var calls sync.WaitGroup
	ask := func(at []string) {
		calls.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-find.Done():
				return
			}
			defer func() { <-slots }()
			if s.ask(find, at) {
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	done := make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		for _, at := range places {
			ask(at)
		}
		if len(places) == 0 {
			failed = s.caller.Search(find, ask)
		}
		calls.Wait()
	}()
	select {
	case <-ctx.Done():
	case <-done:
	case <-answered:
		select {
		case <-ctx.Done():
		case <-done:
		case <-time.After(restoreLinger):
		}
	}
	stop()
	<-done
	return s.found(len(places) > 0, failed)
}

// ask asks the device at an address and reports whether it proved to be of the practice.
func (s *survivors) ask(ctx context.Context, at []string) bool {
	reply, err := s.caller.Call(ctx, at, nil)
	var st *trust.State
	if err == nil {
		st, err = s.judge(reply)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			s.log.Info("no device of the practice", "address", at[0], "error", err)
			s.mu.refusals = append(s.mu.refusals, err)
		}
		return false
	}
	s.mu.replies = append(s.mu.replies, survivor{reply.Peer, st})
	return true
}

var errImitation = errors.New("what answers there does not prove that it belongs to the practice")

// judge reads a membership log. That it is the practice's follows from the root key: none but its owner can make a log in which it is
// in force by an entry that bears its signature and names all that stood before.
func (s *survivors) judge(r p2p.Reply) (*trust.State, error) {
	var entries []trust.Entry
	for _, b := range r.Entries {
		e, err := trust.ParseEntry(b)
		if err != nil {
			return nil, errors.Join(errImitation, err)
		}
		entries = append(entries, e)
	}
	// Before all of it is weighed, which takes long where somebody made it so.
	if !slices.ContainsFunc(entries, func(e trust.Entry) bool { return e.Proves(s.root) }) {
		return nil, errImitation
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) > 0 {
		return nil, errors.Join(errImitation, rejected[0].Err)
	}
	if root, _ := st.Root(); root != s.root || !belongs(st, r.Peer.Device) {
		return nil, errImitation
	}
	return st, nil
}

func belongs(st *trust.State, d trust.DeviceID) bool {
	_, member := st.Member(d)
	return member || st.IsAnchor(d)
}

// found explains why nobody was.
func (s *survivors) found(named bool, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(target error) bool {
		return slices.ContainsFunc(s.mu.refusals, func(err error) bool { return errors.Is(err, target) })
	}
	switch {
	case len(s.mu.replies) > 0 && !(named && is(p2p.ErrReplacedCode)):
		return nil
	case is(p2p.ErrReplacedCode):
		// Anybody can say so, and somebody was asked by name. If it is true and another device did not know, what is entered under the
		// code falls when that one hears of it.
		return explainRecovery(keyring.ErrReplacedRecovery)
	case is(errImitation):
		return &api.Error{Code: api.CodeForbidden, Message: errImitation.Error(), Hint: "ask a device that the practice knows: --address IP:PORT"}
	case named && is(p2p.ErrOtherCode):
		return &api.Error{Code: api.CodeForbidden, Message: "the device there refuses the recovery code: it belongs to another practice",
			Hint: "is it the right code, and the right address? `chartmesh recovery check` on that device tells what the code is"}
	case named:
		return &api.Error{Code: api.CodeUnavailable, Message: "no device of the practice can be reached there", Err: errors.Join(s.mu.refusals...),
			Hint: "its agent must be running and reachable; `chartmesh status` there shows its addresses"}
	}
	hint := "start the agent of one that is left; if it is elsewhere, name its address: --address IP:PORT"
	if is(p2p.ErrOtherCode) {
		hint = "others answered and refuse the code: is it the right one? If so, " + hint
	}
	return &api.Error{Code: api.CodeUnavailable, Message: "no device of the practice that knows this recovery code was found on the local network",
		Err: err, Hint: hint}
}

// merge returns what all that answered know together.
func (s *survivors) merge() (*trust.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []trust.Entry
	for _, r := range s.mu.replies {
		entries = append(entries, r.st.Entries()...)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) > 0 {
		return nil, fmt.Errorf("merge what several devices know of the practice: %w", rejected[0].Err)
	}
	return st, nil
}

// deliver gives each device that answered, and still belongs by what all know, what it lacks, and returns those that took the
// device in.
func (s *survivors) deliver(ctx context.Context, st *trust.State, self trust.DeviceID) (took []p2p.PeerAddr) {
	s.mu.Lock()
	replies := s.mu.replies
	s.mu.Unlock()
	for _, r := range replies {
		if !belongs(st, r.peer.Device) || slices.ContainsFunc(took, func(p p2p.PeerAddr) bool { return p.Device == r.peer.Device }) {
			continue
		}
		var lacking [][]byte
		for _, e := range st.Entries() {
			if !r.st.Contains(e.ID()) {
				lacking = append(lacking, e.Bytes())
			}
		}
		reply, err := s.caller.Call(ctx, r.peer.Addrs, lacking)
		var then *trust.State
		if err == nil {
			then, err = s.judge(reply)
		}
		if err == nil {
			if _, entered := then.Member(self); !entered {
				err = errors.New("it did not take the entry")
			}
		}
		if err != nil {
			s.log.Warn("a device of the practice did not take this one in", "address", r.peer.Addrs[0], "error", err)
			continue
		}
		took = append(took, r.peer)
	}
	return took
}
