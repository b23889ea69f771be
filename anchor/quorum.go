package anchor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/remote"
	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
)

// An anchor votes on leases and numbers in the practices that had it begin to. Its voter of a practice lies in the practice's part of the store. It is
// started when a device asks for it, and ended when it has been left alone for a while and no other voter counts on it: a practice in which nothing
// happens costs nothing.
//
// Names are keyed hashes, which it cannot tell, and so is what they are about.

// quorums are the anchor's voters.
type quorums struct {
	a       *Anchor
	servers remote.Servers
	network func(*practice) local.Network
	work    sync.WaitGroup

	mu struct {
		sync.Mutex
		running context.Context // until which voters may run; nil: none may
		awake   map[*practice]*seat
	}
}

// seat is a practice's voter that runs, or has found out that it must not.
type seat struct {
	stop   context.CancelFunc
	opened chan struct{} // voter is there
	voter  *local.Voter
	ended  chan struct{}
	err    error // once it has ended: why it was not opened

	// Under quorums.mu.
	users  int
	used   time.Time // when it was last given back
	ending bool
}

const (
	// restAfter is for how long a voter is left alone before it is ended.
	restAfter = time.Minute
	restEvery = 10 * time.Second
	// snapshotEvery keeps the log of each of many voters short in memory.
	snapshotEvery = 512
)

func newQuorums(a *Anchor) *quorums {
	q := &quorums{a: a, network: func(p *practice) local.Network { return voters{a, p} }}
	q.mu.awake = map[*practice]*seat{}
	return q
}

// serve answers a stream of a device.
func (q *quorums) serve(ctx context.Context, st p2p.QuorumStream, from trust.DeviceID) {
	m := &metered{QuorumStream: st, ctx: ctx}
	err := q.servers.Serve(ctx, m, from, func(ctx context.Context, id trust.EntryID) (*remote.Server, func()) {
		p := q.a.find(id)
		if p == nil || !p.admits(from) || !p.IsAnchor() {
			return nil, nil
		}
		m.rate = p.Rate()
		s, err := q.take(ctx, p)
		if err != nil {
			q.a.log.Warn("a practice's voter does not answer", "practice", p.id, "error", err)
			return nil, nil
		}
		return s.voter.Server(), func() { q.giveBack(s) }
	})
	if err != nil {
		q.a.log.Debug("a question about leases or numbers was not answered", "device", from, "error", err)
	}
}

// errNotRunning says that the anchor has not begun to serve, or is ending.
var errNotRunning = errors.New("the anchor does not run")

