package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// InitOptions name a new practice and its first device.
type InitOptions struct{ Practice, Site, Device string }

// Founded is what Init made. The recovery code is not stored anywhere.
type Founded struct{ RecoveryCode, PeerID string }

// Init founds a practice in a new folder: its keys, its membership log with this device as administrator, its store.
func Init(dir string, opts InitOptions) (_ Founded, err error) {
	keys, err := keyring.Create(dir, nil)
	if errors.Is(err, keyring.ErrExists) {
		return Founded{}, &api.Error{Code: api.CodeConflict, Message: dir + " holds a practice already", Err: err,
			Hint: "name another folder with --data"}
	}
	if err != nil {
		return Founded{}, fmt.Errorf("create keyring: %w", err)
	}
	entry, code, err := keys.Found(keyring.FoundOptions{Practice: opts.Practice, Site: opts.Site, Device: opts.Device, Now: time.Now()})
	if err != nil {
		return Founded{}, fmt.Errorf("found practice: %w", err)
	}
	if err := adopt(context.Background(), dir, keys, []trust.Entry{entry}); err != nil {
		return Founded{}, err
	}
	id, err := p2p.PeerID(keys.Device())
	if err != nil {
		return Founded{}, err
	}
	return Founded{RecoveryCode: code, PeerID: id.String()}, nil
}

// adopt makes the store around a membership log.
func adopt(ctx context.Context, dir string, keys *keyring.Keyring, entries []trust.Entry, peers ...p2p.PeerAddr) (err error) {
	claim, err := settled(dir, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, claim.Close()) }()
	store, err := storage.Open(storeIn(dir), keys.StoreKey(), storage.Options{})
	if err != nil {
		return openError(dir, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var b storage.Batch
	for _, p := range peers {
		b.Put(storage.Peer.Key(p.Device), marshalPeer(peerRecord{Addrs: p.Addrs}))
	}
	if len(peers) > 0 {
		if err := store.Commit(ctx, &b); err != nil {
			return fmt.Errorf("remember who is where: %w", err)
		}
	}
	return replica.Adopt(ctx, store, entries)
}

// JoinOptions bring a new device into a practice.
type JoinOptions struct {
	Code         string   // words, a code or a link
	Site, Device string   // the site may be left to the invitation
	Address      string   // where the inviter is, if it is not to be looked for: IP:PORT or a multiaddress
	Anchor       []string // where the practice's anchor is, through which it is asked instead: multiaddresses with /p2p/
	Logger       *slog.Logger
	Timeout      time.Duration // for finding the inviter; zero: half a minute
	// Begun is told this device's fingerprint before it asks, and Waiting when somebody is asked to confirm it. Either may be
	// nil.
	Begun   func(fingerprint string)
	Waiting func()
}

// Joined is what a device has become.
type Joined struct{ Device, Site, Role string }

// Join redeems an invitation: it asks the inviter, which must be online, and makes the folder. After a failure it may be
// called again with the same code.
func Join(ctx context.Context, dir string, opts JoinOptions) (Joined, error) {
	inv, err := p2p.ParseInvitation(opts.Code)
	if err != nil {
		return Joined{}, &api.Error{Code: api.CodeInvalid, Message: err.Error(), Err: err,
			Hint: "`chartmesh invite` on a device of the practice prints five words and a code; nothing was sent, no try is lost"}
	}
	var addrs []string
	var through p2p.PeerAddr
	if len(opts.Anchor) > 0 {
		if through.Device, through.Addrs, err = anchorAt(opts.Anchor); err != nil {
			return Joined{}, err
		}
	}
	if opts.Address != "" {
		if addrs, err = p2p.Addresses(opts.Address); err != nil {
			return Joined{}, &api.Error{Code: api.CodeInvalid, Message: err.Error(), Err: err}
		}
	}
	keys, err := keyring.Create(dir, nil)
	if errors.Is(err, keyring.ErrExists) {
		if keys, err = keyring.Open(dir, nil); err == nil {
			err = unfinished(dir, keys)
		}
	}
	if err != nil {
		return Joined{}, err
	}
	n := p2p.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), DeviceName: opts.Device, SiteName: opts.Site}
	if opts.Begun != nil {
		opts.Begun(n.Fingerprint())
	}
	res, err := p2p.Join(ctx, p2p.JoinConfig{
		Identity: identity{keys}, Invitation: inv, Newcomer: n, Addrs: addrs, Through: through, Logger: opts.Logger, Timeout: opts.Timeout, Waiting: opts.Waiting,
	})
	if err != nil {
		return Joined{}, explainJoin(ctx, err)
	}
	var entries []trust.Entry
	for _, b := range res.Entries {
		e, err := trust.ParseEntry(b)
		if err != nil {
			return Joined{}, fmt.Errorf("read membership log: %w", err)
		}
		entries = append(entries, e)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) > 0 {
		return Joined{}, fmt.Errorf("read membership log: %w", rejected[0].Err)
	}
	self, ok := st.Member(keys.Device())
	inviter, known := st.Member(res.Inviter.Device)
	switch {
	case !ok || self.Role != res.Role || !slices.Equal(self.HPKE, n.HPKE):
		return Joined{}, errors.New("the inviter's answer does not make this device what was agreed on")
	case !known || sha256.Sum256(inviter.HPKE) != res.HPKE:
		return Joined{}, errors.New("the inviter's answer does not know the inviter")
	}
	if err := adopt(ctx, dir, keys, entries, res.Inviter); err != nil {
		return Joined{}, err
	}
	if err := keys.Learn(st); err != nil {
		return Joined{}, fmt.Errorf("open the practice's keys: %w", err)
	}
	joined := Joined{Role: self.Role.String()}
	joined.Device, joined.Site = keys.Names(st, keys.Device())
	return joined, nil
}

