// Package anchor is the always-on peer of practices, which holds ciphertext only.
//
// Nouns: an [Anchor] is an open folder with an identity and a store. A practice is what it holds of one: the membership log and the
// logs of sealed chunks. A token ([p2p.AnchorToken]) is how an administrator of a practice asks for it.
//
// Guarantees: the package reaches no key that opens a chunk, and no code that could (the linker shows it: it is built without cgo). It
// stores and relays only what is signed by members and stands in its log, and deletes of it only what every device that writes has found
// packed, and what two administrators erase. It reads all of it once a week, and asks again for what its disk has lost. It votes on leases
// and numbers for practices that ask it to, under keyed hashes. Practices never meet: each has keys of its own in the store, and is synced
// with its own devices alone. Who is not named by the membership log of a practice gets nothing of it.
//
// What the devices make of it is theirs.
package anchor

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Config says which folder to open and how. Dir is needed.
type Config struct {
	Dir    string
	State  string   // folder outside of Dir for how far each practice's voter came, by which a Dir that was put back is known; empty: that is not kept
	Listen []string // multiaddrs; nil: p2p.DefaultListen
	Public []string // multiaddrs under which it is reached from outside, told in the place of its own; nil: its own
	Region string   // where it stands, for people
	Quota  Quota    // of each practice of which nothing else is said; see DefaultQuota
	// MetricsPerPractice has Metrics tell each practice's figures, under the beginning of its ID.
	MetricsPerPractice bool

	Version   string
	Logger    *slog.Logger // nil: none
	LeastFree uint64       // bytes of the disk that are left free; 0: storage.DefaultLeastFree
	// Grace is how long what a checkpoint covers is kept, though every device has found it good; 0: DefaultGrace.
	Grace time.Duration
}

// maxRegion is how long the region may be.
const maxRegion = 64

func (c Config) validate() error {
	if err := c.Quota.validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if len(c.Region) > maxRegion || !utf8.ValidString(c.Region) || strings.ContainsFunc(c.Region, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: the region has at most %d printable characters", ErrConfig, maxRegion)
	}
	return nil
}

// Anchor is an open folder. Its methods are safe for concurrent use.
type Anchor struct {
	cfg   Config
	log   *slog.Logger
	self  *identity
	store storage.Store
	host  *p2p.Host

	metrics  *metrics
	running  atomic.Bool
	quorums  *quorums
	sweep    chan struct{} // a practice was dropped
	deleting atomic.Int64  // dropped practices of which something is left

	// admission is held while a practice is admitted, dropped or given a quota, over the write: none of what mu guards waits for the disk.
	admission sync.Mutex

	mu struct {
		sync.Mutex
		practices map[trust.EntryID]*practice
		of        byDevice                     // that a device may come as; the first is tried next
		former    byDevice                     // that have removed a device
		roots     map[trust.DeviceID]*practice // by the keys that follow from a recovery code, also from one that was replaced
		next      uint64                       // number of the next practice
	}
}

// ID is a practice's: that of its founding entry.
type ID = trust.EntryID

// ErrConfig says that a Config makes no sense.
var ErrConfig = errors.New("this cannot be run")

// Errors of Admit, and of what is asked of one practice.
var (
	ErrUnknown   = errors.New("no practice is admitted that has this ID, or begins so")
	ErrAmbiguous = errors.New("the IDs of several practices begin so")

	ErrOtherAnchor = errors.New("the token is for another anchor")
	ErrAdmitted    = errors.New("the practice is admitted already")
)

// Open opens the folder, which it creates for this user alone, and binds the sockets.
func Open(ctx context.Context, cfg Config) (_ *Anchor, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LeastFree == 0 {
		cfg.LeastFree = storage.DefaultLeastFree
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	a := &Anchor{cfg: cfg, log: cfg.Logger, sweep: make(chan struct{}, 1)}
	a.metrics, a.quorums = newMetrics(a), newQuorums(a)
	a.mu.practices, a.mu.of, a.mu.former, a.mu.roots = map[trust.EntryID]*practice{}, byDevice{}, byDevice{}, map[trust.DeviceID]*practice{}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if a.self, err = openIdentity(cfg.Dir); err != nil {
		return nil, err
	}
	if a.store, err = storage.Open(filepath.Join(cfg.Dir, "store"), a.self.Derive("store 1"), storage.Options{
		Logger: cfg.Logger, LeastFree: cfg.LeastFree,
	}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.store.Close())
		}
	}()
	if err = a.load(ctx); err != nil {
		return nil, err
	}
	a.host, err = p2p.Open(p2p.Config{
		Identity: a.self, ReplicaOf: a.replicaOf, Admit: a.admits, Enters: a.enters, Root: a.rootKey,
		Recovered: a.recovered, Readmission: readmission{a}, Relay: relay{a}, Quorum: a.quorums.serve, Listen: cfg.Listen, Public: cfg.Public, Logger: cfg.Logger,
		Blind: func(trust.DeviceID) bool { return true }, Version: cfg.Version,
		Schema: session.Range{Min: 1, Max: 1<<16 - 1}, // it reads no document
	})
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	return a, nil
}