// take returns a practice's seat, and starts its voter if it does not run. It is the caller's until giveBack.
func (q *quorums) take(ctx context.Context, p *practice) (*seat, error) {
	for {
		q.mu.Lock()
		s := q.mu.awake[p]
		if s == nil {
			running := q.mu.running
			if running == nil || running.Err() != nil || p.dropped.Load() {
				q.mu.Unlock()
				return nil, errNotRunning
			}
			s = &seat{opened: make(chan struct{}), ended: make(chan struct{})}
			q.mu.awake[p] = s
			running, s.stop = context.WithCancel(running)
			q.work.Go(func() { q.sit(running, p, s) })
		}
		ending := s.ending
		if !ending {
			s.users++
		}
		q.mu.Unlock()
		if ending {
			select {
			case <-s.ended:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if err := s.await(ctx); err != nil {
			q.giveBack(s)
			return nil, err
		}
		return s, nil
	}
}

// await waits until the voter is there, and has started if it is to.
func (s *seat) await(ctx context.Context) error {
	select {
	case <-s.opened:
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-s.voter.Ready():
		return nil
	case <-s.ended:
		return errNotRunning
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sit opens a practice's voter and runs it until ctx ends.
func (q *quorums) sit(ctx context.Context, p *practice, s *seat) {
	defer func() {
		s.stop()
		q.mu.Lock()
		delete(q.mu.awake, p)
		q.mu.Unlock()
		close(s.ended)
	}()
	v, err := local.Open(ctx, q.config(p))
	if err != nil {
		s.err = err
		return
	}
	s.voter = v
	close(s.opened)
	v.Run(ctx)
}

func (q *quorums) config(p *practice) local.Config {
	cfg := local.Config{
		Store: p.share, Keys: q.a.self, Members: p.State, Seen: p.Seen(), Network: q.network(p), SnapshotEvery: snapshotEvery, Logger: q.a.log.With("practice", p.id.String()),
		// No log of chunks tells a folder that was put back here: the witness does, and what devices have seen.
		Log: local.Log{Current: func() [32]byte { return [32]byte{} }, Continues: func([32]byte) bool { return true }, Original: func() bool { return false }},
	}
	if dir := q.a.cfg.State; dir != "" {
		cfg.Witness = local.FileOf(dir, q.a.Device(), p.id)
	}
	return cfg
}

func (q *quorums) giveBack(s *seat) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.users--
	s.used = time.Now()
}

// run has voters run until ctx ends, and those rest that may.
func (q *quorums) run(ctx context.Context) {
	q.mu.Lock()
	q.mu.running = ctx
	q.mu.Unlock()
	tick := time.NewTicker(restEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			q.mu.Lock()
			q.mu.running = nil
			q.mu.Unlock()
			q.work.Wait()
			return
		case now := <-tick.C:
			q.rest(now)
		}
	}
}

// rest ends the voters that nobody needs.
func (q *quorums) rest(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, s := range q.mu.awake {
		if !p.IsAnchor() || s.users == 0 && now.Sub(s.used) >= restAfter && s.mayRest() {
			s.ending = true
			s.stop()
		}
	}
}

// mayRest reports whether a voter is not missed: the only one, or one that does not run and may.
func (s *seat) mayRest() bool {
	select {
	case <-s.opened:
		at := s.voter.Status()
		return !at.Held && (!at.Runs || at.Voter.Resting)
	default:
		return false
	}
}

// drop ends the voter of a practice that is dropped.
func (q *quorums) drop(p *practice) {
	q.mu.Lock()
	s := q.mu.awake[p]
	if s != nil {
		s.ending = true
		s.stop()
	}
	q.mu.Unlock()
	if s != nil {
		<-s.ended
	}
}

// voters reaches those of a practice's devices.
type voters struct {
	a *Anchor
	p *practice
}

// errForeign says that a device is not one of the practice.
var errForeign = errors.New("it is no device of the practice")

// Open implements local.Network.
func (v voters) Open(ctx context.Context, d trust.DeviceID) (remote.Stream, error) {
	if !v.p.admits(d) {
		return nil, errForeign
	}
	return v.a.host.OpenQuorum(ctx, d)
}

// Reaches implements local.Network.
func (v voters) Reaches(d trust.DeviceID) bool { return v.p.admits(d) && v.a.host.Reaches(d) }

// RoundTrip implements local.Network.
func (v voters) RoundTrip(d trust.DeviceID) time.Duration { return v.a.host.RoundTrip(d) }

// Doubt implements local.Network.
func (v voters) Doubt(d trust.DeviceID) { v.a.host.Doubt(d) }

// Voter is how an anchor's voter of a practice is.
type Voter struct {
	Awake  bool   `json:"awake"` // it runs; else it does when it is asked
	Leads  bool   `json:"leads"`
	Voters int    `json:"voters"`        // of the quorum, while it is awake
	Index  uint64 `json:"index"`         // of the last command, while it is awake
	Out    string `json:"out,omitempty"` // why it stays out
}

// state says in a word how it is.
func (v *Voter) state() string {
	switch {
	case v.Out != "":
		return "out"
	case v.Awake:
		return "awake"
	}
	return "resting"
}

// voter returns how the voter of a practice is; nil: there is none.
func (q *quorums) voter(p *practice) *Voter {
	if p.share == nil {
		return nil
	}
	if _, _, err := driver.OpenDisk(p.share); errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	q.mu.Lock()
	s := q.mu.awake[p]
	q.mu.Unlock()
	v := &Voter{}
	if s == nil {
		return v
	}
	select {
	case <-s.opened:
	default:
		return v
	}
	at := s.voter.Status()
	if v.Awake = at.Runs; at.Runs {
		v.Leads, v.Voters, v.Index = at.Voter.Leads, len(at.Voter.Voters), at.Voter.Index
	}
	if at.Stopped != nil {
		v.Out = staysOut(at.Stopped)
	}
	return v
}

// staysOut says why a voter stays out, and what becomes of that.
func staysOut(err error) string {
	switch {
	case errors.Is(err, local.ErrWentBack):
		return "this folder was put back from a copy: an administrator of the practice makes it a voter anew (chartmesh quorum remove, add), or, if it was the only one, founds the quorum anew (chartmesh quorum reseed)"
	case errors.Is(err, lockquorum.ErrLost):
		return "it has lost something that it stored: an administrator of the practice makes it a voter anew (chartmesh quorum remove, add), or, if it was the only one, founds the quorum anew (chartmesh quorum reseed)"
	}
	return err.Error()
}

// votes reports whether the anchor keeps leases and numbers of a practice, as far as it knows; of one that does not read, whether it did.
func (a *Anchor) votes(p *practice) bool {
	if p.broken != nil {
		return a.quorums.voter(p) != nil
	}
	st := p.State()
	if p.share == nil || st == nil || !p.IsAnchor() {
		return false
	}
	list, err := local.LastHeard(p.share, st)
	return err == nil && slices.Contains(list, a.Device())
}

// metered takes no more off a stream than the rate of its practice allows, once that is known.
type metered struct {
	p2p.QuorumStream
	ctx  context.Context
	rate *rate.Limiter
}

// longestWait is how long a stream waits at most before more is taken off it.
const longestWait = 5 * time.Second

// Read implements io.Reader.
func (m *metered) Read(b []byte) (int, error) {
	n, err := m.QuorumStream.Read(b[:min(len(b), p2p.RateBurst)])
	if m.rate == nil || n == 0 {
		return n, err
	}
	now := time.Now()
	taken := m.rate.ReserveN(now, n)
	wait := taken.DelayFrom(now)
	if wait == 0 {
		return n, err
	}
	if wait > longestWait {
		taken.CancelAt(now)
		wait = longestWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-m.ctx.Done():
	case <-timer.C:
	}
	return n, err
}
