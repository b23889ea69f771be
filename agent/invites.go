package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/p2p/lan"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

const (
	inviteLasts  = 24 * time.Hour
	inviteTold   = 15 * time.Minute // after its end, so that a newcomer hears that it has expired
	maxInvites   = 64
	maxTries     = 5 // of each of an invitation's two secrets
	inviteFormat = 2
)

// States of an invitation as it is stored. The numbers are.
const (
	inviteOpen    = 0
	inviteClaimed = 1 // the newcomer's entry is being made; it is used if that is in the membership log, and else as good as open
	inviteUsed    = 2
)

// invites are the invitations of this device. Of what is read or scanned only what p2p derives from it is stored: the store
// does not tell the code.
type invites struct {
	agent *Agent
	mu    struct {
		sync.Mutex
		list    []invite
		waiting map[p2p.InviteID]*applicant // by the ID of the words
		changed chan struct{}               // closed and replaced when anything here changes
	}
}

// secret is one of the two by which an invitation can be redeemed: the words, and the code's.
type secret struct {
	id    p2p.InviteID
	key   p2p.JoinKey
	tries uint64 // at it that failed, or have not ended yet
}

type invite struct {
	secrets [2]secret // words, code
	locator lan.Locator
	role    trust.Role
	site    string // that the newcomer is at; empty: it says so itself
	ask     bool   // somebody must confirm the newcomer
	expires time.Time
	state   byte
	by      trust.DeviceID // who claimed or used it
	hpke    [32]byte       // hash of its key
}

// id is what this device knows an invitation by.
func (v *invite) id() p2p.InviteID { return v.secrets[0].id }

// applicant is a newcomer who has proven that it knows a code, and waits for somebody to say yes.
type applicant struct {
	newcomer p2p.Newcomer
	decided  chan bool // one decision
}

func openInvites(a *Agent) (*invites, error) {
	i := &invites{agent: a}
	i.mu.waiting = map[p2p.InviteID]*applicant{}
	i.mu.changed = make(chan struct{})
	b, err := a.records.Small(storage.Meta.Key(replica.MetaInvites))
	if err != nil || len(b) == 0 {
		return i, err
	}
	if b[0] == 1 {
		return i, nil // their codes are for an exchange that is no longer spoken
	}
	if i.mu.list, err = parseInvites(b); err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	for at := range i.mu.list {
		i.settleLocked(&i.mu.list[at])
	}
	return i, nil
}

// settleLocked decides what became of an invitation whose newcomer's entry was being made when something failed.
func (i *invites) settleLocked(v *invite) {
	if v.state != inviteClaimed {
		return
	}
	v.state = inviteOpen
	if _, member := i.agent.records.State().Member(v.by); member {
		v.state = inviteUsed
	}
}

func parseInvites(b []byte) (list []invite, err error) {
	r := wire.NewReader(b)
	if r.Byte() != inviteFormat {
		r.Fail("version")
	}
	for n := r.Uvarint(maxInvites); n > 0 && r.Err() == nil; n-- {
		var v invite
		for s := range v.secrets {
			r.Fixed(v.secrets[s].id[:])
			r.Fixed(v.secrets[s].key[:])
			v.secrets[s].tries = r.Uvarint(maxTries)
		}
		v.locator = lan.Locator(r.Uvarint(1<<32 - 1))
		v.role = trust.Role(r.Byte())
		v.site = r.String(trust.MaxName)
		v.ask = r.Bool()
		v.expires = time.UnixMilli(r.Varint())
		if v.state = r.Byte(); v.state > inviteUsed {
			r.Fail("state")
		}
		r.Fixed(v.by[:])
		r.Fixed(v.hpke[:])
		list = append(list, v)
	}
	return list, r.Close()
}

