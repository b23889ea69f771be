package quorum

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"chartmesh/lockquorum"
)

// ledger is what an outsider knows of all machines.
type ledger struct {
	changes   map[lockquorum.Heads]*change
	committed []*change                                    // whose commit somebody was told
	certified map[lockquorum.DocumentID][]lockquorum.Heads // as it came about
	chains    map[uint64][32]byte                          // of all commands, by index
	states    map[uint64][32]byte                          // what some of them amount to, by index
	tokens    map[lockquorum.LockID]lockquorum.Token       // the newest
	leases    map[lease]lockquorum.SessionID               // whose they are
	numbers   map[lockquorum.ItemID]number                 // that somebody was told
	items     map[number]lockquorum.ItemID
	last      uint64
	newest    uint64 // index that any voter applied
}

// lease is named by its lock and token, and a number by its series and itself.
type (
	lease struct {
		lock  lockquorum.LockID
		token lockquorum.Token
	}
	number struct {
		series lockquorum.SeriesID
		n      int64
	}
)

func (l *ledger) init() {
	l.changes = map[lockquorum.Heads]*change{}
	l.certified = map[lockquorum.DocumentID][]lockquorum.Heads{}
	l.chains = map[uint64][32]byte{}
	l.states = map[uint64][32]byte{}
	l.tokens, l.leases = map[lockquorum.LockID]lockquorum.Token{}, map[lease]lockquorum.SessionID{}
	l.numbers, l.items = map[lockquorum.ItemID]number{}, map[number]lockquorum.ItemID{}
}

