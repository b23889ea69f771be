package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	Code         string
	Site, Device string
	Logger       *slog.Logger
}

// Join redeems an invitation: it asks the inviter, which must be online, and makes the folder. After a failure it may be
// called again with the same code.
func Join(ctx context.Context, dir string, opts JoinOptions) error {
	code, err := p2p.ParseCode(opts.Code)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: "this is not an invitation code: " + err.Error(), Err: err,
			Hint: "`chartmesh invite` on a device of the practice prints one"}
	}
	keys, err := keyring.Create(dir, nil)
	if errors.Is(err, keyring.ErrExists) {
		if keys, err = keyring.Open(dir, nil); err == nil {
			err = unfinished(dir, keys)
		}
	}
	if err != nil {
		return err
	}
	res, err := p2p.Join(ctx, p2p.JoinConfig{
		Identity: identity{keys}, Code: code, Logger: opts.Logger,
		Newcomer: p2p.Newcomer{HPKE: keys.HPKEPublic(), DeviceName: opts.Device, SiteName: opts.Site},
	})
	switch {
	case errors.Is(err, p2p.ErrRefused):
		return &api.Error{Code: api.CodeForbidden, Message: err.Error(), Err: err, Hint: "ask for a new code"}
	case err != nil:
		return &api.Error{Code: api.CodeUnavailable, Message: "the inviting device cannot be reached", Err: err,
			Hint: "its agent must be running and reachable; then try again with the same code"}
	}
	var entries []trust.Entry
	for _, b := range res.Entries {
		e, err := trust.ParseEntry(b)
		if err != nil {
			return fmt.Errorf("read membership log: %w", err)
		}
		entries = append(entries, e)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) > 0 {
		return fmt.Errorf("read membership log: %w", rejected[0].Err)
	}
	if _, ok := st.Member(keys.Device()); !ok {
		return errors.New("the inviter's answer does not make this device a member")
	}
	return adopt(ctx, dir, keys, entries, res.Inviter)
}

// unfinished checks that a folder has keys but no practice yet.
func unfinished(dir string, keys *keyring.Keyring) (err error) {
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