// load reads which practices are admitted, and what is held of them.
func (a *Anchor) load(ctx context.Context) error {
	left, next, err := a.readDropped()
	if err != nil {
		return err
	}
	a.mu.next = next
	a.deleting.Store(int64(len(left)))
	records := map[trust.EntryID]record{}
	if err := a.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Practice.All(), nil, func(key, value []byte) error {
			id, err := storage.Practice.Parse(key)
			if err != nil {
				return err
			}
			r, err := parseRecord(value)
			if err != nil {
				return fmt.Errorf("practice %v: %w", trust.EntryID(id), err)
			}
			records[id] = r
			return nil
		})
	}); err != nil {
		return fmt.Errorf("read practices: %w", err)
	}
	for _, id := range slices.SortedFunc(maps.Keys(records), func(x, y trust.EntryID) int { return cmp.Compare(records[x].Number, records[y].Number) }) {
		p := a.practice(id, records[id])
		if p.broken == nil {
			p.broken = p.Open(ctx)
		}
		if p.broken != nil { // the others do not suffer for it
			a.log.Error("a practice is damaged and is not held", "practice", p.id, "error", p.broken)
		}
		a.add(p)
	}
	return nil
}

// list returns the practices in the order in which they were admitted.
func (a *Anchor) list() []*practice {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listLocked()
}

func (a *Anchor) listLocked() []*practice {
	return slices.SortedFunc(maps.Values(a.mu.practices), func(x, y *practice) int { return cmp.Compare(x.Number, y.Number) })
}

// find returns a practice; nil if it is not admitted.
func (a *Anchor) find(id trust.EntryID) *practice {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.practices[id]
}

// leastPrefix is how much of a practice's ID names it.
const leastPrefix = 4

// Find returns the practice whose ID begins with text, in hexadecimal. Errors are ErrUnknown and ErrAmbiguous.
func (a *Anchor) Find(text string) (found trust.EntryID, err error) {
	err = ErrUnknown
	if text = strings.ToLower(text); len(text) < leastPrefix {
		return found, fmt.Errorf("%w: give at least %d characters", err, leastPrefix)
	}
	for _, p := range a.list() {
		if strings.HasPrefix(hex.EncodeToString(p.id[:]), text) {
			if err == nil {
				return found, ErrAmbiguous
			}
			found, err = p.id, nil
		}
	}
	return found, err
}

func (a *Anchor) add(p *practice) {
	a.mu.Lock()
	a.mu.practices[p.id] = p
	a.mu.next = max(a.mu.next, p.Number+1)
	a.mu.Unlock()
	a.index(p)
}

// index notes which devices may come as a practice's.
func (a *Anchor) index(p *practice) {
	devices, former := map[trust.DeviceID]bool{}, map[trust.DeviceID]bool{}
	var roots []trust.DeviceID
	st := p.State()
	if st != nil {
		for _, m := range st.Members() {
			devices[m.Device] = true
		}
		for _, d := range st.Formers() {
			former[d] = true
		}
		roots = signing(st)
	}
	if p.Awaited() {
		devices[p.By] = true
	}
	if a.put(p, devices, former, roots) {
		a.lost(p) // who does not belong any more is told nothing more, although it may belong to another practice
	}
}

// signing returns the root keys of a practice that have signed something in its membership log: any administrator can write another's.
func signing(st *trust.State) []trust.DeviceID {
	return slices.DeleteFunc(st.Roots(), func(root trust.DeviceID) bool {
		return !slices.ContainsFunc(st.Entries(), func(e trust.Entry) bool { return e.Proves(root) })
	})
}

// put notes the devices, former devices and root keys of a practice, and reports whether a device is not of it any more.
func (a *Anchor) put(p *practice, devices, former map[trust.DeviceID]bool, roots []trust.DeviceID) (less bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.practices[p.id] != p {
		return false // it was dropped
	}
	for _, root := range roots {
		if a.mu.roots[root] == nil {
			a.mu.roots[root] = p
		}
	}
	a.mu.former.put(p, former)
	return a.mu.of.put(p, devices)
}

// lost begins the sessions of a practice anew.
func (a *Anchor) lost(p *practice) {
	if a.host != nil {
		a.host.Renew(p)
	}
}

// proven notes that a device speaks as one of a practice. Any practice can name any device among its own, so that one device may be
// named by several: it is taken for one of each in turn, until it has spoken.
func (a *Anchor) proven(p *practice, d trust.DeviceID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.mu.of[d]
	if i := slices.Index(list, p); i > 0 {
		list = slices.Clone(list)
		list[0], list[i] = list[i], list[0]
		a.mu.of[d] = list
	}
}

// admits reports whether a device is let in.
func (a *Anchor) admits(d trust.DeviceID) bool {
	return slices.ContainsFunc(a.comesAs(d), func(p *practice) bool { return p.admits(d) })
}

