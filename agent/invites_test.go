package agent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/p2p/lan"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// inviting founds a practice that runs on loopback, and returns a way to make newcomers for it.
func inviting(t *testing.T) (*Agent, func() p2p.Newcomer) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	a, err := Open(Config{Dir: dir, NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = a.Close()
	})
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for a.host.Load() == nil {
		<-poll.C
	}
	return a, func() p2p.Newcomer {
		keys, err := keyring.Create(filepath.Join(t.TempDir(), "new"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p2p.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), DeviceName: "laptop", SiteName: "home"}
	}
}

func (i *invites) only(t *testing.T) invite {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.mu.list) != 1 {
		t.Fatalf("%d invitations", len(i.mu.list))
	}
	return i.mu.list[0]
}

// stored returns the invitation as a device that starts again finds it.
func (i *invites) stored(t *testing.T) invite {
	t.Helper()
	again, err := openInvites(i.agent)
	if err != nil {
		t.Fatal(err)
	}
	return again.only(t)
}

// TestFailedAdmission: whatever keeps a newcomer from being admitted leaves the invitation as it was, also over a restart; and
// who was admitted has used it, also when that could not be stored any more.
func TestFailedAdmission(t *testing.T) {
	a, newcomer := inviting(t)
	if _, err := a.Invite(t.Context(), api.InviteRequest{Yes: true}); err != nil {
		t.Fatal(err)
	}
	i := a.invites
	id := i.only(t).secrets[1].id
	redeem := func(n p2p.Newcomer) ([][]byte, error) {
		t.Helper()
		if err := i.Count(t.Context(), id); err != nil {
			return nil, err
		}
		return i.Redeem(t.Context(), id, n, func() { t.Error("somebody is asked") })
	}
	first, second := newcomer(), newcomer()
	bad := first
	bad.HPKE = []byte("no key")
	if entries, err := redeem(bad); err == nil || entries != nil {
		t.Fatal("a newcomer without a key was admitted")
	}
	for what, v := range map[string]invite{"now": i.only(t), "after a restart": i.stored(t)} {
		if v.state != inviteOpen || v.secrets[1].tries != 0 {
			t.Errorf("%s the invitation is in state %d, with %d tries gone", what, v.state, v.secrets[1].tries)
		}
	}
	// It ended between the claim and the entry: the claim is nobody's.
	i.mu.Lock()
	if err := i.changeLocked(t.Context(), 0, func(v *invite) { v.state, v.by = inviteClaimed, first.Device }); err != nil {
		t.Fatal(err)
	}
	i.mu.Unlock()
	if v := i.stored(t); v.state != inviteOpen {
		t.Errorf("a claim without an entry: state %d", v.state)
	}
	entries, err := redeem(second)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	// It ended between the entry and the note that the invitation is used.
	i.mu.Lock()
	if err := i.changeLocked(t.Context(), 0, func(v *invite) { v.state = inviteClaimed }); err != nil {
		t.Fatal(err)
	}
	i.mu.Unlock()
	if v := i.stored(t); v.state != inviteUsed {
		t.Errorf("a claim with its entry: state %d", v.state)
	}
	if _, err := redeem(first); !errors.Is(err, p2p.RefusedUsed) {
		t.Errorf("used twice: %v", err)
	}
	if again, err := redeem(second); err != nil || len(again) != len(entries) {
		t.Errorf("the same newcomer again: %d entries, %v", len(again), err)
	}
	if st := a.records.State(); len(st.Members()) != 2 {
		t.Errorf("%d members", len(st.Members()))
	}
}