func marshalInvites(list []invite) []byte {
	var w wire.Writer
	w.Byte(inviteFormat)
	w.Uvarint(uint64(len(list)))
	for _, v := range list {
		for _, s := range v.secrets {
			w.Raw(s.id[:])
			w.Raw(s.key[:])
			w.Uvarint(s.tries)
		}
		w.Uvarint(uint64(v.locator))
		w.Byte(byte(v.role))
		w.String(v.site)
		w.Bool(v.ask)
		w.Varint(v.expires.UnixMilli())
		w.Byte(v.state)
		w.Raw(v.by[:])
		w.Raw(v.hpke[:])
	}
	return w.Bytes()
}

// storeLocked makes list durable, and only then the one that counts. The lock is held over the write on purpose: an
// invitation that is being redeemed must not be redeemed again before that is durable.
func (i *invites) storeLocked(ctx context.Context, list []invite) error {
	if err := i.agent.records.PutSmall(ctx, storage.Meta.Key(replica.MetaInvites), marshalInvites(list)); err != nil {
		return fmt.Errorf("store invitations: %w", err)
	}
	i.mu.list = list
	i.changedLocked()
	return nil
}

// changeLocked makes a change to the invitation at a place durable.
func (i *invites) changeLocked(ctx context.Context, at int, change func(*invite)) error {
	list := slices.Clone(i.mu.list)
	change(&list[at])
	return i.storeLocked(ctx, list)
}

func (i *invites) changedLocked() {
	if host := i.agent.host.Load(); host != nil {
		host.InvitesChanged()
	}
	close(i.mu.changed)
	i.mu.changed = make(chan struct{})
}

func (i *invites) forgetOverLocked(now time.Time) {
	i.mu.list = slices.DeleteFunc(i.mu.list, func(v invite) bool { return now.After(v.expires.Add(inviteTold)) })
}

// findLocked returns the place of the invitation with a secret of that ID, and which secret it is.
func (i *invites) findLocked(id p2p.InviteID) (at, which int, ok bool) {
	for at := range i.mu.list {
		for which := range i.mu.list[at].secrets {
			if i.mu.list[at].secrets[which].id == id {
				return at, which, true
			}
		}
	}
	return 0, 0, false
}

// Open implements p2p.Invites.
func (i *invites) Open() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetOverLocked(time.Now())
	return len(i.mu.list) > 0
}

// Locators implements p2p.Invites.
func (i *invites) Locators() (list []lan.Locator) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	i.forgetOverLocked(now)
	var over []lan.Locator                         // so that who still has their words is told why they do not work
	for _, v := range slices.Backward(i.mu.list) { // the newest first: an announcement has room for a few
		if v.state == inviteUsed || v.secrets[0].tries >= maxTries || now.After(v.expires) {
			over = append(over, v.locator)
			continue
		}
		list = append(list, v.locator)
	}
	return append(list, over...)
}