// comesAs lists the practices that a device may come as.
func (a *Anchor) comesAs(d trust.DeviceID) []*practice {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.of[d]
}

// relay passes bytes on between devices of one practice.
type relay struct{ a *Anchor }

func (r relay) Serves(d trust.DeviceID) bool { return r.a.admits(d) }

func (r relay) Passes(from, to trust.DeviceID) bool {
	return slices.ContainsFunc(r.a.comesAs(from), func(p *practice) bool { return p.admits(from) && p.admits(to) })
}

// rootKey says what a key is to a practice as to recovery.
func (a *Anchor) rootKey(id trust.DeviceID) p2p.RootKey {
	a.mu.Lock()
	p := a.mu.roots[id]
	a.mu.Unlock()
	if p == nil || !p.IsAnchor() {
		return p2p.RootNone
	}
	if root, _ := p.State().Root(); root != id {
		return p2p.RootReplaced
	}
	return p2p.RootInForce
}

// recovered returns the practice of a key that follows from a recovery code.
func (a *Anchor) recovered(root trust.DeviceID) session.Replica {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.mu.roots[root]; p != nil {
		return p
	}
	return nil
}

// replicaOf returns the practice that a device is taken for, for a session that begins.
func (a *Anchor) replicaOf(d trust.DeviceID) session.Replica {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.mu.of[d]
	for i, p := range list {
		if p.admits(d) {
			if len(list) > 1 { // if it is another's, that one is tried next
				a.mu.of[d] = slices.Concat(list[:i], list[i+1:], list[i:i+1])
			}
			return p
		}
	}
	return nil
}

// fullEvery is how often the anchor looks whether its disk is full.
const fullEvery = 2 * time.Second

// Run serves until ctx ends. It runs once.
func (a *Anchor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { a.watchRoom(ctx) })
	watching.Go(func() { a.retain(ctx) })
	watching.Go(func() { a.scrub(ctx) })
	watching.Go(func() { a.sweepDropped(ctx) })
	watching.Go(func() { a.quorums.run(ctx) })
	a.running.Store(true)
	err := a.host.Run(ctx)
	a.running.Store(false)
	cancel()
	watching.Wait()
	return err
}

// watchRoom tells the devices when the disk is full: they show it, and send nothing meanwhile.
func (a *Anchor) watchRoom(ctx context.Context) {
	tick := time.NewTicker(fullEvery)
	defer tick.Stop()
	was, usedUp := false, map[*practice]bool{}
	for {
		full := a.full()
		if a.host.SetFull(full); full != was {
			was = full
			a.log.Warn("the room on the disk has changed: while it is full nothing is taken", "full", full)
		}
		for _, p := range a.list() {
			if now := p.UsedUp(); now != usedUp[p] {
				if usedUp[p] = now; !now {
					delete(usedUp, p)
				}
				a.host.FullChanged(p)
				a.log.Warn("a practice's share has changed: while it is used up nothing more of it is taken", "practice", p.id, "used_up", now)
			}
		}
		maps.DeleteFunc(usedUp, func(p *practice, _ bool) bool { return p.dropped.Load() })
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// full reports whether the store takes nothing.
func (a *Anchor) full() bool {
	g, ok := a.store.(storage.Guard)
	if !ok {
		return false
	}
	_, _, full, err := g.Room()
	return err == nil && full
}

// Close releases the sockets and closes the folder. Run must have returned.
func (a *Anchor) Close() error {
	return errors.Join(a.host.Close(), a.store.Close())
}

// Device returns the anchor's public key.
func (a *Anchor) Device() trust.DeviceID { return a.self.Device() }

// Addresses lists the multiaddrs at which it listens, with /p2p/.
func (a *Anchor) Addresses() []string { return a.host.Addresses() }

// Admit admits the practice that a token names. Errors are p2p.ErrToken, ErrOtherAnchor and ErrAdmitted.
func (a *Anchor) Admit(ctx context.Context, text string) (Practice, error) {
	token, err := p2p.ParseAnchorToken(text)
	if err != nil {
		return Practice{}, err
	}
	if token.Anchor != a.self.Device() {
		return Practice{}, ErrOtherAnchor
	}
	a.admission.Lock()
	defer a.admission.Unlock()
	a.mu.Lock()
	known, number := a.mu.practices[token.Practice] != nil, a.mu.next
	a.mu.Unlock()
	if known {
		return Practice{}, ErrAdmitted
	}
	// A practice that was dropped is another one now: its old number is never given again.
	p := a.practice(token.Practice, record{Number: number, By: token.Device, Admitted: time.Now().UTC().Truncate(time.Millisecond)})
	if p.broken != nil {
		return Practice{}, fmt.Errorf("admit practice: %w", p.broken)
	}
	var b storage.Batch
	b.Put(storage.Practice.Key(p.id), p.record.marshal())
	if err := a.store.Commit(ctx, &b); err != nil {
		return Practice{}, fmt.Errorf("admit practice: %w", err)
	}
	a.add(p)
	a.log.Info("a practice was admitted", "practice", p.id)
	return p.status(), nil
}
