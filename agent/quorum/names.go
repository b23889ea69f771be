package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/text/unicode/norm"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// kind says of what a name is. The numbers are stored.
type kind byte

const (
	kindLock   kind = 1
	kindCircle kind = 2
	kindItem   kind = 3
	kindRange  kind = 4
	// kindRangeItem is not stored as a name: what the number was given to stands with it.
	kindRangeItem kind = 5
)

func (k kind) String() string {
	return map[kind]string{kindLock: "lock", kindCircle: "circle", kindItem: "item", kindRange: "range", kindRangeItem: "range item"}[k]
}

// scope returns the scope under whose index key names and notes are made: the clinical records, which all members read.
func (s *Service) scope() (trust.ScopeID, error) {
	id, ok := s.cfg.Members().ScopeNamed(trust.ScopeClinical)
	if !ok {
		return id, errors.New("the practice has no clinical records")
	}
	return id, nil
}

// id returns what the quorum knows a thing by. A text that looks the same is the same.
func (s *Service) id(k kind, parts ...string) ([32]byte, error) {
	scope, err := s.scope()
	if err != nil {
		return [32]byte{}, err
	}
	same := make([]string, len(parts))
	for i, p := range parts {
		same[i] = norm.NFC.String(p)
	}
	id, err := s.cfg.Keys.QuorumName(scope, k.String(), same...)
	if err != nil {
		return id, fmt.Errorf("name a %v: %w", k, err)
	}
	return id, nil
}

// lock, circle and item are id with what each is known by later.
func (s *Service) lock(ctx context.Context, name string) (lockquorum.LockID, error) {
	id, err := s.id(kindLock, name)
	if err == nil {
		err = s.remember(ctx, kindLock, id, name)
	}
	return lockquorum.LockID(id), err
}

func (s *Service) circle(ctx context.Context, name string) (lockquorum.CircleID, error) {
	id, err := s.id(kindCircle, name)
	if err == nil {
		err = s.remember(ctx, kindCircle, id, name)
	}
	return lockquorum.CircleID(id), err
}

// item names what is numbered within a circle, so that nobody can tell that two circles number the same.
func (s *Service) item(ctx context.Context, circle, name string) (lockquorum.ItemID, error) {
	id, err := s.id(kindItem, circle, name)
	if err == nil {
		err = s.remember(ctx, kindItem, id, name)
	}
	return lockquorum.ItemID(id), err
}

// remember keeps the name behind a keyed hash, which is all that the quorum says.
func (s *Service) remember(ctx context.Context, k kind, id [32]byte, name string) error {
	if s.nameOf(k, id) != "" {
		return nil
	}
	var b storage.Batch
	b.Put(storage.QuorumName.Key(byte(k), id), marshalName(name))
	if err := s.cfg.Store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("remember a name: %w", err)
	}
	return nil
}

// nameOf returns the name behind a keyed hash; empty if this device does not know it.
func (s *Service) nameOf(k kind, id [32]byte) (name string) {
	_ = s.cfg.Store.View(func(r storage.Reader) error { // a name that does not read is one that is not known
		b, err := r.Get(storage.QuorumName.Key(byte(k), id))
		if err == nil {
			name, err = parseName(b)
		}
		return err
	})
	return name
}

// tell returns the names behind keyed hashes to a member.
func (s *Service) tell(from trust.DeviceID, list []remote.Name) []string {
	if !lockquorum.Reads(s.cfg.Members(), from) {
		return nil
	}
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = s.nameOf(kind(n.Kind), n.ID)
	}
	return names
}

// asking bounds how long others are asked for names. What nobody tells is shown by the beginning of its hash.
const asking = 2 * time.Second

// unknown is a keyed hash whose name this device does not know.
type unknown struct {
	kind   kind
	id     [32]byte
	circle string         // of an item
	by     trust.DeviceID // who may know it: who holds the lock, or asked for the number
}

// learn asks those who may know for the names behind keyed hashes, and keeps what is right.
func (s *Service) learn(ctx context.Context, list []unknown) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	left := slices.DeleteFunc(list, func(u unknown) bool { return s.nameOf(u.kind, u.id) != "" })
	var from []trust.DeviceID
	for _, v := range s.voter.Voting() {
		from = append(from, v.Device)
	}
	for _, u := range left {
		from = append(from, u.by)
	}
	asked := map[trust.DeviceID]bool{s.self: true, {}: true}
	for _, d := range from {
		if asked[d] || s.cfg.Network == nil || !s.cfg.Network.Reaches(d) {
			continue
		}
		asked[d] = true
		for part := range slices.Chunk(left, remote.MaxNames) {
			var ask []remote.Name
			for _, u := range part {
				ask = append(ask, remote.Name{Kind: byte(u.kind), ID: u.id})
			}
			names, err := s.voter.Remote(d).Names(ctx, ask)
			if err != nil {
				break
			}
			var b storage.Batch
			for i, u := range part {
				parts := []string{names[i]}
				if u.kind == kindItem {
					parts = []string{u.circle, names[i]}
				}
				if api.CheckName("name", names[i]) != nil {
					continue
				}
				if id, err := s.id(u.kind, parts...); err == nil && id == u.id {
					b.Put(storage.QuorumName.Key(byte(u.kind), u.id), marshalName(names[i]))
				}
			}
			_ = s.cfg.Store.Commit(ctx, &b) // else it is asked for again
		}
		if left = slices.DeleteFunc(left, func(u unknown) bool { return s.nameOf(u.kind, u.id) != "" }); len(left) == 0 {
			return
		}
	}
}

// marshalName writes: 1 | name.
func marshalName(name string) []byte {
	var w wire.Writer
	w.Byte(1)
	w.String(name)
	return w.Bytes()
}

func parseName(b []byte) (string, error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	name := r.String(api.MaxLockName)
	if err := r.Close(); err != nil {
		return "", err
	}
	return name, nil
}

// note is what a person says of a number or a broken lease. Members read it, voters do not.
type note struct {
	user    string
	time    time.Time
	subject string // the name of what it is about, for who does not know it
	reason  string
}

// marshal writes: 1 | user | milliseconds since 1970 | subject | reason.
func (n note) marshal() []byte {
	var w wire.Writer
	w.Byte(1)
	w.String(n.user)
	w.Varint(n.time.UnixMilli())
	w.String(n.subject)
	w.String(n.reason)
	return w.Bytes()
}

func parseNote(b []byte) (n note, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	n.user = r.String(api.MaxUser)
	n.time = time.UnixMilli(r.Varint()).UTC()
	n.subject = r.String(api.MaxLockName)
	n.reason = r.String(api.MaxNoteReason)
	if err := r.Close(); err != nil {
		return note{}, err
	}
	return n, nil
}

// about binds a note to what it is about.
func about(k kind, ids ...[32]byte) []byte {
	var w wire.Writer
	w.Byte(byte(k))
	for _, id := range ids {
		w.Raw(id[:])
	}
	return w.Bytes()
}

func (s *Service) seal(n note, context []byte) ([]byte, error) {
	scope, err := s.scope()
	if err != nil {
		return nil, err
	}
	return s.cfg.Keys.SealNote(scope, context, n.marshal())
}

// open opens a note; false if it does not.
func (s *Service) open(sealed, context []byte) (note, bool) {
	scope, err := s.scope()
	if err != nil || len(sealed) == 0 {
		return note{}, false
	}
	plain, err := s.cfg.Keys.OpenNote(scope, context, sealed)
	if err != nil {
		return note{}, false
	}
	n, err := parseNote(plain)
	return n, err == nil
}
