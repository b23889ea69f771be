package quorum

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"chartmesh/lockquorum"
)

// ledger is what an outsider knows of all machines.
type ledger struct {
	pasts  map[past]passage
	next   map[past]past     // of a history, the one that was first applied after it
	states map[past][32]byte // what some of them amount to
	epochs []uint64          // as they were founded
	back   map[uint64]bool   // epochs in which a voter's disk went back

	changes   map[lockquorum.Heads]*change
	committed []commit                  // which somebody was told
	undone    map[lockquorum.Heads]bool // what breaks took back
	leases    map[lease]leaseOf         // whose they are
	broken    map[lease]bool
	numbers   map[lockquorum.ItemID][]fact          // that somebody was told
	items     map[number]map[lockquorum.ItemID]past // to what they were given
	patients  map[int64]given
	deepest   past // of the last epoch, where somebody was told something
	last      uint64
	lastTold  time.Duration // when somebody was told a number or a commit
}

// past names a history: all commands of an epoch up to some place, and what the epoch began with.
type past struct {
	epoch uint64
	chain [32]byte
}

func pastOf(s lockquorum.Seen) past { return past{s.Epoch, s.Chain} }

// passage is how a history came about.
type passage struct {
	before past
	depth  int
}

type (
	lease struct {
		lock  lockquorum.LockID
		token lockquorum.Token
	}
	leaseOf struct {
		session lockquorum.SessionID
		at      past
	}
	// number is named by its series and itself.
	number struct {
		series lockquorum.SeriesID
		n      int64
	}
	// fact is what somebody was told, and at which history.
	fact struct {
		number
		at past
	}
	commit struct {
		*change
		at past
	}
)

func (l *ledger) init() {
	l.pasts, l.next, l.states, l.back = map[past]passage{}, map[past]past{}, map[past][32]byte{}, map[uint64]bool{}
	l.changes, l.undone = map[lockquorum.Heads]*change{}, map[lockquorum.Heads]bool{}
	l.leases, l.broken = map[lease]leaseOf{}, map[lease]bool{}
	l.numbers, l.items = map[lockquorum.ItemID][]fact{}, map[number]map[lockquorum.ItemID]past{}
	l.patients = map[int64]given{}
}

// founded notes what a quorum begins with.
func (l *ledger) founded(st *lockquorum.State, before past) {
	at := pastOf(st.Seen())
	if _, known := l.pasts[at]; !known {
		l.pasts[at] = passage{before, l.pasts[before].depth + 1}
	}
	if !slices.Contains(l.epochs, at.epoch) {
		l.epochs = append(l.epochs, at.epoch)
	}
}

// nothingForgotten checks I7 of a State that a quorum is founded anew with: it has all that somebody was told and that some machine had stored that was asked.
// Where a disk went back, what is stored may be of two histories.
func (l *ledger) nothingForgotten(w *World, st *lockquorum.State, all []*lockquorum.State) {
	from := pastOf(st.Seen())
	if l.back[from.epoch] {
		return
	}
	check := func(what any, at past) {
		for _, o := range all {
			if other := pastOf(o.Seen()); at.epoch == from.epoch && other.epoch == from.epoch && l.goesOn(other, at) && !l.goesOn(from, at) {
				w.fail("I7", "%v was told, is stored, and a quorum is founded anew without it", what)
			}
		}
	}
	for _, told := range l.numbers {
		for _, f := range told {
			check(f.number, f.at)
		}
	}
	for _, ch := range l.committed {
		check(ch.id, ch.at)
	}
}

// goesOn reports whether a history goes on from another one, or is it.
func (l *ledger) goesOn(p, from past) bool {
	depth := l.pasts[from].depth
	for l.pasts[p].depth > depth {
		p = l.pasts[p].before
	}
	return p == from
}

// lost reports whether of two histories one was lost: by a disk that went back, or by founding the quorum anew without it. Else both are in one.
func (w *World) lost(a, b past) bool {
	l := &w.ledger
	if l.goesOn(a, b) || l.goesOn(b, a) {
		return false
	}
	return a.epoch != b.epoch && len(l.epochs) > 1 || l.back[a.epoch] && a.epoch == b.epoch
}