// Terms implements p2p.Invites.
func (i *invites) Terms(id p2p.InviteID) (p2p.Terms, error) {
	st := i.agent.records.State()
	self, ok := st.Member(i.agent.keys.Device())
	if !ok || self.Role != trust.RoleAdmin {
		return p2p.Terms{}, fmt.Errorf("%w: this device may not admit others any more", p2p.RefusedUnknown)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetOverLocked(time.Now())
	at, which, ok := i.findLocked(id)
	if !ok {
		return p2p.Terms{}, p2p.RefusedUnknown
	}
	v := &i.mu.list[at]
	if v.secrets[which].tries >= maxTries {
		return p2p.Terms{}, p2p.RefusedTries
	}
	return p2p.Terms{Key: v.secrets[which].key, Role: v.role, Founding: st.Practice(), HPKE: sha256.Sum256(self.HPKE)}, nil
}

// Count implements p2p.Invites.
func (i *invites) Count(ctx context.Context, id p2p.InviteID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	at, which, ok := i.findLocked(id)
	switch {
	case !ok:
		return p2p.RefusedUnknown
	case i.mu.list[at].secrets[which].tries >= maxTries:
		return p2p.RefusedTries
	}
	return i.changeLocked(ctx, at, func(v *invite) { v.secrets[which].tries++ })
}

// Redeem implements p2p.Invites. Whatever fails, the invitation stays as it was.
func (i *invites) Redeem(ctx context.Context, id p2p.InviteID, n p2p.Newcomer, waiting func()) ([][]byte, error) {
	if again, err := i.examine(ctx, id, n); err != nil {
		return nil, err
	} else if again {
		return i.agent.records.EntriesSince(nil), nil
	}
	if err := i.confirm(ctx, id, n, waiting); err != nil {
		return nil, err
	}
	// The newcomer may hang up from here on: it is admitted, and hears of it when it asks again.
	return i.admit(context.WithoutCancel(ctx), id, n)
}

// examine gives the newcomer's try back, since it knows the secret, and looks whether the invitation is there for it. again:
// it was admitted before.
func (i *invites) examine(ctx context.Context, id p2p.InviteID, n p2p.Newcomer) (again bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	at, which, ok := i.findLocked(id)
	if !ok {
		return false, p2p.RefusedUnknown
	}
	if err := i.changeLocked(ctx, at, func(v *invite) { v.secrets[which].tries-- }); err != nil {
		return false, err
	}
	return i.fitsLocked(at, n)
}

func (i *invites) fitsLocked(at int, n p2p.Newcomer) (again bool, err error) {
	v := &i.mu.list[at]
	i.settleLocked(v)
	_, member := i.agent.records.State().Member(n.Device)
	same := v.by == n.Device && v.hpke == sha256.Sum256(n.HPKE)
	switch {
	case v.state == inviteUsed && same && member:
		return true, nil
	case v.state == inviteUsed:
		return false, p2p.RefusedUsed
	case time.Now().After(v.expires):
		return false, p2p.RefusedExpired
	case member:
		return false, p2p.RefusedMember
	case v.site == "" && strings.TrimSpace(n.SiteName) == "":
		return false, p2p.RefusedSite
	}
	return false, nil
}

// confirm waits until somebody has confirmed the newcomer, if the invitation asks for that.
func (i *invites) confirm(ctx context.Context, id p2p.InviteID, n p2p.Newcomer, waiting func()) error {
	i.mu.Lock()
	at, _, ok := i.findLocked(id)
	if !ok || !i.mu.list[at].ask {
		i.mu.Unlock()
		if !ok {
			return p2p.RefusedUnknown
		}
		return nil
	}
	own := i.mu.list[at].id()
	if i.mu.waiting[own] != nil {
		i.mu.Unlock()
		return fmt.Errorf("%w: another one waits to be confirmed for the same invitation", p2p.RefusedNow)
	}
	if i.mu.list[at].site != "" {
		n.SiteName = i.mu.list[at].site
	}
	w := &applicant{newcomer: n, decided: make(chan bool, 1)}
	i.mu.waiting[own] = w
	i.changedLocked()
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.mu.waiting, own)
		i.changedLocked()
	}()
	waiting()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case yes := <-w.decided:
		if !yes {
			return p2p.RefusedDeclined
		}
		return nil
	}
}

// admit adds the newcomer. The claim is durable before the entry is, so that no second device is admitted whatever fails
// between; without the entry the claim is worth nothing.
func (i *invites) admit(ctx context.Context, id p2p.InviteID, n p2p.Newcomer) ([][]byte, error) {
	a := i.agent
	i.mu.Lock()
	defer i.mu.Unlock()
	at, _, ok := i.findLocked(id)
	if !ok {
		return nil, p2p.RefusedUnknown // revoked meanwhile
	}
	if again, err := i.fitsLocked(at, n); err != nil {
		return nil, err
	} else if again {
		return a.records.EntriesSince(nil), nil
	}
	if err := i.changeLocked(ctx, at, func(v *invite) {
		v.state, v.by, v.hpke = inviteClaimed, n.Device, sha256.Sum256(n.HPKE)
	}); err != nil {
		return nil, err
	}
	v := i.mu.list[at]
	entries, err := a.records.Admit(ctx, func(st *trust.State) (trust.Entry, error) {
		return a.keys.Admit(st, keyring.Newcomer{
			Device: n.Device, HPKE: n.HPKE, Role: v.role,
			DeviceName: n.DeviceName, SiteName: cmp.Or(v.site, n.SiteName), Now: time.Now(),
		})
	})
	i.settleLocked(&i.mu.list[at])
	// Not being able to store it changes nothing: the claim is settled by the membership log again.
	store := i.storeLocked(ctx, i.mu.list)
	if err != nil {
		return nil, fmt.Errorf("admit: %w", err)
	}
	if store != nil {
		a.log.Warn("that an invitation is used was not stored; the membership log says so", "error", store)
	}
	a.log.Info("a device joined the practice", "device", n.Device)
	if host := a.host.Load(); host != nil {
		host.MembershipChanged()
	}
	return entries, nil
}