func explainJoin(ctx context.Context, err error) error {
	why, refused := errors.AsType[p2p.Refusal](err)
	e := &api.Error{Code: api.CodeForbidden, Message: why.Error(), Err: err, Hint: "ask for a new code"}
	switch {
	case refused && why == p2p.RefusedNow:
		e.Code, e.Hint = api.CodeUnavailable, "look at its log and its disk, then try again with the same code"
	case refused && why == p2p.RefusedSite:
		e.Code, e.Hint = api.CodeInvalid, "name it with --site, and use the same code again"
	case refused && why == p2p.RefusedUnknown:
		e.Hint = "compare it with the other screen; a wrong code can be tried 5 times"
	case refused:
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, p2p.ErrNoRelay):
		e.Code, e.Message = api.CodeUnavailable, p2p.ErrNoRelay.Error()
		e.Hint = "is the invitation still open, and its agent running and connected to the anchor? Then try again with the same code"
	case errors.Is(err, p2p.ErrNobody):
		e.Code, e.Message = api.CodeUnavailable, p2p.ErrNobody.Error()+" on this network"
		e.Hint = "is the invitation still open, and its agent running in the same network? Else name its address with --address, or take the code or link"
	default:
		e.Code, e.Message = api.CodeUnavailable, "the inviting device cannot be reached, or does not know the code"
		e.Hint = "its agent must be running and reachable, and the invitation open; then try again with the same code"
	}
	return e
}

// settled claims the folder and brings a change of the store's key that was cut short to its end.
func settled(dir string, keys *keyring.Keyring) (io.Closer, error) {
	claim, err := lockForCommand(dir)
	if err != nil {
		return nil, err
	}
	r := rotation{dir: dir, keys: keys}
	if err := r.settle(); err != nil {
		return nil, openError(dir, errors.Join(err, claim.Close()))
	}
	return claim, nil
}

// unfinished checks that a folder has keys but no practice yet. It makes no store.
func unfinished(dir string, keys *keyring.Keyring) (err error) {
	claim, err := settled(dir, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, claim.Close()) }()
	if !there(storeIn(dir)) {
		return nil
	}
	store, err := storage.Open(storeIn(dir), keys.StoreKey(), storage.Options{})
	if err != nil {
		return openError(dir, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	found := false
	if err := store.View(func(v storage.Reader) error {
		return v.Scan(storage.Member.All(), nil, func(_, _ []byte) error {
			found = true
			return storage.ErrStop
		})
	}); err != nil {
		return err
	}
	if found {
		return &api.Error{Code: api.CodeConflict, Message: dir + " belongs to a practice already", Hint: "name another folder with --data"}
	}
	return nil
}
