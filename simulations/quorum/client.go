package quorum

import (
	"encoding/binary"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
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

	own, heard lockquorum.Seen // how far it was told, and has heard from others, that the quorum came
	epoch      uint64          // of its session

	store   map[lockquorum.Heads]*change
	items   int
	knows   map[certificate.Statement]bool
	says    []certificate.Statement // in the order in which they came
	top     map[lockquorum.LockID]lockquorum.Token
	inOrder map[lockquorum.LockID]map[lockquorum.Heads]bool // of a mutant

	parts, copied []part // of a range, and as an image has them
	log           [32]byte
	logs          int
	mark          int64
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
	at       past             // when it was granted
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
	c := &client{w: w, index: 10 + i, device: lockquorum.DeviceID{byte(10 + i)}, rate: 1 + w.drift*(2*w.rng.Float64()-1), sleeps: i%2 == 0,
		store: map[lockquorum.Heads]*change{}, knows: map[certificate.Statement]bool{}, epoch: firstEpoch,
		top: map[lockquorum.LockID]lockquorum.Token{}, inOrder: map[lockquorum.LockID]map[lockquorum.Heads]bool{}}
	c.log = [32]byte{byte(c.index)}
	if w.chance(50) {
		c.rate = 1 - w.drift
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
	c.request(&lockquorum.Open{TTL: c.ttl.Milliseconds()}, func(r reply, _ moment) {
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

// hear learns from somebody how far the quorum came. Of a later epoch it begins anew: what it holds is over.
func (c *client) hear(s lockquorum.Seen) {
	if s.Compare(c.heard.Place) > 0 {
		c.heard = s
	}
	if s.Epoch > c.epoch {
		c.w.note("client %d hears of epoch %d", c.index, s.Epoch)
		c.epoch = s.Epoch
		c.restart()
	}
}

// shows returns what it shows to whom it asks.
func (c *client) shows() []lockquorum.Seen { return []lockquorum.Seen{c.own, c.heard} }

// request asks the quorum for something until there is an answer, which comes once. With it comes the moment at which it was asked for first.
func (c *client) request(o lockquorum.Operation, then func(reply, moment)) {
	c.seq++
	seq, first := c.seq, c.now()
	command := func() lockquorum.Command {
		return lockquorum.Command{Device: c.device, Session: c.session, Seq: seq, Done: c.done, Operation: o}
	}
	answered, queued := false, false
	var ask func()
	answer := func(r reply, shown []lockquorum.Seen) {
		switch {
		case answered:
			return
		case r.err != nil:
			if c.target = c.w.rng.IntN(machines); r.leader >= 0 && c.w.chance(80) {
				c.target = r.leader
			}
			return
		case !c.w.ledger.told(c.w, c, shown, r):
			return
		}
		if r.seen.Compare(c.own.Place) > 0 {
			c.own = r.seen
		}
		c.learn(r.says)
		if r.Code == lockquorum.CodeQueued {
			queued = true
			c.granted[seq] = ask
			return
		}
		if c.hear(r.seen); answered {
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
		then(r, first)
	}
	ask = func() {
		if answered {
			return
		}
		h, run, cmd, shown := c.w.hosts[c.target], c.run, command(), c.shows()
		c.w.send(c.index, h.index, func() {
			h.ask(cmd, shown, func(r reply) {
				c.w.send(h.index, c.index, func() {
					if c.run == run {
						c.awake(func() {
							if c.run == run {
								answer(r, shown)
							}
						})
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
				c.target = c.w.rng.IntN(machines)
			}
			again()
		})
	}
	again()
}

// keep keeps the session.
func (c *client) keep() {
	c.later(c.ttl/4, func() {
		c.request(&lockquorum.Keep{}, func(r reply, _ moment) {
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
		switch n := c.w.rng.IntN(100); {
		case n < 32:
			c.number()
		case n < 40:
			c.patient()
		case n < 43:
			c.end()
		case n < 46:
			c.breakLease(locks[c.w.rng.IntN(len(locks))])
		case n < 54:
			c.read()
			c.work()
		default:
			c.acquire(locks[c.w.rng.IntN(len(locks))])
		}
	})
}

// number takes a number for an invoice of its own, or for one that another workstation numbers too.
func (c *client) number() {
	item := lockquorum.ItemID{byte(c.index), byte(c.items >> 8), byte(c.items)}
	if c.items++; c.w.chance(30) {
		item = lockquorum.ItemID{200, byte(c.w.rng.IntN(256))}
	}
	c.request(&lockquorum.Assign{Circle: circle, Item: item}, func(r reply, _ moment) {
		switch r.Code {
		case lockquorum.CodeDone:
			c.w.ledger.numbered(c.w, item, number{r.Series, r.Number}, pastOf(r.seen))
		case lockquorum.CodeUnknown, lockquorum.CodeClosed:
			c.request(&lockquorum.OpenCircle{Circle: circle, First: 1, Last: 1 << 30}, func(reply, moment) {})
		case lockquorum.CodeNoSession:
			c.restart()
			return
		}
		c.work()
	})
}

// read asks all voters what the quorum has agreed on: whoever takes itself for the leader answers, also one that stood still while another one was made that.
func (c *client) read() {
	run, shown, told := c.run, c.shows(), c.w.ledger.deepest
	for _, h := range c.w.hosts {
		c.w.send(c.index, h.index, func() {
			h.read(shown, func(r reply) {
				c.w.send(h.index, c.index, func() {
					if c.run == run && r.err == nil {
						c.w.ledger.read(c.w, c, shown, told, r)
					}
				})
			})
		})
	}
}

// within is how long a lease lasts for its holder, whose clock may run fast or slow against the leader's.
func (c *client) within() time.Duration {
	if c.w.cfg.Mutant == NoDrift {
		return ttl
	}
	return time.Duration(float64(ttl) * (1 - c.w.epsilon))
}

// end ends the session, and begins another one.
func (c *client) end() {
	c.request(&lockquorum.End{}, func(reply, moment) {
		c.w.report.Ends++
		c.restart()
	})
}

// breakLease breaks a lease that it sees, as an administrator does who wants to go on; now and then with the document taken back.
func (c *client) breakLease(lock lockquorum.LockID) {
	h, run := c.w.hosts[c.target], c.run
	c.w.send(c.index, h.index, func() {
		if !h.runs() {
			return
		}
		l, _ := h.node.State().Lease(lock)
		c.w.send(h.index, c.index, func() {
			if c.run != run || l.Token.IsZero() {
				return
			}
			o := &lockquorum.Break{Lock: lock, Token: l.Token}
			for _, d := range l.Documents {
				if c.w.chance(30) && d.Previous != (lockquorum.Heads{}) {
					o.Back = append(o.Back, lockquorum.Certified{Document: d.ID, Heads: d.Previous})
					c.w.broke[d.Previous] = true
				}
			}
			c.request(o, func(r reply, _ moment) {
				if r.Code == lockquorum.CodeDone {
					c.w.report.Breaks++
					c.w.report.Backs += len(o.Back)
				}
			})
		})
	})
	c.work()
}

func (c *client) acquire(lock lockquorum.LockID) {
	o := &lockquorum.Acquire{Lock: lock, TTL: ttl.Milliseconds(), Try: c.w.chance(30)}
	answered := false
	if c.w.chance(20) { // it does not wait for long
		c.later(c.w.between(200*time.Millisecond, 3*time.Second), func() {
			if answered {
				return
			}
			c.request(&lockquorum.Cancel{Lock: lock}, func(r reply, _ moment) {
				if r.Code == lockquorum.CodeDone {
					c.w.report.Cancels++
				}
			})
		})
	}
	c.request(o, func(r reply, asked moment) {
		answered = true
		switch r.Code {
		case lockquorum.CodeDone:
		case lockquorum.CodeNoSession:
			c.restart()
			return
		default:
			c.work()
			return
		}
		h := &hold{lock: lock, token: r.Token, heads: r.heads, at: pastOf(r.seen)}
		if c.w.cfg.Mutant == TTLFromReply {
			asked = c.now()
		}
		if asked != (moment{}) {
			c.begin(h, asked)
			return
		}
		// It waited: how long ago the lease was granted it does not know, so it asks anew.
		c.request(&lockquorum.Renew{Lock: lock, Token: h.token}, func(r reply, asked moment) {
			if r.Code != lockquorum.CodeDone {
				c.work()
				return
			}
			h.heads, h.at = r.heads, pastOf(r.seen)
			c.begin(h, asked)
		})
	})
}

// begin begins to hold a lease.
func (c *client) begin(h *hold, asked moment) {
	h.deadline = asked.add(c.within())
	c.holds[h.lock] = h
	c.w.report.Grants++
	c.w.ledger.leased(c.w, h.lock, h.token, c.session, h.at)
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
		c.request(&lockquorum.Renew{Lock: h.lock, Token: h.token}, func(r reply, asked moment) {
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
		c.request(&lockquorum.Release{Lock: h.lock, Token: h.token}, func(reply, moment) { c.work() })
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
			func(r reply, _ moment) {
				if r.Code == lockquorum.CodeDone {
					c.w.ledger.committed = append(c.w.ledger.committed, commit{other, pastOf(r.seen)})
				}
			})
	}
	c.push(h, ch, func() {
		if !c.valid(h) {
			stop()
			return
		}
		c.request(&lockquorum.Commit{Lock: h.lock, Token: h.token, Document: documentOf(h.lock), Expected: h.heads, New: ch.id},
			func(r reply, _ moment) {
				if r.Code != lockquorum.CodeDone {
					c.w.report.Late++
					stop()
					return
				}
				c.w.report.Commits++
				c.w.ledger.committed = append(c.w.ledger.committed, commit{ch, pastOf(r.seen)})
				c.w.ledger.tells(pastOf(r.seen))
				c.w.ledger.lastTold = c.w.now
				h.heads = ch.id
				c.later(c.w.between(time.Millisecond, 1500*time.Millisecond), func() { c.write(h, times-1) })
			})
	})
}

// change writes a change under a lease.
func (c *client) change(h *hold, parent lockquorum.Heads) *change {
	ch := &change{id: c.w.ledger.fresh(), parent: parent, lock: h.lock, token: h.token, by: c.index}
	c.w.ledger.changes[ch.id] = ch
	c.take(ch)
	return ch
}

// newest returns the change of the greatest token that it has.
func (c *client) newest(lock lockquorum.LockID) (id lockquorum.Heads) {
	var token lockquorum.Token
	for _, key := range sortedChanges(c.store) {
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
		if c.inOrder[ch.lock] == nil {
			c.inOrder[ch.lock] = map[lockquorum.Heads]bool{}
		}
		if ch.token.Compare(c.top[ch.lock]) >= 0 {
			c.top[ch.lock], c.inOrder[ch.lock][ch.id] = ch.token, true
		}
		ch = c.w.ledger.changes[ch.parent]
	}
}

// gossip gives all that it has to another now and then.
func (c *client) gossip() {
	c.later(c.w.between(100*time.Millisecond, 400*time.Millisecond), func() {
		to, all, says, seen := c.w.clients[c.w.rng.IntN(clients)], sortedChanges(c.store), c.says, c.own
		if !c.w.calm || c.w.chance(90) {
			says = says[max(0, len(says)-20):]
		}
		if c.heard.Compare(seen.Place) > 0 {
			seen = c.heard
		}
		c.w.send(c.index, to.index, func() {
			for _, id := range all {
				to.take(c.w.ledger.changes[id])
			}
			to.learn(says)
			to.awake(func() { to.hear(seen) })
		})
		c.gossip()
	})
}
