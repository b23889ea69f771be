package quorum

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"chartmesh/lockquorum"
)

// client is a workstation: it takes leases, writes under them, and takes numbers. What it wrote survives its crashes; what it holds does not.
type client struct {
	w      *World
	index  int
	device lockquorum.DeviceID
	rate   float64
	sleeps bool // it is one that sleeps, and whose time of day is right

	run       int // counts its processes
	paused    time.Duration
	suspended time.Duration
	wall      time.Duration

	session  lockquorum.SessionID
	open     bool
	seq      uint64
	answered map[uint64]bool
	done     uint64
	target   int
	ttl      time.Duration     // of its sessions
	granted  map[uint64]func() // by seq of who waits: ask again now
	holds    map[lockquorum.LockID]*hold

	store map[lockquorum.Heads]*change
	items int
}

// moment is a machine's clocks at one time: that which stands still while it sleeps, and its time of day.
type moment struct{ monotonic, wall time.Duration }

func (m moment) add(d time.Duration) moment { return moment{m.monotonic + d, m.wall + d} }

// hold is a lease as its holder knows it.
type hold struct {
	lock     lockquorum.LockID
	token    lockquorum.Token
	deadline moment
	over     bool
	heads    lockquorum.Heads // that are certified
}

// change is what somebody wrote, on top of another change.
type change struct {
	id, parent lockquorum.Heads
	lock       lockquorum.LockID
	token      lockquorum.Token
	by         int
}

var locks = []lockquorum.LockID{{1}, {2}}

// documentOf returns the one document that a lock protects.
func documentOf(l lockquorum.LockID) lockquorum.DocumentID { return lockquorum.DocumentID(l) }

var circle = lockquorum.CircleID{1}

func newClient(w *World, i int) *client {
	c := &client{w: w, index: 10 + i, device: lockquorum.DeviceID{byte(10 + i)}, rate: 1 + drift*(2*w.rng.Float64()-1), sleeps: i%2 == 0,
		store: map[lockquorum.Heads]*change{}}
	if w.chance(50) {
		c.rate = 1 - drift
	}
	if c.ttl = 20 * time.Second; i%2 == 1 {
		c.ttl = ttl / 2 // less than its leases last
	}
	c.start()
	return c
}

func (c *client) now() moment {
	runs := func(d time.Duration) time.Duration { return time.Duration(float64(d) * c.rate) }
	return moment{runs(c.w.now - c.suspended), runs(c.w.now) + c.wall} // of one crystal
}

// start begins a process, with a session of its own.
func (c *client) start() {
	c.run++
	binary.BigEndian.PutUint64(c.session[:], c.w.rng.Uint64())
	c.open, c.seq, c.done, c.answered = false, 0, 0, map[uint64]bool{}
	c.granted, c.holds = map[uint64]func(){}, map[lockquorum.LockID]*hold{}
	c.request(&lockquorum.Open{TTL: c.ttl.Milliseconds()}, func(r lockquorum.Result, _ moment, _ lockquorum.Heads) {
		if r.Code != lockquorum.CodeDone {
			c.restart()
			return
		}
		c.open = true
		c.work()
		c.keep()
	})
	c.gossip()
}

func (c *client) restart() {
	run := c.run
	c.w.after(c.w.between(50*time.Millisecond, 500*time.Millisecond), func() {
		if c.run == run {
			c.start()
		}
	})
}

func (c *client) crash() {
	c.w.note("client %d crashes", c.index)
	c.run++
	c.holds = map[lockquorum.LockID]*hold{}
	run := c.run
	c.w.after(c.w.between(100*time.Millisecond, 3*time.Second), func() {
		if c.run == run {
			c.start()
		}
	})
}

func (c *client) suspend(d time.Duration) {
	if !c.sleeps || c.w.now < c.paused {
		return
	}
	c.w.report.Suspensions++
	c.w.note("client %d sleeps for %v", c.index, d)
	c.paused = c.w.now + d
	c.suspended += d
}

// later has something happen in this process after a time, or when its machine wakes.
func (c *client) later(d time.Duration, do func()) {
	run := c.run
	c.w.after(d, func() {
		if c.run == run {
			c.awake(do)
		}
	})
}

func (c *client) awake(do func()) {
	if c.w.now < c.paused {
		c.later(c.paused-c.w.now, do)
		return
	}
	do()
}