// fresh returns the name of a change that is to be written.
func (l *ledger) fresh() (id lockquorum.Heads) {
	l.last++
	binary.BigEndian.PutUint64(id[:], l.last)
	return id
}

// descends reports whether a change is made on another one, or is it.
func (l *ledger) descends(id, of lockquorum.Heads) bool {
	for id != of && id != (lockquorum.Heads{}) {
		ch := l.changes[id]
		if ch == nil {
			return false
		}
		id = ch.parent
	}
	return id == of
}

// statesEvery is at which indexes all that a voter holds is compared, and not the commands alone that led there.
const statesEvery = 8

// applied checks I6 and I1: voters that applied the same hold the same, there is one history, and tokens grow.
func (l *ledger) applied(w *World, h *host) {
	st := h.node.State()
	if st.Epoch() == 0 {
		return
	}
	if _, known := l.pasts[h.past]; !known {
		w.fail("I6", "machine %d was given what no voter has applied, before %v", h.index, st.Seen().Place)
		return
	}
	for _, s := range h.node.Since(h.noted) {
		at := pastOf(s)
		if _, known := l.pasts[at]; !known {
			if other, ok := l.next[h.past]; ok && other != at {
				if !l.back[s.Epoch] {
					w.fail("I6", "machine %d has another history at %v", h.index, s.Place)
				}
				w.report.Forks++
			}
			l.pasts[at], l.next[h.past] = passage{h.past, l.pasts[h.past].depth + 1}, at
		}
		h.past, h.noted = at, s.Index
	}
	if at := pastOf(st.Seen()); h.past != at {
		w.fail("I6", "machine %d has another history at %v than what it applied last", h.index, st.Seen().Place)
	}
	if st.Index()%statesEvery == 0 {
		hash := sha256.Sum256(st.Snapshot())
		if other, known := l.states[h.past]; known && other != hash {
			w.fail("I6", "machine %d applied the same up to %v, and holds something else", h.index, st.Seen().Place)
		}
		l.states[h.past] = hash
	}
	for _, lease := range st.Leases() {
		if lease.Token.Compare(h.tokens[lease.Lock]) < 0 {
			w.fail("I1", "token %v of %v after %v", lease.Token, lease.Lock, h.tokens[lease.Lock])
		}
		h.tokens[lease.Lock] = lease.Token
	}
	l.parts(w, h, st)
}

// happened takes what came of commands, and checks I4: what is certified has among its ancestors what was, unless a break went back to what was certified before that.
func (l *ledger) happened(w *World, h *host, events []lockquorum.Event) {
	for _, e := range events {
		switch e.Happening {
		case lockquorum.Committed:
			l.certifies(w, h.certified[e.Document], e.Heads)
			h.certified[e.Document] = e.Heads
		case lockquorum.Sealed:
			if e.How == lockquorum.SealBroken {
				l.broken[lease{e.Lock, e.Token}] = true
			}
		case lockquorum.Granted:
			l.leased(w, e.Lock, e.Token, e.Session, h.past)
			for _, c := range w.clients {
				if c.session == e.Session {
					if again := c.granted[e.Seq]; again != nil { // somebody tells it, or it asks again
						w.send(h.index, c.index, func() { c.awake(again) })
					}
				}
			}
		}
	}
}

// certifies checks I4 of heads that are certified after others.
func (l *ledger) certifies(w *World, was, now lockquorum.Heads) {
	switch {
	case was == (lockquorum.Heads{}) || l.descends(now, was):
	case l.descends(was, now) && w.broke[now]:
		for id := was; id != now; id = l.changes[id].parent {
			l.undone[id] = true
		}
	default:
		w.fail("I4", "%v is certified after %v, and was written without it", now, was)
	}
}

// leased checks I1: a token is of one lease.
func (l *ledger) leased(w *World, lock lockquorum.LockID, token lockquorum.Token, to lockquorum.SessionID, at past) {
	key := lease{lock, token}
	if other, ok := l.leases[key]; ok && other.session != to {
		if !w.lost(other.at, at) {
			w.fail("I1", "token %v of %v is of the leases of two sessions, %v and %v", token, lock, other.session, to)
		}
		w.report.Doubled++
	}
	l.leases[key] = leaseOf{to, at}
}

