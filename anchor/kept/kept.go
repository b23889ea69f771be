// Package kept holds one practice as an anchor does: its membership log, and its logs as sealed chunks, over a store and without a network.
//
// Nouns: a [Practice] is what is held of one. It is the replica that the sessions of its devices read and write.
//
// Guarantees: only what is signed by members and stands in its log is taken, and deleted of it only what every device that writes has found
// packed, or two administrators erase. The founding entry by which the practice was admitted is what all else is held against.
//
// Which practices are admitted, who may connect, and what each may take is the anchor's.
package kept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/lockquorum/seen"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Signer is the anchor that holds a practice.
type Signer interface {
	Device() trust.DeviceID
	// SignAck signs what the anchor says that it holds.
	SignAck(message []byte) []byte
}

// Config says whose practice is held, and where. All but Logger, Now and the functions that are told something is needed.
type Config struct {
	ID    trust.EntryID  // of the founding entry
	By    trust.DeviceID // who brings the membership log
	Self  Signer
	Store storage.Store // stays the caller's to close

	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now

	// Changed is told when devices belong that did not, or do not any more.
	Changed func()
	// Lost is told when less is claimed than before: sessions must begin anew.
	Lost func()
	// Proven is told when a device has spoken as one of this practice.
	Proven func(trust.DeviceID)
}

// Practice is one practice as an anchor holds it. Its methods are safe for concurrent use, but Open and Settle.
type Practice struct {
	cfg        Config
	membership sync.Mutex           // held while entries are added
	held       atomic.Pointer[held] // nil until its membership log has come
	retention  retention
}

// held is what there is once the membership log has come.
type held struct {
	state atomic.Pointer[trust.State]
	logs  *logs.Set
	seen  *seen.Keeper // how far the practice's quorum was seen to be
}

var _ session.Replica = (*Practice)(nil)

// ErrForeign says that a membership log is another practice's.
var ErrForeign = errors.New("it is another practice's membership log")

// New makes a practice of which nothing is read yet.
func New(cfg Config) *Practice {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, f := range []*func(){&cfg.Changed, &cfg.Lost} {
		if *f == nil {
			*f = func() {}
		}
	}
	if cfg.Proven == nil {
		cfg.Proven = func(trust.DeviceID) {}
	}
	return &Practice{cfg: cfg}
}