// request asks the quorum for something until there is an answer, which comes once. With it come the moment at which it was asked for first
// and the heads that were certified under its lock when it was answered.
func (c *client) request(o lockquorum.Operation, then func(lockquorum.Result, moment, lockquorum.Heads)) {
	c.seq++
	seq, first := c.seq, c.now()
	command := func() lockquorum.Command {
		return lockquorum.Command{Device: c.device, Session: c.session, Seq: seq, Done: c.done, Operation: o}
	}
	answered, queued := false, false
	var ask func()
	answer := func(r lockquorum.Result, err error, heads lockquorum.Heads) {
		switch {
		case answered:
			return
		case err != nil:
			c.target = c.w.rng.IntN(voters)
			return
		case r.Code == lockquorum.CodeQueued:
			queued = true
			c.granted[seq] = ask
			return
		}
		answered = true
		delete(c.granted, seq)
		c.answered[seq] = true
		for c.answered[c.done+1] {
			delete(c.answered, c.done+1)
			c.done++
		}
		if queued {
			first = moment{} // it was granted long after it was asked for
		}
		then(r, first, heads)
	}
	ask = func() {
		if answered {
			return
		}
		h, run, cmd := c.w.hosts[c.target], c.run, command()
		c.w.send(c.index, h.index, func() {
			h.ask(cmd, func(r lockquorum.Result, err error) {
				heads := headsOf(h, o)
				c.w.send(h.index, c.index, func() {
					if c.run == run {
						c.awake(func() { answer(r, err, heads) })
					}
				})
			})
		})
	}
	var again func()
	again = func() {
		if answered {
			return
		}
		ask()
		c.later(c.w.between(150*time.Millisecond, 600*time.Millisecond), func() {
			if !answered && !queued {
				c.target = c.w.rng.IntN(voters)
			}
			again()
		})
	}
	again()
}

// headsOf returns what is certified under the lock of an operation.
func headsOf(h *host, o lockquorum.Operation) lockquorum.Heads {
	if h.node == nil {
		return lockquorum.Heads{}
	}
	var lock lockquorum.LockID
	switch o := o.(type) {
	case *lockquorum.Acquire:
		lock = o.Lock
	case *lockquorum.Renew:
		lock = o.Lock
	default:
		return lockquorum.Heads{}
	}
	l, _ := h.node.State().Lease(lock)
	for _, d := range l.Documents {
		return d.Heads
	}
	return lockquorum.Heads{}
}

// keep keeps the session.
func (c *client) keep() {
	c.later(c.ttl/4, func() {
		c.request(&lockquorum.Keep{}, func(r lockquorum.Result, _ moment, _ lockquorum.Heads) {
			if r.Code == lockquorum.CodeNoSession {
				c.restart()
			}
		})
		c.keep()
	})
}

// work does one thing after another.
func (c *client) work() {
	c.later(c.w.between(10*time.Millisecond, 900*time.Millisecond), func() {
		if c.w.calm && c.w.now > c.w.cfg.Duration+20*time.Second {
			return // the practice closes
		}
		if c.w.chance(35) {
			c.number()
			return
		}
		c.acquire(locks[c.w.rng.IntN(len(locks))])
	})
}

// number takes a number for an invoice of its own, or for one that another workstation numbers too.
func (c *client) number() {
	item := lockquorum.ItemID{byte(c.index), byte(c.items >> 8), byte(c.items)}
	if c.items++; c.w.chance(30) {
		item = lockquorum.ItemID{200, byte(c.w.rng.IntN(256))}
	}
	c.request(&lockquorum.Assign{Circle: circle, Item: item}, func(r lockquorum.Result, _ moment, _ lockquorum.Heads) {
		switch r.Code {
		case lockquorum.CodeDone:
			c.w.ledger.numbered(c.w, item, number{r.Series, r.Number})
		case lockquorum.CodeUnknown:
			c.request(&lockquorum.OpenCircle{Circle: circle, First: 1, Last: 1 << 30}, func(lockquorum.Result, moment, lockquorum.Heads) {})
		case lockquorum.CodeNoSession:
			c.restart()
			return
		}
		c.work()
	})
}

// within is how long a lease lasts for its holder, whose clock may run fast or slow against the leader's.
func (c *client) within() time.Duration {
	if c.w.cfg.Mutant == NoDrift {
		return ttl
	}
	return time.Duration(float64(ttl) * (1 - epsilon))
}

func (c *client) acquire(lock lockquorum.LockID) {
	o := &lockquorum.Acquire{Lock: lock, TTL: ttl.Milliseconds(), Try: c.w.chance(30)}
	c.request(o, func(r lockquorum.Result, asked moment, heads lockquorum.Heads) {
		switch r.Code {
		case lockquorum.CodeDone:
		case lockquorum.CodeNoSession:
			c.restart()
			return
		default:
			c.work()
			return
		}
		h := &hold{lock: lock, token: r.Token, heads: heads}
		if c.w.cfg.Mutant == TTLFromReply {
			asked = c.now()
		}
		if asked != (moment{}) {
			c.begin(h, asked)
			return
		}
		// It waited: how long ago the lease was granted it does not know, so it asks anew.
		c.request(&lockquorum.Renew{Lock: lock, Token: h.token}, func(r lockquorum.Result, asked moment, heads lockquorum.Heads) {
			if r.Code != lockquorum.CodeDone {
				c.work()
				return
			}
			h.heads = heads
			c.begin(h, asked)
		})
	})
}

// begin begins to hold a lease.
func (c *client) begin(h *hold, asked moment) {
	h.deadline = asked.add(c.within())
	c.holds[h.lock] = h
	c.w.report.Grants++
	c.w.ledger.leased(c.w, h.lock, h.token, c.session)
	if c.valid(h) {
		c.w.ledger.held(c.w, c, h)
	}
	c.renew(h)
	c.write(h, 1+c.w.rng.IntN(3))
}