// TestTriesAreDurable: five tries, counted before they are judged, also over a restart; one that cannot be stored is refused.
func TestTriesAreDurable(t *testing.T) {
	a, newcomer := inviting(t)
	if _, err := a.Invite(t.Context(), api.InviteRequest{Yes: true}); err != nil {
		t.Fatal(err)
	}
	i := a.invites
	words, code := i.only(t).secrets[0].id, i.only(t).secrets[1].id
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Count(canceled, words); err == nil || i.only(t).secrets[0].tries != 0 {
		t.Errorf("a try that was not stored: %v, %d counted", err, i.only(t).secrets[0].tries)
	}
	for n := range uint64(maxTries) {
		if err := i.Count(t.Context(), words); err != nil {
			t.Fatal(err)
		}
		if got := i.stored(t).secrets[0].tries; got != n+1 {
			t.Errorf("%d tries are stored after %d", got, n+1)
		}
	}
	if err := i.Count(t.Context(), words); !errors.Is(err, p2p.RefusedTries) {
		t.Errorf("one more: %v", err)
	}
	if _, err := i.Terms(words); !errors.Is(err, p2p.RefusedTries) {
		t.Errorf("terms of blocked words: %v", err)
	}
	// Whoever blocks the words has not blocked the code.
	if err := i.Count(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Redeem(t.Context(), code, newcomer(), nil); err != nil {
		t.Error(err)
	}
}

// TestOneOfManyIsAdmitted has twenty newcomers who know the code come at once.
func TestOneOfManyIsAdmitted(t *testing.T) {
	a, newcomer := inviting(t)
	if _, err := a.Invite(t.Context(), api.InviteRequest{Yes: true, Site: "branch"}); err != nil {
		t.Fatal(err)
	}
	i := a.invites
	id := i.only(t).secrets[0].id
	results := make(chan error)
	for range 20 {
		n := newcomer()
		go func() {
			err := i.Count(t.Context(), id)
			if err == nil {
				_, err = i.Redeem(t.Context(), id, n, nil)
			}
			results <- err
		}()
	}
	admitted := 0
	for range 20 {
		switch err := <-results; {
		case err == nil:
			admitted++
		case !errors.Is(err, p2p.ErrRefused):
			t.Error(err)
		}
	}
	st := a.records.State()
	if admitted != 1 || len(st.Members()) != 2 {
		t.Fatalf("%d admitted, %d members", admitted, len(st.Members()))
	}
	at := slices.IndexFunc(st.Members(), func(m trust.Member) bool { return m.Device != a.keys.Device() })
	if name, site := a.keys.Names(st, st.Members()[at].Device); name != "laptop" || site != "branch" {
		t.Errorf("it is %s at %s", name, site)
	}
	// The newcomer reads what was written before it came by one box for each scope.
	m := st.Members()[at]
	for _, sc := range st.Scopes() {
		boxes := 0
		for _, b := range st.Boxes(m.Device) {
			if b.Scope == sc.ID {
				boxes++
			}
		}
		if boxes != 1 {
			t.Errorf("%d boxes for %s", boxes, sc.Name)
		}
	}
}

// TestConfirmations: who waits is shown, and admitted by somebody who names its fingerprint.
func TestConfirmations(t *testing.T) {
	a, newcomer := inviting(t)
	invite, err := a.Invite(t.Context(), api.InviteRequest{})
	if err != nil {
		t.Fatal(err)
	}
	i := a.invites
	id := i.only(t).secrets[0].id
	n := newcomer()
	come := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			err := i.Count(ctx, id)
			if err == nil {
				_, err = i.Redeem(ctx, id, n, func() {})
			}
			ended <- err
		}()
		return ended
	}
	waits := func(known, want string) api.InviteState {
		t.Helper()
		s, err := a.WaitInvite(t.Context(), invite.Name, known)
		if err != nil || s.State != want {
			t.Fatalf("state %q, %v", s.State, err)
		}
		return s
	}
	// One that hangs up waits no longer, and cost nothing.
	ctx, hangUp := context.WithCancel(t.Context())
	ended := come(ctx)
	waits(api.InviteOpen, api.InviteWaiting)
	hangUp()
	if err := <-ended; err == nil {
		t.Error("one that hung up was admitted")
	}
	if s := waits(api.InviteWaiting, api.InviteOpen); s.TriesLeft != maxTries {
		t.Errorf("%d tries left", s.TriesLeft)
	}
	ended = come(t.Context())
	s := waits(api.InviteOpen, api.InviteWaiting)
	if s.Newcomer == nil || s.Newcomer.Name != "laptop" || s.Newcomer.Site != "home" || s.Newcomer.Fingerprint != n.Fingerprint() {
		t.Fatalf("%+v waits", s.Newcomer)
	}
	other := newcomer().Fingerprint()
	if err := a.ConfirmInvite(t.Context(), invite.Name, api.InviteDecision{Admit: true, Fingerprint: other}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("another fingerprint: %v", err)
	}
	if err := a.ConfirmInvite(t.Context(), invite.Name, api.InviteDecision{Admit: true, Fingerprint: n.Fingerprint()}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := waits(api.InviteWaiting, api.InviteUsed); s.Device == nil || s.Device.Name != "laptop" {
		t.Errorf("used by %+v", s.Device)
	}
	if err := a.RevokeInvite(t.Context(), invite.Name); err != nil || i.Open() {
		t.Errorf("revoked: %v, still open: %v", err, i.Open())
	}
}

// TestInvitesOfBefore: invitations of an exchange that is no longer spoken are forgotten, and keep no folder from opening.
func TestInvitesOfBefore(t *testing.T) {
	a, _ := inviting(t)
	// Their form was: 1, how many, and for each ID 16, key 32, tries, role, end, used, who 32, key hash 32.
	old := append([]byte{1, 1}, make([]byte, 16+32+1+1+1+1+32+32)...)
	if err := a.records.PutSmall(t.Context(), storage.Meta.Key(4), old); err != nil {
		t.Fatal(err)
	}
	again, err := openInvites(a)
	if err != nil || again.Open() {
		t.Errorf("%v", err)
	}
}

// TestOpenInvitesAreAnnouncedFirst: invitations that are over do not crowd out one that is open, however many there are.
func TestOpenInvitesAreAnnouncedFirst(t *testing.T) {
	i := &invites{}
	now := time.Now()
	add := func(n int, change func(*invite)) {
		v := invite{locator: lan.Locator(n), expires: now.Add(time.Hour), state: inviteOpen}
		change(&v)
		i.mu.list = append(i.mu.list, v)
	}
	add(1, func(*invite) {})
	for n := range 9 {
		add(10+n, func(v *invite) {
			switch n % 3 {
			case 0:
				v.state = inviteUsed
			case 1:
				v.expires = now.Add(-time.Second)
			default:
				v.secrets[0].tries = maxTries
			}
		})
	}
	add(2, func(*invite) {})
	if got := i.Locators(); len(got) != 11 || got[0] != 2 || got[1] != 1 {
		t.Errorf("%v", got)
	}
}