// fresh returns the name of a change that is to be written.
func (l *ledger) fresh(*World) (id lockquorum.Heads) {
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

// applied checks I6 and I1: the voters that applied the same index hold the same, and tokens grow.
func (l *ledger) applied(w *World, h *host, st *lockquorum.State) {
	chain, known := l.chains[st.Index()]
	if known && chain != st.Chain() {
		w.fail("I6", "voter %d has another history at %d", h.index, st.Index())
	}
	l.chains[st.Index()] = st.Chain()
	if st.Index()%statesEvery == 0 {
		hash := sha256.Sum256(st.Snapshot())
		if other, known := l.states[st.Index()]; known && other != hash {
			w.fail("I6", "voter %d applied the same up to %d, and holds something else", h.index, st.Index())
		}
		l.states[st.Index()] = hash
	}
	if st.Index() <= l.newest {
		return // it is behind others
	}
	l.newest = st.Index()
	for _, lease := range st.Leases() {
		if lease.Token.Compare(l.tokens[lease.Lock]) < 0 {
			w.fail("I1", "token %v of %v after %v", lease.Token, lease.Lock, l.tokens[lease.Lock])
		}
		if lease.Token.Compare(l.tokens[lease.Lock]) > 0 {
			l.tokens[lease.Lock] = lease.Token
		}
	}
}

// happened checks I4: what is certified has among its ancestors what was.
func (l *ledger) happened(w *World, st *lockquorum.State, events []lockquorum.Event) {
	for _, e := range events {
		switch e.Happening {
		case lockquorum.Committed:
			list := l.certified[e.Document]
			if slices.Contains(list, e.Heads) {
				continue // another voter has applied it before
			}
			if n := len(list); n > 0 && !l.descends(e.Heads, list[n-1]) {
				w.fail("I4", "%v is certified after %v, and was written without it", e.Heads, list[n-1])
			}
			l.certified[e.Document] = append(list, e.Heads)
		case lockquorum.Granted:
			l.leased(w, e.Lock, e.Token, e.Session)
			for _, c := range w.clients {
				if c.session == e.Session {
					if again := c.granted[e.Seq]; again != nil { // somebody tells it, or it asks again
						w.send(0, c.index, func() { c.awake(again) })
					}
				}
			}
		}
	}
}

// leased checks I1: a token is of one lease.
func (l *ledger) leased(w *World, lock lockquorum.LockID, token lockquorum.Token, to lockquorum.SessionID) {
	key := lease{lock, token}
	if other, ok := l.leases[key]; ok && other != to {
		w.fail("I1", "token %v of %v is of the leases of two sessions, %v and %v", token, lock, other, to)
	}
	l.leases[key] = to
}

// held checks I2: nobody else takes himself for the holder.
func (l *ledger) held(w *World, c *client, h *hold) {
	for _, o := range w.clients {
		if other := o.holds[h.lock]; o != c && other != nil && o.valid(other) {
			w.fail("I2", "client %d holds %v under %v while client %d does under %v", c.index, h.lock, h.token, o.index, other.token)
		}
	}
}

// numbered checks I5: an item has one number, and a number one item.
func (l *ledger) numbered(w *World, item lockquorum.ItemID, n number) {
	if had, ok := l.numbers[item]; ok && had != n {
		w.fail("I5", "item %v was given %v, and %v", item, had, n)
	}
	if of, ok := l.items[n]; ok && of != item {
		w.fail("I5", "number %v was given to %v and to %v", n, of, item)
	}
	l.numbers[item], l.items[n] = n, item
	w.report.Numbers = len(l.numbers)
}

// even reports whether all voters have applied the same.
func (w *World) even() bool {
	index := w.hosts[0].node.State().Index()
	return !slices.ContainsFunc(w.hosts, func(h *host) bool { return h.node.State().Index() != index })
}

// checkRest checks what must hold when everything has arrived everywhere.
func (w *World) checkRest() {
	l := &w.ledger
	for end := w.now + 10*time.Second; w.now < end && !w.even(); { // sessions go on being kept
		w.until(w.now + tick)
	}
	st := w.hosts[0].node.State()
	for _, h := range w.hosts[1:] {
		if h.node.State().Index() != st.Index() || h.node.State().Chain() != st.Chain() {
			w.fail("I8", "voter %d is at %d, and voter 0 at %d", h.index, h.node.State().Index(), st.Index())
			return
		}
		if !bytes.Equal(h.node.State().Snapshot(), st.Snapshot()) {
			w.fail("I6", "voter %d applied the same as voter 0, and holds something else", h.index)
		}
	}
	if len(l.committed) == 0 || len(l.numbers) == 0 {
		w.fail("I8", "%d changes were committed and %d numbers given in all that time", len(l.committed), len(l.numbers))
		return
	}
	heads := map[lockquorum.LockID]lockquorum.Heads{}
	for _, lease := range st.Leases() {
		for _, d := range lease.Documents {
			heads[lease.Lock] = d.Heads
		}
	}
	for _, ch := range l.committed {
		if !l.descends(heads[ch.lock], ch.id) {
			w.fail("I7", "change %v was committed under %v, and %v is certified without it", ch.id, ch.token, heads[ch.lock])
		}
	}
	for _, c := range w.clients {
		if len(c.store) != len(l.changes) {
			w.fail("I8", "client %d has %d of %d changes", c.index, len(c.store), len(l.changes))
		}
	}
	w.checkNumbers(st)
}

// checkNumbers checks I5 at the end: an item has one number, which is that which everybody was told; and of what was told nothing is missing.
func (w *World) checkNumbers(st *lockquorum.State) {
	given := map[lockquorum.ItemID]number{}
	list, _ := st.Circle(circle)
	for _, in := range list {
		for _, n := range in.Numbers {
			if had, twice := given[n.Item]; twice {
				w.fail("I5", "item %v has %v and %d of %v", n.Item, had, n.Number, in.ID)
			}
			given[n.Item] = number{in.ID, n.Number}
		}
	}
	for item, told := range w.ledger.numbers {
		if given[item] != told {
			w.fail("I5", "item %v has %v, and somebody was told %v", item, given[item], told)
		}
	}
	for n := range w.ledger.items { // without a gap: as many were given as the highest says
		if n.n < 1 || n.n > int64(len(given)) {
			w.fail("I5", "somebody was told %v, of %d that were given from 1 on", n, len(given))
		}
	}
}