// Invite opens an invitation for one device.
func (a *Agent) Invite(ctx context.Context, req api.InviteRequest) (api.Invite, error) {
	host := a.host.Load()
	if host == nil {
		return api.Invite{}, notRunning()
	}
	role, ok := roleNamed(cmp.Or(req.Role, trust.RoleMember.String()))
	if !ok {
		return api.Invite{}, &api.Error{Code: api.CodeInvalid, Message: "the role must be admin, member, reader or server"}
	}
	if m, ok := a.records.State().Member(a.keys.Device()); !ok || m.Role != trust.RoleAdmin {
		return api.Invite{}, &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device can invite"}
	}
	if req.Expires <= 0 {
		req.Expires = inviteLasts
	}
	if req.Expires > api.MaxInvite {
		return api.Invite{}, &api.Error{Code: api.CodeInvalid, Message: "an invitation lasts at most 30 days"}
	}
	if req.Site = strings.TrimSpace(req.Site); len(req.Site) > trust.MaxName {
		return api.Invite{}, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("a name has at most %d bytes", trust.MaxName)}
	}
	practice := a.records.State().Practice()
	code, err := p2p.NewCode(rand.Reader, p2p.Code{
		Role: role, Inviter: a.keys.Device(), Founding: [16]byte(practice[:16]), Expires: time.Now().Add(req.Expires),
		Addrs: host.Addresses(),
	})
	if err != nil {
		return api.Invite{}, err
	}
	text, err := code.Text()
	if err != nil {
		return api.Invite{}, err
	}
	link, err := code.Link()
	if err != nil {
		return api.Invite{}, err
	}
	i := a.invites
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetOverLocked(time.Now())
	if len(i.mu.list) >= maxInvites {
		return api.Invite{}, &api.Error{Code: api.CodeUnavailable, Message: "too many invitations are open",
			Hint: "wait until some expire, or see chartmesh invite list"}
	}
	words, err := p2p.NewWords(rand.Reader)
	if err != nil {
		return api.Invite{}, err
	}
	// One locator is one invitation; in 4 million none is drawn twice without end.
	for _, _, taken := i.findLocked(words.Invitation().ID); taken; _, _, taken = i.findLocked(words.Invitation().ID) {
		if words, err = p2p.NewWords(rand.Reader); err != nil {
			return api.Invite{}, err
		}
	}
	spoken, written := words.Invitation(), code.Invitation()
	v := invite{
		secrets: [2]secret{{id: spoken.ID, key: spoken.Key}, {id: written.ID, key: written.Key}}, locator: words.Locator,
		role: role, site: req.Site, ask: !req.Yes, expires: time.Now().Add(req.Expires),
	}
	if err := i.storeLocked(ctx, append(slices.Clone(i.mu.list), v)); err != nil {
		return api.Invite{}, explain(err)
	}
	return api.Invite{Name: p2p.LocatorWords(words.Locator), Words: words.Text(), Code: text, Link: link, Role: role.String(),
		Site: req.Site, Expires: v.expires, Addresses: host.Addresses(), Anchors: i.agent.anchorAddresses()}, nil
}

