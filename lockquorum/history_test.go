package lockquorum_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"chartmesh/lockquorum"
)

// history does at random what clients do, and holds what comes of it against what a reader of the promise expects: it keeps by itself who
// asked first, which tokens there were and what was certified.
type history struct {
	*quorum
	rng     *rand.Rand
	clients []*client
	tokens  map[lockquorum.LockID][]lockquorum.Token // every lease that was granted
	over    map[lockquorum.Token]bool                // that has ended
	queue   map[lockquorum.LockID][]lockquorum.SessionID
	heads   map[lockquorum.DocumentID]lockquorum.Heads
	given   map[lockquorum.ItemID]int64
	next    int64
}

// TestHistories runs random histories; SEED=n runs one again.
func TestHistories(t *testing.T) {
	first, n := uint64(1), uint64(60)
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		first, n = s, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("run it again: SEED=%d go test ./lockquorum -run '^TestHistories$'", seed)
				}
			}()
			h := &history{quorum: begin(t), rng: rand.New(rand.NewPCG(seed, 0)), tokens: map[lockquorum.LockID][]lockquorum.Token{},
				over: map[lockquorum.Token]bool{}, queue: map[lockquorum.LockID][]lockquorum.SessionID{},
				heads: map[lockquorum.DocumentID]lockquorum.Heads{}, given: map[lockquorum.ItemID]int64{}, next: 1}
			for i := range 4 {
				h.clients = append(h.clients, h.client(fmt.Sprint("client ", i)))
			}
			h.clients[0].expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1 << 30})
			for range 300 {
				h.step()
			}
		})
	}
}

func (h *history) step() {
	c := h.clients[h.rng.IntN(len(h.clients))]
	lock := lockquorum.LockID{byte(1 + h.rng.IntN(2))}
	document := lockquorum.DocumentID{lock[0], byte(h.rng.IntN(2))}
	var token lockquorum.Token
	if all := h.tokens[lock]; len(all) > 0 {
		token = all[max(0, len(all)-1-h.rng.IntN(3))]
	}
	if h.clock += int64(h.rng.IntN(300)); h.rng.IntN(20) == 0 {
		h.clock += 1500
	}
	var o lockquorum.Operation
	switch h.rng.IntN(12) {
	case 0, 1, 2:
		o = &lockquorum.Acquire{Lock: lock, TTL: 1000, Try: h.rng.IntN(3) == 0}
	case 3, 4, 5:
		commit := &lockquorum.Commit{Lock: lock, Token: token, Document: document, Expected: h.heads[document], New: heads(h.rng.IntN(1000))}
		if h.rng.IntN(6) == 0 {
			commit.Expected = heads(2000)
		}
		o = commit
	case 6:
		o = &lockquorum.Renew{Lock: lock, Token: token}
	case 7:
		o = &lockquorum.Release{Lock: lock, Token: token}
	case 8:
		o = &lockquorum.Cancel{Lock: lock}
	case 9:
		if h.rng.IntN(3) == 0 {
			o = &lockquorum.Break{Lock: lock, Token: token}
		} else {
			o = &lockquorum.Tick{}
		}
	default:
		o = &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{byte(h.rng.IntN(100))}}
	}
	command := c.command(o)
	r, events := h.apply(command)
	h.see(c, o, r, events)
	if h.rng.IntN(5) == 0 { // the answer was lost
		if again, _ := h.apply(command); again != r && r.Code != lockquorum.CodeQueued {
			h.t.Fatalf("%T is answered %+v, and again %+v", o, r, again)
		}
		// What ended at that moment by the clock is seen at the next step.
		h.settle()
	}
}

// see holds an answer against what was known before.
func (h *history) see(c *client, o lockquorum.Operation, r lockquorum.Result, events []lockquorum.Event) {
	h.t.Helper()
	for _, e := range events {
		switch e.Happening {
		case lockquorum.Sealed:
			h.over[e.Token] = true
		case lockquorum.Granted:
			queue := h.queue[e.Lock]
			if len(queue) == 0 || queue[0] != e.Session {
				h.t.Fatalf("%v is granted to %v, and %v waited", e.Lock, e.Session, queue)
			}
			h.queue[e.Lock] = queue[1:]
			h.grant(e.Lock, e.Token)
		}
	}
	switch o := o.(type) {
	case *lockquorum.Acquire:
		switch r.Code {
		case lockquorum.CodeDone:
			if len(h.queue[o.Lock]) > 0 {
				h.t.Fatal("granted to somebody who came later")
			}
			h.grant(o.Lock, r.Token)
		case lockquorum.CodeQueued:
			if !slices.Contains(h.queue[o.Lock], c.session) {
				h.queue[o.Lock] = append(h.queue[o.Lock], c.session)
			}
		}
	case *lockquorum.Cancel:
		if r.Code == lockquorum.CodeDone {
			h.queue[o.Lock] = slices.DeleteFunc(h.queue[o.Lock], func(s lockquorum.SessionID) bool { return s == c.session })
		}
	case *lockquorum.Commit:
		if r.Code != lockquorum.CodeDone {
			break
		}
		all := h.tokens[o.Lock]
		if h.over[o.Token] || o.Token != all[len(all)-1] || o.Expected != h.heads[o.Document] {
			h.t.Fatalf("a commit under %v, of %v, which is over: %v, counts", o.Token, all, h.over[o.Token])
		}
		h.heads[o.Document] = o.New
	case *lockquorum.Assign:
		if n, ok := h.given[o.Item]; ok && n != r.Number || !ok && r.Number != h.next {
			h.t.Fatalf("an item is given %d, and had %d; the next was %d", r.Number, n, h.next)
		} else if !ok {
			h.given[o.Item], h.next = r.Number, h.next+1
		}
	}
	h.settle()
}

// settle looks at what the State says now: what ended and was granted while a command came again has no event that was seen.
func (h *history) settle() {
	for _, l := range h.st.Leases() {
		if all := h.tokens[l.Lock]; !l.Token.IsZero() && (len(all) == 0 || all[len(all)-1] != l.Token) {
			h.grant(l.Lock, l.Token)
			h.queue[l.Lock] = h.queue[l.Lock][1:]
		}
		if l.How != 0 {
			h.over[l.Token] = true
		}
		for i, t := range h.tokens[l.Lock] {
			if i < len(h.tokens[l.Lock])-1 && !h.over[t] {
				h.over[t] = true
			}
		}
		for _, d := range l.Documents {
			if d.Heads != h.heads[d.ID] {
				h.t.Fatalf("certified of %v is %v, and should be %v", d.ID, d.Heads, h.heads[d.ID])
			}
		}
		if len(l.Waiting) != len(h.queue[l.Lock]) {
			h.t.Fatalf("%d wait for %v, and should be %d", len(l.Waiting), l.Lock, len(h.queue[l.Lock]))
		}
	}
}

func (h *history) grant(lock lockquorum.LockID, t lockquorum.Token) {
	h.t.Helper()
	if all := h.tokens[lock]; len(all) > 0 && all[len(all)-1].Compare(t) >= 0 {
		h.t.Fatalf("token %v after %v", t, all[len(all)-1])
	}
	h.tokens[lock] = append(h.tokens[lock], t)
}