// Open reads what is stored of the practice.
func (p *Practice) Open(ctx context.Context) error {
	var st *trust.State
	err := p.cfg.Store.View(func(v storage.Reader) (err error) {
		st, err = logs.ReadMembers(v)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil // it was admitted, and nobody has come yet
	}
	if err != nil {
		return fmt.Errorf("open practice %v: %w", p.cfg.ID, err)
	}
	return p.begin(ctx, st)
}

// begin holds the logs of a practice whose membership log is here.
func (p *Practice) begin(ctx context.Context, st *trust.State) error {
	h := new(held)
	h.state.Store(st)
	var damaged []*logs.Unreadable
	var err error
	if h.seen, err = seen.Open(seen.Config{Store: p.cfg.Store, Members: h.state.Load, Logger: p.cfg.Logger}); err != nil {
		return fmt.Errorf("open practice %v: %w", p.cfg.ID, err)
	}
	if h.logs, damaged, err = logs.Open(ctx, logs.Config{Store: p.cfg.Store, State: h.state.Load, Settles: true, Logger: p.cfg.Logger, Now: p.cfg.Now}); err != nil {
		return fmt.Errorf("open practice %v: %w", p.cfg.ID, err)
	}
	p.held.Store(h)
	for _, bad := range damaged {
		if err := p.takeBack(ctx, bad); err != nil {
			return fmt.Errorf("open practice %v: %w", p.cfg.ID, err)
		}
	}
	return nil
}

// State returns the membership; nil before its log has come.
func (p *Practice) State() *trust.State {
	if h := p.held.Load(); h != nil {
		return h.state.Load()
	}
	return nil
}

// IsAnchor reports whether this is an anchor of the practice, by its membership log.
func (p *Practice) IsAnchor() bool {
	st := p.State()
	return st != nil && st.IsAnchor(p.cfg.Self.Device())
}

// Admits reports whether a device is let in as one of this practice: its members, as long as this is one of its anchors, and who
// shall bring the membership log.
func (p *Practice) Admits(d trust.DeviceID) bool {
	st := p.State()
	if st == nil || d == p.cfg.By && p.brings(st) {
		return d == p.cfg.By
	}
	_, member := st.Member(d)
	return member && st.IsAnchor(p.cfg.Self.Device())
}

// Awaited reports whether By is let in whether it belongs or not.
func (p *Practice) Awaited() bool {
	st := p.State()
	return st == nil || p.brings(st)
}

// brings reports whether the device that the token names has still to bring what makes it a member of the practice, and this an anchor
// of it. A membership log comes in many frames.
func (p *Practice) brings(st *trust.State) bool {
	_, member := st.Member(p.cfg.By)
	_, removed := st.Removed(p.cfg.By)
	_, left := st.Removed(p.cfg.Self.Device())
	return !removed && !left && !(member && st.IsAnchor(p.cfg.Self.Device()))
}

// Hello describes what is held: of each scope that the peer reads, as long as this is an anchor of the practice.
func (p *Practice) Hello(peer trust.DeviceID) session.Local {
	l := session.Local{Practice: p.cfg.ID}
	h := p.held.Load()
	if h == nil {
		return l
	}
	st := h.state.Load()
	l.Heads = st.Heads()
	if !st.IsAnchor(p.cfg.Self.Device()) {
		return l
	}
	h.logs.Memory.Lock()
	defer h.logs.Memory.Unlock()
	for _, s := range st.Scopes() {
		if st.MayRead(peer, s.ID) {
			l.Scopes = append(l.Scopes, session.ScopeDigest{Scope: s.ID, Digest: session.Digest{VectorHash: h.logs.Memory.HashLocked(s.ID)}})
		}
	}
	return l
}

// Vector returns what is durable of a scope.
func (p *Practice) Vector(scope trust.ScopeID) chunk.Vector {
	if h := p.held.Load(); h != nil {
		return h.logs.Vector(scope)
	}
	return nil
}

// EntriesSince returns the membership entries that are not known from heads, parents first.
func (p *Practice) EntriesSince(heads []trust.EntryID) (out [][]byte) {
	if st := p.State(); st != nil {
		for _, e := range st.Since(heads) {
			out = append(out, e.Bytes())
		}
	}
	return out
}

// AddEntries takes membership entries of a device. The first must have the founding entry among them by which the practice was admitted:
// all others are held against it.
func (p *Practice) AddEntries(ctx context.Context, from trust.DeviceID, entries [][]byte) error {
	list, err := logs.ParseEntries(from, entries)
	if err != nil || len(list) == 0 {
		return err
	}
	p.membership.Lock()
	defer p.membership.Unlock()
	var b storage.Batch
	h, st := p.held.Load(), p.State()
	if h == nil {
		if !slices.ContainsFunc(list, func(e trust.Entry) bool { return e.Kind() == trust.KindFound }) {
			return nil // it comes out of its turn: the next HELLO asks again
		}
		if st, err = p.founded(&b, list); err != nil {
			return fmt.Errorf("membership log from %v: %w", from, err)
		}
	} else {
		next, errs := st.WithAll(list)
		logs.PutEntries(&b, from, list, errs, p.cfg.Logger)
		st = next
	}
	switch err := p.adopt(ctx, from, h, st, &b); {
	case errors.Is(err, errTooLong):
		p.cfg.Logger.Warn("what came of a membership log is left out", "error", err)
		return nil
	case errors.Is(err, storage.ErrNoRoom):
		return nil // the next HELLO asks again
	default:
		return err
	}
}

// Former reports whether a device belonged to the practice, and was removed.
func (p *Practice) Former(d trust.DeviceID) bool {
	st := p.State()
	return st != nil && st.Former(d) && !p.Admits(d)
}

// Readmit takes the membership entries that a former device brings if with them it is let in: it belongs, and this is an anchor of the
// practice. It reports whether it is let in now. Otherwise none is taken.
func (p *Practice) Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error) {
	list, err := logs.ParseEntries(from, entries)
	if err != nil {
		return false, err
	}
	p.membership.Lock()
	defer p.membership.Unlock()
	if !p.Former(from) {
		return p.Admits(from), nil // it may be let in by somebody else's word meanwhile
	}
	h := p.held.Load()
	st, list, errs, err := logs.WithBrought(h.state.Load(), from, list)
	if st == nil || !st.IsAnchor(p.cfg.Self.Device()) {
		return false, err
	}
	var b storage.Batch
	logs.PutEntries(&b, from, list, errs, p.cfg.Logger)
	err = p.adopt(ctx, from, h, st, &b)
	return err == nil, err
}

// adopt makes membership entries of a device durable and lets the state follow; h is nil if they are the first. The caller holds
// Practice.membership.
func (p *Practice) adopt(ctx context.Context, from trust.DeviceID, h *held, st *trust.State, b *storage.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	if size := bytesOf(st); size > maxMembership {
		return fmt.Errorf("%w: %d bytes, more than %d", errTooLong, size, maxMembership)
	}
	if err := p.cfg.Store.Commit(ctx, b); err != nil {
		return fmt.Errorf("commit membership entries: %w", err)
	}
	if h == nil {
		if err := p.begin(ctx, st); err != nil {
			return err
		}
	} else {
		h.logs.Memory.Lock()
		for _, s := range st.Scopes() {
			h.logs.Memory.AddScopeLocked(s.ID)
		}
		h.state.Store(st)
		h.logs.Memory.Unlock()
	}
	p.cfg.Proven(from)
	p.cfg.Changed()
	return nil
}