// Invites lists the invitations of this device.
func (a *Agent) Invites(context.Context) ([]api.InviteState, error) {
	i := a.invites
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetOverLocked(time.Now())
	list := []api.InviteState{}
	for at := range i.mu.list {
		list = append(list, i.stateLocked(&i.mu.list[at]))
	}
	return list, nil
}

func (i *invites) stateLocked(v *invite) api.InviteState {
	i.settleLocked(v)
	s := api.InviteState{Name: p2p.LocatorWords(v.locator), Role: v.role.String(), Site: v.site, Expires: v.expires, State: api.InviteOpen,
		TriesLeft: int(maxTries - v.secrets[0].tries)}
	w := i.mu.waiting[v.id()]
	switch {
	case v.state == inviteUsed:
		s.State = api.InviteUsed
		key := i.agent.membershipKey(i.agent.records.State(), v.by)
		s.Device = &key
	case w != nil:
		s.State = api.InviteWaiting
		s.Newcomer = &api.Newcomer{Name: w.newcomer.DeviceName, Site: w.newcomer.SiteName, Fingerprint: w.newcomer.Fingerprint()}
	case time.Now().After(v.expires):
		s.State = api.InviteExpired
	case s.TriesLeft == 0:
		s.State = api.InviteBlocked
	}
	return s
}

// namedLocked finds an invitation by its name.
func (i *invites) namedLocked(name string) (int, error) {
	for at, v := range i.mu.list {
		if p2p.LocatorWords(v.locator) == name {
			return at, nil
		}
	}
	return 0, &api.Error{Code: api.CodeNotFound, Message: "there is no such invitation", Hint: "see chartmesh invite list"}
}

// WaitInvite returns an invitation when its state is another than known, or ctx ends.
func (a *Agent) WaitInvite(ctx context.Context, name, known string) (api.InviteState, error) {
	i := a.invites
	for {
		i.mu.Lock()
		i.forgetOverLocked(time.Now())
		at, err := i.namedLocked(name)
		if err != nil {
			i.mu.Unlock()
			return api.InviteState{}, err
		}
		state, changed := i.stateLocked(&i.mu.list[at]), i.mu.changed
		i.mu.Unlock()
		if state.State != known {
			return state, nil
		}
		over := time.NewTimer(max(time.Until(state.Expires), time.Second))
		select {
		case <-changed:
		case <-over.C:
		case <-ctx.Done():
			over.Stop()
			return state, api.AsError(ctx.Err())
		}
		over.Stop()
	}
}

// ConfirmInvite decides on the newcomer that waits.
func (a *Agent) ConfirmInvite(_ context.Context, name string, d api.InviteDecision) error {
	i := a.invites
	i.mu.Lock()
	defer i.mu.Unlock()
	at, err := i.namedLocked(name)
	if err != nil {
		return err
	}
	w := i.mu.waiting[i.mu.list[at].id()]
	if w == nil || w.newcomer.Fingerprint() != d.Fingerprint {
		return &api.Error{Code: api.CodeConflict, Message: "no device with this fingerprint waits to be confirmed", Hint: "see chartmesh invite list"}
	}
	select {
	case w.decided <- d.Admit:
		return nil
	default:
		return &api.Error{Code: api.CodeConflict, Message: "it is decided already"}
	}
}

// RevokeInvite ends an invitation.
func (a *Agent) RevokeInvite(ctx context.Context, name string) error {
	i := a.invites
	i.mu.Lock()
	defer i.mu.Unlock()
	at, err := i.namedLocked(name)
	if err != nil {
		return err
	}
	v := i.mu.list[at]
	if err := i.storeLocked(ctx, slices.Delete(slices.Clone(i.mu.list), at, at+1)); err != nil {
		return explain(err)
	}
	if w := i.mu.waiting[v.id()]; w != nil {
		select {
		case w.decided <- false:
		default:
		}
	}
	return nil
}