// held checks I2: nobody else takes himself for the holder, in one epoch; but for who has not heard that his lease was broken.
func (l *ledger) held(w *World, c *client, h *hold) {
	for _, o := range w.clients {
		other := o.holds[h.lock]
		if o == c || other == nil || !o.valid(other) || w.lost(h.at, other.at) || l.broken[lease{h.lock, other.token}] || l.broken[lease{h.lock, h.token}] {
			continue
		}
		if h.token.Epoch != other.token.Epoch {
			w.report.TwoEpochs++ // what the earlier one's holder writes will not count
			continue
		}
		w.fail("I2", "client %d holds %v under %v while client %d does under %v", c.index, h.lock, h.token, o.index, other.token)
	}
}

// numbered checks I5: an item has one number, and a number one item.
func (l *ledger) numbered(w *World, item lockquorum.ItemID, n number, at past) {
	l.lastTold = w.now
	for _, had := range l.numbers[item] {
		if had.number != n {
			if !w.lost(had.at, at) {
				w.fail("I5", "item %v was given %v, and %v", item, had.number, n)
			}
			w.report.Doubled++
		}
	}
	for other, was := range l.items[n] {
		if other != item {
			if !w.lost(was, at) || n.series.Epoch != at.epoch && !l.back[n.series.Epoch] {
				w.fail("I5", "number %v was given to %v and to %v", n, other, item)
			}
			w.report.Doubled++
		}
	}
	if l.items[n] == nil {
		l.items[n] = map[lockquorum.ItemID]past{}
	}
	l.items[n][item] = at
	l.numbers[item] = append(l.numbers[item], fact{n, at})
	l.tells(at)
	w.report.Numbers++
}

// tells notes that somebody was told what a history has.
func (l *ledger) tells(at past) {
	if at.epoch > l.deepest.epoch || at.epoch == l.deepest.epoch && l.pasts[at].depth > l.pasts[l.deepest].depth {
		l.deepest = at
	}
}

// read checks I7 and I9 of what somebody is answered who reads: it has all that anybody was told before he asked, and goes on from all that he showed.
func (l *ledger) read(w *World, c *client, shown []lockquorum.Seen, told past, r reply) {
	w.report.Reads++
	at := pastOf(r.seen)
	if told.epoch == at.epoch && !l.goesOn(at, told) && !w.lost(at, told) {
		w.fail("I7", "client %d reads from %v, and somebody was told before what that does not have", c.index, r.seen.Place)
	}
	for _, s := range shown {
		if s.Epoch == at.epoch && !l.goesOn(at, pastOf(s)) && !(s.Index < r.oldest && l.back[s.Epoch]) && !w.lost(at, pastOf(s)) {
			w.fail("I9", "client %d has seen %v, and reads from %v, which does not go on from it", c.index, s.Place, r.seen.Place)
		}
	}
}

// told checks I9: what somebody is answered goes on from all that he showed that he had seen.
func (l *ledger) told(w *World, c *client, shown []lockquorum.Seen, r reply) bool {
	for _, s := range shown {
		switch {
		case w.cfg.Mutant == LeaderMemory: // it answers before there is a place
		case s.Epoch == 0 || s.Epoch < r.seen.Epoch && l.goesOn(pastOf(r.seen), pastOf(s)):
		case s.Epoch < r.seen.Epoch:
			w.report.LostAtReseed++
		case s.Epoch > r.seen.Epoch:
			return false // it does not listen to who is in an earlier epoch
		case l.goesOn(pastOf(r.seen), pastOf(s)) && r.seen.Index > s.Index:
		case s.Index < r.oldest && l.back[s.Epoch]:
			w.report.Unseen++ // so far back nobody can compare
		default:
			w.fail("I9", "client %d has seen %v, and is answered from %v, which does not go on from it", c.index, s.Place, r.seen.Place)
		}
	}
	return true
}
