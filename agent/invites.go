package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

const (
	inviteLasts  = 24 * time.Hour
	maxInvites   = 64
	maxTries     = 16
	inviteFormat = 1
)

// invites are the invitations of this device. Of a code's secret only what p2p derives from it is stored: the store does
// not tell the code.
type invites struct {
	agent *Agent
	mu    struct {
		sync.Mutex
		list []invite
	}
}

type invite struct {
	id      p2p.InviteID
	key     p2p.JoinKey
	tries   uint64 // that named it without its key
	role    trust.Role
	expires time.Time
	used    bool
	by      trust.DeviceID // who used it
	hpke    [32]byte       // hash of its key
}

func openInvites(a *Agent) (*invites, error) {
	i := &invites{agent: a}
	b, err := a.records.Small(storage.Meta.Key(replica.MetaInvites))
	if err != nil || b == nil {
		return i, err
	}
	if i.mu.list, err = parseInvites(b); err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	return i, nil
}

func parseInvites(b []byte) (list []invite, err error) {
	r := wire.NewReader(b)
	if r.Byte() != inviteFormat {
		r.Fail("version")
	}
	for range r.Uvarint(maxInvites) {
		var v invite
		r.Fixed(v.id[:])
		r.Fixed(v.key[:])
		v.tries = r.Uvarint(maxTries)
		v.role = trust.Role(r.Byte())
		v.expires = time.UnixMilli(r.Varint())
		used := r.Byte()
		if v.used = used == 1; used > 1 {
			r.Fail("truth value")
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
		w.Raw(v.id[:])
		w.Raw(v.key[:])
		w.Uvarint(v.tries)
		w.Byte(byte(v.role))
		w.Varint(v.expires.UnixMilli())
		if v.used {
			w.Byte(1)
		} else {
			w.Byte(0)
		}
		w.Raw(v.by[:])
		w.Raw(v.hpke[:])
	}
	return w.Bytes()
}

// storeLocked makes the list durable. The lock is held over the write on purpose: an invitation that is being redeemed
// must not be redeemed again before it is durably used.
func (i *invites) storeLocked(ctx context.Context) error {
	return i.agent.records.PutSmall(ctx, storage.Meta.Key(replica.MetaInvites), marshalInvites(i.mu.list))
}

func (i *invites) forgetExpiredLocked(now time.Time) {
	i.mu.list = slices.DeleteFunc(i.mu.list, func(v invite) bool { return now.After(v.expires) })
}

// Open reports whether an invitation is open, or was used so lately that its newcomer may still ask again.
func (i *invites) Open() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetExpiredLocked(time.Now())
	return len(i.mu.list) > 0
}

// Redeem admits a newcomer. The invitation is durably used before the membership log is.
func (i *invites) Redeem(ctx context.Context, req p2p.Request) (p2p.Response, error) {
	a := i.agent
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetExpiredLocked(time.Now())
	at := slices.IndexFunc(i.mu.list, func(v invite) bool { return v.id == req.Invite })
	if at < 0 {
		return p2p.Response{}, errors.New("no such invitation")
	}
	v := i.mu.list[at]
	if v.tries >= maxTries {
		return p2p.Response{}, errors.New("too many tries")
	}
	if !req.Proves(v.key) {
		i.mu.list[at].tries++
		return p2p.Response{}, errors.Join(errors.New("wrong code"), i.storeLocked(ctx))
	}
	hpke := sha256.Sum256(req.Newcomer.HPKE)
	if v.used && (v.by != req.Newcomer.Device || v.hpke != hpke) {
		return p2p.Response{}, errors.New("the invitation was used")
	}
	if _, member := a.records.State().Member(req.Newcomer.Device); member {
		if !v.used {
			return p2p.Response{}, errors.New("the device is a member already")
		}
		return p2p.Response{Key: v.key, Entries: a.records.EntriesSince(nil)}, nil
	}
	v.used, v.by, v.hpke = true, req.Newcomer.Device, hpke
	i.mu.list[at] = v
	if err := i.storeLocked(ctx); err != nil {
		return p2p.Response{}, fmt.Errorf("store invitation: %w", err)
	}
	entries, err := a.records.Admit(ctx, func(st *trust.State) (trust.Entry, error) {
		return a.keys.Admit(st, keyring.Newcomer{
			Device: req.Newcomer.Device, HPKE: req.Newcomer.HPKE, Role: v.role,
			DeviceName: req.Newcomer.DeviceName, SiteName: req.Newcomer.SiteName, Now: time.Now(),
		})
	})
	if err != nil {
		return p2p.Response{}, err
	}
	a.log.Info("a device joined the practice", "device", req.Newcomer.Device)
	if host := a.host.Load(); host != nil {
		host.MembershipChanged()
	}
	return p2p.Response{Key: v.key, Entries: entries}, nil
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
	if req.Expires > 30*24*time.Hour {
		return api.Invite{}, &api.Error{Code: api.CodeInvalid, Message: "an invitation lasts at most 30 days"}
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
	i := a.invites
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forgetExpiredLocked(time.Now())
	if len(i.mu.list) >= maxInvites {
		return api.Invite{}, &api.Error{Code: api.CodeUnavailable, Message: "too many invitations are open", Hint: "wait until some expire"}
	}
	i.mu.list = append(i.mu.list, invite{id: code.Invite(), key: code.Key(), role: role, expires: code.Expires})
	if err := i.storeLocked(ctx); err != nil {
		return api.Invite{}, fmt.Errorf("store invitation: %w", err)
	}
	return api.Invite{Code: text, Expires: code.Expires}, nil
}