// valid reports whether a lease is held, by both clocks.
func (c *client) valid(h *hold) bool {
	now := c.now()
	return !h.over && now.monotonic < h.deadline.monotonic && now.wall < h.deadline.wall
}

func (c *client) renew(h *hold) {
	c.later(ttl/3, func() {
		if !c.valid(h) {
			return
		}
		c.request(&lockquorum.Renew{Lock: h.lock, Token: h.token}, func(r lockquorum.Result, asked moment, _ lockquorum.Heads) {
			if r.Code != lockquorum.CodeDone {
				h.over = true
			} else if next := asked.add(c.within()); next.monotonic > h.deadline.monotonic {
				h.deadline = next
			}
		})
		c.renew(h)
	})
}

// write writes under a lease, once what is certified has come, and commits it.
func (c *client) write(h *hold, times int) {
	stop := func() {
		h.over = true
		delete(c.holds, h.lock)
		c.work()
	}
	switch {
	case !c.valid(h):
		stop()
		return
	case times == 0:
		h.over = true
		delete(c.holds, h.lock)
		c.request(&lockquorum.Release{Lock: h.lock, Token: h.token}, func(lockquorum.Result, moment, lockquorum.Heads) { c.work() })
		return
	}
	parent := h.heads
	if c.w.cfg.Mutant == NoBarrier {
		parent = c.newest(h.lock)
	} else if parent != (lockquorum.Heads{}) && c.store[parent] == nil {
		c.later(100*time.Millisecond, func() { c.write(h, times) })
		return
	}
	ch := c.change(h, parent)
	c.w.ledger.held(c.w, c, h)
	if c.w.chance(5) { // a copy of this process writes too; of the two one goes on
		other := c.change(h, parent)
		c.request(&lockquorum.Commit{Lock: h.lock, Token: h.token, Document: documentOf(h.lock), Expected: h.heads, New: other.id},
			func(r lockquorum.Result, _ moment, _ lockquorum.Heads) {
				if r.Code == lockquorum.CodeDone {
					c.w.ledger.committed = append(c.w.ledger.committed, other)
				}
			})
	}
	c.push(h, ch, func() {
		if !c.valid(h) {
			stop()
			return
		}
		c.request(&lockquorum.Commit{Lock: h.lock, Token: h.token, Document: documentOf(h.lock), Expected: h.heads, New: ch.id},
			func(r lockquorum.Result, _ moment, _ lockquorum.Heads) {
				if r.Code != lockquorum.CodeDone {
					c.w.report.Late++
					stop()
					return
				}
				c.w.report.Commits++
				c.w.ledger.committed = append(c.w.ledger.committed, ch)
				h.heads = ch.id
				c.later(c.w.between(time.Millisecond, 1500*time.Millisecond), func() { c.write(h, times-1) })
			})
	})
}

// change writes a change under a lease.
func (c *client) change(h *hold, parent lockquorum.Heads) *change {
	ch := &change{id: c.w.ledger.fresh(c.w), parent: parent, lock: h.lock, token: h.token, by: c.index}
	c.w.ledger.changes[ch.id] = ch
	c.store[ch.id] = ch
	return ch
}

// newest returns the change of the greatest token that it has.
func (c *client) newest(lock lockquorum.LockID) (id lockquorum.Heads) {
	var token lockquorum.Token
	for _, key := range c.sorted() {
		if ch := c.store[key]; ch.lock == lock && ch.token.Compare(token) > 0 {
			id, token = key, ch.token
		}
	}
	return id
}

// push gives what it wrote to another machine before it is committed, so that the next holder gets it without this one.
func (c *client) push(h *hold, ch *change, then func()) {
	to, given := c.w.clients[c.w.rng.IntN(clients)], false
	if to == c {
		to = c.w.clients[(c.index-10+1)%clients]
	}
	c.w.send(c.index, to.index, func() {
		to.take(ch)
		c.w.send(to.index, c.index, func() {
			if run := c.run; !given {
				c.awake(func() {
					if given = true; c.run == run {
						then()
					}
				})
			}
		})
	})
	c.later(300*time.Millisecond, func() {
		if !given {
			given = true
			if !c.valid(h) {
				then()
				return
			}
			c.push(h, ch, then)
		}
	})
}

// take takes a change with all that it is made on.
func (c *client) take(ch *change) {
	for ch != nil && c.store[ch.id] == nil {
		c.store[ch.id] = ch
		ch = c.w.ledger.changes[ch.parent]
	}
}

// gossip gives all that it has to another now and then.
func (c *client) gossip() {
	c.later(c.w.between(100*time.Millisecond, 400*time.Millisecond), func() {
		to, all := c.w.clients[c.w.rng.IntN(clients)], c.sorted()
		c.w.send(c.index, to.index, func() {
			for _, id := range all {
				to.take(c.w.ledger.changes[id])
			}
		})
		c.gossip()
	})
}

func (c *client) sorted() []lockquorum.Heads {
	return slices.SortedFunc(maps.Keys(c.store), func(a, b lockquorum.Heads) int { return slices.Compare(a[:], b[:]) })
}