// errTooLong says that a membership log is longer than an anchor holds.
var errTooLong = errors.New("the membership log is too long")

// maxMembership is how long a membership log may be, which is all in memory: no newcomer takes a longer one either. A variable for tests.
var maxMembership = 64 << 20

// bytesOf returns how long a membership log is.
func bytesOf(st *trust.State) (sum int) {
	for _, e := range st.Entries() {
		sum += len(e.Bytes())
	}
	return sum
}

// founded reads a membership log from its beginning.
func (p *Practice) founded(b *storage.Batch, list []trust.Entry) (*trust.State, error) {
	st, _ := trust.Replay(list)
	if st == nil || st.Len() == 0 || st.Practice() != p.cfg.ID {
		return nil, ErrForeign
	}
	for _, e := range st.Entries() {
		b.Put(storage.Member.Key(e.ID()), e.Bytes())
	}
	return st, nil
}

// errNothing says that nothing is held of the practice yet.
var errNothing = errors.New("the practice's membership log has not come")

// Chunks returns what a log holds durably from after+1 on.
func (p *Practice) Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) ([]session.Item, error) {
	h := p.held.Load()
	if h == nil {
		return nil, errNothing
	}
	out, err := h.logs.Chunks(scope, log, after, maxBytes)
	return out, p.read(err)
}

// Beyond returns what is held of all histories of a log that is not at or below the given positions.
func (p *Practice) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) ([]session.Item, error) {
	h := p.held.Load()
	if h == nil {
		return nil, errNothing
	}
	out, err := h.logs.Beyond(scope, log, has, maxBytes)
	return out, p.read(err)
}

// read takes back what an error of a read says about a chunk, if it says that, and returns the error.
func (p *Practice) read(err error) error {
	if bad, ok := errors.AsType[*logs.Unreadable](err); ok {
		return errors.Join(err, p.takeBack(context.Background(), bad))
	}
	return err
}

// takeBack has a chunk that does not read claimed no longer: the devices send it again.
func (p *Practice) takeBack(ctx context.Context, bad *logs.Unreadable) error {
	taken, err := p.held.Load().logs.TakeBack(ctx, bad.At, bad.Err, func(*storage.Batch, uint64) error { return nil })
	if taken {
		p.cfg.Lost()
	}
	return err
}

// Scrub reads all that is claimed, in no hurry, and has claimed no longer what does not read: nobody may ask for it before it is needed.
func (p *Practice) Scrub(ctx context.Context, pause time.Duration) (logs.Scrubbed, error) {
	h := p.held.Load()
	if h == nil {
		return logs.Scrubbed{}, nil
	}
	return h.logs.Scrub(ctx, pause, func(ctx context.Context, at storage.Ref, why error) error {
		return p.takeBack(ctx, &logs.Unreadable{At: at, Err: why})
	})
}

// Stood returns where the first history of a log stood at a counter.
func (p *Practice) Stood(scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	if h := p.held.Load(); h != nil {
		return h.logs.Stood(scope, log, counter)
	}
	return chunk.Position{}, nil
}

// Forks names the histories of each log of a scope that has several.
func (p *Practice) Forks(scope trust.ScopeID) map[chunk.LogID][32]byte {
	if h := p.held.Load(); h != nil {
		return h.logs.Forks(scope)
	}
	return nil
}

// Locators describes what is held of a log.
func (p *Practice) Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	if h := p.held.Load(); h != nil {
		return h.logs.Locators(scope, log)
	}
	return nil, nil
}

// Arrive takes chunks that a device sent: each is verified by the membership log and its place in its log, and none is opened.
func (p *Practice) Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) error {
	h := p.held.Load()
	if h == nil {
		return errNothing
	}
	p.cfg.Proven(from)
	apart, err := h.logs.Arrive(ctx, from, chunks)
	if err != nil {
		return p.read(err) // what a skip rests on does not read
	}
	for _, skip := range apart {
		if err := h.logs.Rejoin(ctx, skip, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// Acked notes that the device has spoken; what it holds, the devices tell each other.
func (p *Practice) Acked(_ context.Context, from trust.DeviceID, _ session.Ack) error {
	p.cfg.Proven(from)
	return nil
}

// SignAck signs a statement of what the anchor holds.
func (p *Practice) SignAck(message []byte) []byte { return p.cfg.Self.SignAck(message) }

// VerifyAck checks a device's statement.
func (p *Practice) VerifyAck(device trust.DeviceID, message, signature []byte) bool {
	return trust.VerifySignature(device, trust.ContextAck, message, signature)
}
