package lockquorum_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"chartmesh/lockquorum"
)

// quorum applies commands as voters do, to a State and to a twin that is restored from its snapshot before each.
type quorum struct {
	t     testing.TB
	st    *lockquorum.State
	index uint64
	clock int64
}

func begin(t testing.TB) *quorum { return &quorum{t: t, st: lockquorum.New(1)} }

// apply applies a command; who restores the snapshot of before and applies it too must hold the same and give the same answer.
func (q *quorum) apply(c *lockquorum.Command) (lockquorum.Result, []lockquorum.Event) {
	q.t.Helper()
	q.index++
	c.Clock = q.clock
	raw, err := c.Marshal()
	if err != nil {
		q.t.Fatal(err)
	}
	twin, err := lockquorum.Restore(q.st.Snapshot())
	if err != nil {
		q.t.Fatalf("restore at %d: %v", q.index, err)
	}
	if before := q.st.Freeze(); q.index%2 == 0 { // in pieces
		twin = assembled(q.t, before.Manifest(), before, q.st.Snapshot())
	}
	parsed, err := lockquorum.Parse(raw)
	if err != nil {
		q.t.Fatal(err)
	}
	r, events := q.st.Apply(q.index, c, raw)
	again, others := twin.Apply(q.index, parsed, raw)
	if r != again || !slices.Equal(events, others) || !bytes.Equal(q.st.Snapshot(), twin.Snapshot()) {
		q.t.Fatalf("%T at %d: who restored a snapshot answers %+v %+v, not %+v %+v, or holds something else", c.Operation, q.index, again, others, r, events)
	}
	return r, events
}

// client is a session that asks for one thing after another.
type client struct {
	q       *quorum
	device  lockquorum.DeviceID
	session lockquorum.SessionID
	seq     uint64
}

func (q *quorum) client(name string) *client {
	q.t.Helper()
	c := &client{q: q}
	copy(c.device[:], name)
	copy(c.session[:], name)
	if r, _ := c.do(&lockquorum.Open{TTL: 60_000}); r.Code != lockquorum.CodeDone {
		q.t.Fatalf("open a session: %v", r.Code)
	}
	return c
}

func (c *client) command(o lockquorum.Operation) *lockquorum.Command {
	c.seq++
	return &lockquorum.Command{Device: c.device, Session: c.session, Seq: c.seq, Done: c.seq - 1, Operation: o}
}

func (c *client) do(o lockquorum.Operation) (lockquorum.Result, []lockquorum.Event) {
	c.q.t.Helper()
	return c.q.apply(c.command(o))
}

// expect does what must amount to a code.
func (c *client) expect(want lockquorum.Code, o lockquorum.Operation) lockquorum.Result {
	c.q.t.Helper()
	r, _ := c.do(o)
	if r.Code != want {
		c.q.t.Fatalf("%T: %v, want %v", o, r.Code, want)
	}
	return r
}

var (
	lists  = lockquorum.LockID{1}
	codes  = lockquorum.DocumentID{1}
	prices = lockquorum.DocumentID{2}
)

func heads(n int) (h lockquorum.Heads) {
	copy(h[:], fmt.Sprintf("heads %d", n))
	return h
}

func (q *quorum) lease(id lockquorum.LockID) lockquorum.Lease {
	q.t.Helper()
	l, ok := q.st.Lease(id)
	if !ok {
		q.t.Fatal("nobody asked for the lock")
	}
	return l
}

// Who asks first has the lock first, and each after the other; what somebody commits under a lease that has ended is refused.
func TestLeasesInTurn(t *testing.T) {
	q := begin(t)
	a, b, c := q.client("a"), q.client("b"), q.client("c")
	first := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	c.expect(lockquorum.CodeHeld, &lockquorum.Acquire{Lock: lists, TTL: 20_000, Try: true})
	c.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, New: heads(1)})
	b.expect(lockquorum.CodeStale, &lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, Expected: heads(1), New: heads(9)})

	_, events := a.do(&lockquorum.Release{Lock: lists, Token: first.Token})
	if len(events) != 2 || events[0].Happening != lockquorum.Sealed || events[0].How != lockquorum.SealReleased ||
		events[1].Happening != lockquorum.Granted || events[1].Session != b.session || events[1].Token.Compare(first.Token) <= 0 {
		t.Fatalf("a release amounts to %+v", events)
	}
	second := events[1].Token
	a.expect(lockquorum.CodeStale, &lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, Expected: heads(1), New: heads(2)})
	b.expect(lockquorum.CodeMismatch, &lockquorum.Commit{Lock: lists, Token: second, Document: codes, New: heads(2)})
	b.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: second, Document: codes, Expected: heads(1), New: heads(2)})

	// b is gone: its lease ends by the clock, and c has it. b hears that it is late, whatever it says.
	q.clock += 20_000
	if _, events = q.apply(&lockquorum.Command{Operation: &lockquorum.Tick{}}); len(events) != 2 || events[0].How != lockquorum.SealExpired ||
		events[1].Session != c.session {
		t.Fatalf("an end by the clock amounts to %+v", events)
	}
	for _, late := range []lockquorum.Operation{
		&lockquorum.Renew{Lock: lists, Token: second}, &lockquorum.Release{Lock: lists, Token: second},
		&lockquorum.Commit{Lock: lists, Token: second, Document: codes, Expected: heads(2), New: heads(3)},
	} {
		b.expect(lockquorum.CodeStale, late)
	}
	l := q.lease(lists)
	if l.Holder != c.device || l.Documents[0].Heads != heads(2) || l.Documents[0].Token != second {
		t.Fatalf("at the end: %+v", l)
	}
}

// A lease lasts as long as it is renewed, by the replicated clock alone, which never goes back.
func TestRenewed(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	l := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 1000})
	for range 5 {
		q.clock += 999
		if r := a.expect(lockquorum.CodeDone, &lockquorum.Renew{Lock: lists, Token: l.Token}); r.Expiry != q.clock+1000 {
			t.Fatalf("renewed at %d until %d", q.clock, r.Expiry)
		}
	}
	q.clock -= 4000 // another leader, whose clock is behind
	a.expect(lockquorum.CodeDone, &lockquorum.Renew{Lock: lists, Token: l.Token})
	if q.st.Clock() != 5*999 {
		t.Errorf("the clock is at %d", q.st.Clock())
	}
	q.clock = 5*999 + 1000
	a.expect(lockquorum.CodeStale, &lockquorum.Renew{Lock: lists, Token: l.Token})
}

// A lease does not end before its time because its session would have: its holder goes by the lease's.
func TestSessionOutlastsItsLeases(t *testing.T) {
	q := begin(t)
	a, b := &client{q: q, device: lockquorum.DeviceID{1}, session: lockquorum.SessionID{1}}, q.client("b")
	a.expect(lockquorum.CodeDone, &lockquorum.Open{TTL: 1000})
	l := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	try := &lockquorum.Acquire{Lock: lists, TTL: 20_000, Try: true}
	q.clock += 10_000
	b.expect(lockquorum.CodeHeld, try)
	if r := a.expect(lockquorum.CodeDone, &lockquorum.Renew{Lock: lists, Token: l.Token}); r.Expiry != 30_000 {
		t.Errorf("renewed until %d", r.Expiry)
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Keep{}) // which does not shorten it
	q.clock = 29_999
	b.expect(lockquorum.CodeHeld, try)
	q.clock = 30_000
	second := b.expect(lockquorum.CodeDone, try)
	a.expect(lockquorum.CodeNoSession, &lockquorum.Keep{})

	// Also of who waited.
	c := &client{q: q, device: lockquorum.DeviceID{3}, session: lockquorum.SessionID{3}}
	c.expect(lockquorum.CodeDone, &lockquorum.Open{TTL: 1000})
	c.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b.expect(lockquorum.CodeDone, &lockquorum.Release{Lock: lists, Token: second.Token})
	q.clock += 19_999
	b.expect(lockquorum.CodeHeld, try)
}

// An answer that was lost is asked for again: nothing is done twice, and who was waiting meanwhile hears what he was granted.
func TestAskedAgain(t *testing.T) {
	q := begin(t)
	a, b := q.client("a"), q.client("b")
	first := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	ask := b.command(&lockquorum.Acquire{Lock: lists, TTL: 20_000})
	if r, _ := q.apply(ask); r.Code != lockquorum.CodeQueued {
		t.Fatal(r.Code)
	}
	commit := a.command(&lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, New: heads(1)})
	for range 2 {
		if r, _ := q.apply(commit); r.Code != lockquorum.CodeDone {
			t.Fatalf("a commit that was sent again: %v", r.Code)
		}
	}
	release := a.command(&lockquorum.Release{Lock: lists, Token: first.Token})
	for range 2 {
		if r, _ := q.apply(release); r.Code != lockquorum.CodeDone {
			t.Fatalf("a release that was sent again: %v", r.Code)
		}
	}
	if r, _ := q.apply(ask); r.Code != lockquorum.CodeDone || r.Token != q.lease(lists).Token {
		t.Fatalf("who asks again for what was granted meanwhile: %+v", r)
	}
	b.expect(lockquorum.CodeDone, &lockquorum.Keep{}) // which says that the answer has come
	if r, _ := q.apply(ask); r.Code != lockquorum.CodeOld {
		t.Fatalf("what was answered comes again: %v", r.Code)
	}
	other := *b
	other.device = a.device
	other.expect(lockquorum.CodeNoSession, &lockquorum.Keep{})
}

// Of a machine that was copied or put back to an image, while it ran, two processes have one session. Each place in it is of one command:
// none of them takes the answer to what the other one asked for its own. Else two invoices had one number.
func TestPlaceOfAnotherCommand(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	invoices := lockquorum.CircleID{1}
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 10})
	l := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	copied := *a
	a.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{1}})
	copied.expect(lockquorum.CodeReused, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{2}})
	copied = *a
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, New: heads(1)})
	copied.expect(lockquorum.CodeReused, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, New: heads(2)})

	b := q.client("b")
	ask := b.command(&lockquorum.Acquire{Lock: lists, TTL: 20_000})
	if r, _ := q.apply(ask); r.Code != lockquorum.CodeQueued {
		t.Fatal(r.Code)
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Release{Lock: lists, Token: l.Token})
	other := *ask
	other.Operation = &lockquorum.Acquire{Lock: lists, TTL: 10_000}
	if r, _ := q.apply(&other); r.Code != lockquorum.CodeReused {
		t.Fatalf("another command in the place of who waited: %v", r.Code)
	}
	if r, _ := q.apply(ask); r.Code != lockquorum.CodeDone {
		t.Fatalf("who waited asks again: %v", r.Code)
	}
}

// A session that ends takes its leases and its places with it, and nothing of it is carried out after that.
func TestSessionEnds(t *testing.T) {
	q := begin(t)
	a, b, c := q.client("a"), q.client("b"), q.client("c")
	a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 3600_000})
	b.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 3600_000})
	c.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 3600_000})
	q.clock += 59_000
	a.expect(lockquorum.CodeDone, &lockquorum.Keep{})
	c.expect(lockquorum.CodeDone, &lockquorum.Keep{})
	q.clock += 1_000
	b.expect(lockquorum.CodeNoSession, &lockquorum.Keep{})
	a.expect(lockquorum.CodeDone, &lockquorum.End{})
	a.expect(lockquorum.CodeNoSession, &lockquorum.Acquire{Lock: lists, TTL: 1000})
	if l := q.lease(lists); l.Session != c.session || len(l.Waiting) > 0 {
		t.Fatalf("after two of three sessions ended: %+v", l)
	}
}

// One device alone uses up neither the sessions nor the locks.
func TestNobodyIsLeftWithout(t *testing.T) {
	q := &quorum{t: t, st: lockquorum.New(1)}
	apply := func(c *lockquorum.Command) lockquorum.Code {
		q.index++
		raw, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r, _ := q.st.Apply(q.index, c, raw)
		return r.Code
	}
	greedy, session := lockquorum.DeviceID{1}, lockquorum.SessionID{0, 0, 1}
	open := func(device lockquorum.DeviceID, s lockquorum.SessionID) lockquorum.Code {
		return apply(&lockquorum.Command{Device: device, Session: s, Seq: 1, Operation: &lockquorum.Open{TTL: lockquorum.MaxTTL}})
	}
	for i := 0; open(greedy, lockquorum.SessionID{byte(i), byte(i >> 8), 1}) == lockquorum.CodeDone; i++ {
	}
	for i := uint64(2); apply(&lockquorum.Command{Device: greedy, Session: session, Seq: i, Done: i - 1,
		Operation: &lockquorum.Acquire{Lock: lockquorum.LockID{byte(i), byte(i >> 8)}, TTL: lockquorum.MaxTTL}}) == lockquorum.CodeDone; i++ {
	}
	if st, err := lockquorum.Restore(q.st.Snapshot()); err != nil {
		t.Fatal(err)
	} else {
		q.st = st
	}
	if code := open(lockquorum.DeviceID{2}, lockquorum.SessionID{2, 2, 2}); code != lockquorum.CodeDone {
		t.Errorf("another device's session: %v", code)
	}
	if code := apply(&lockquorum.Command{Device: lockquorum.DeviceID{2}, Session: lockquorum.SessionID{2, 2, 2}, Seq: 2, Done: 1,
		Operation: &lockquorum.Acquire{Lock: lockquorum.LockID{9, 9, 9}, TTL: 20_000}}); code != lockquorum.CodeDone {
		t.Errorf("another device's lock: %v", code)
	}
}

// One command grants one lease of a lock: who is granted one by the very command that ends it does not pass on its token.
func TestTokenOnce(t *testing.T) {
	q := begin(t)
	a, b, c := q.client("a"), q.client("b"), q.client("c")
	a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 1000})
	b.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 1000})
	c.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 1000})
	q.clock += 1000
	// a's lease ends by the clock of this command, b is granted it, and gives it up by it.
	guess := lockquorum.Token{Epoch: 1, Index: q.index + 1}
	b.expect(lockquorum.CodeDone, &lockquorum.Release{Lock: lists, Token: guess})
	if l := q.lease(lists); l.Holder != (lockquorum.DeviceID{}) || len(l.Waiting) != 1 {
		t.Fatalf("after it: %+v", l)
	}
	_, events := q.apply(&lockquorum.Command{Operation: &lockquorum.Tick{}})
	if len(events) != 1 || events[0].Session != c.session || events[0].Token.Compare(guess) <= 0 {
		t.Fatalf("the next command amounts to %+v", events)
	}
}

// An administrator breaks the lease that he saw, and no later one; documents go back to heads that were certified, and to no others.
func TestBreak(t *testing.T) {
	q := begin(t)
	a, b := q.client("a"), q.client("b")
	first := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	for i := range 3 {
		var expected lockquorum.Heads
		if i > 0 {
			expected = heads(i)
		}
		a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, Expected: expected, New: heads(i + 1)})
	}
	back := func(h lockquorum.Heads) []lockquorum.Certified {
		return []lockquorum.Certified{{Document: codes, Heads: h}}
	}
	b.expect(lockquorum.CodeMismatch, &lockquorum.Break{Lock: lists, Token: first.Token, Back: back(heads(7))})
	b.expect(lockquorum.CodeMismatch, &lockquorum.Break{Lock: lists, Token: first.Token, Back: []lockquorum.Certified{{Document: prices, Heads: heads(1)}}})
	b.expect(lockquorum.CodeDone, &lockquorum.Break{Lock: lists, Token: first.Token, Note: []byte("sealed")})
	a.expect(lockquorum.CodeStale, &lockquorum.Commit{Lock: lists, Token: first.Token, Document: codes, Expected: heads(3), New: heads(4)})
	// Nobody can read the newest heads: they go back, although nobody holds the lock.
	b.expect(lockquorum.CodeDone, &lockquorum.Break{Lock: lists, Token: first.Token, Back: back(heads(2))})
	b.expect(lockquorum.CodeStale, &lockquorum.Break{Lock: lists, Token: first.Token})
	second := b.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b.expect(lockquorum.CodeStale, &lockquorum.Break{Lock: lists, Token: first.Token})
	b.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: second.Token, Document: codes, Expected: heads(2), New: heads(5)})
	l := q.lease(lists)
	if len(l.Breaks) != 2 || l.Breaks[0].By != b.device || string(l.Breaks[0].Note) != "sealed" || l.Documents[0].Heads != heads(5) {
		t.Fatalf("at the end: %+v", l)
	}
}

// A quorum that is founded anew has larger tokens, no lease, and circles that say that they may have given more.
func TestReseed(t *testing.T) {
	q := begin(t)
	a, b := q.client("a"), q.client("b")
	old := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: old.Token, Document: codes, New: heads(1)})
	invoices := lockquorum.CircleID{1}
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 1000})
	given := a.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{1}})

	q.st.Reseed(2, []lockquorum.Voter{{ID: 9, Device: a.device}})
	a.expect(lockquorum.CodeNoSession, &lockquorum.Commit{Lock: lists, Token: old.Token, Document: codes, Expected: heads(1), New: heads(2)})
	l := q.lease(lists)
	if l.How != lockquorum.SealReseeded || l.Documents[0].Heads != heads(1) || len(l.Waiting) > 0 {
		t.Fatalf("after a reseed: %+v", l)
	}
	c := q.client("c")
	if r := c.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000}); r.Token.Compare(old.Token) <= 0 || r.Token.Epoch != 2 {
		t.Errorf("token %v after %v", r.Token, old.Token)
	}
	c.expect(lockquorum.CodeClosed, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{2}})
	if r := c.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 1000}); r.Series != (lockquorum.SeriesID{Epoch: 2, N: 2}) {
		t.Errorf("the next series is %v", r.Series)
	}
	if r := c.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{1}}); r.Number != given.Number || r.Series != given.Series {
		t.Errorf("an item that has a number was given %d of series %v", r.Number, r.Series)
	}
	if r := c.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{2}}); r.Number != 1 || r.Series.Epoch != 2 {
		t.Errorf("the first of the next series is %d of series %v", r.Number, r.Series)
	}
}

// The log of a quorum that is founded anew begins anew. What is said in it is later than all that was said before, whatever its index.
func TestReseedIsLater(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	l := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, New: heads(1)})
	for range 20 {
		a.expect(lockquorum.CodeDone, &lockquorum.Keep{})
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, Expected: heads(1), New: heads(2)})
	before := q.lease(lists).Documents[0]
	q.st.Reseed(2, nil)
	if q.index = 0; q.st.Index() != 0 {
		t.Errorf("the log of the next epoch begins at %d", q.st.Index())
	}
	sealed := q.lease(lists).SealedAt
	b := q.client("b")
	b.expect(lockquorum.CodeDone, &lockquorum.Break{Lock: lists, Token: l.Token, Back: []lockquorum.Certified{{Document: codes, Heads: heads(1)}}})
	if now := q.lease(lists).Documents[0]; now.At.Compare(before.At) <= 0 || now.At.Compare(sealed) <= 0 {
		t.Errorf("taken back at %v, certified at %v, sealed at %v", now.At, before.At, sealed)
	}
}

// What holds a token of later than now, or a lease of an earlier epoch, or a session that is none, does not go on.
func TestRestoreRefuses(t *testing.T) {
	q := begin(t)
	q.client("a").expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b := q.st.Snapshot()
	for what, bent := range map[string]func([]byte){
		"a token of later than now":   func(b []byte) { b[6] = 1 },
		"a lease of an earlier epoch": func(b []byte) { b[5] = 2 },
		"a session of zeros": func(b []byte) {
			id := lockquorum.SessionID{'a'}
			for {
				at := bytes.Index(b, id[:])
				if at < 0 {
					return
				}
				clear(b[at : at+len(id)])
			}
		},
	} {
		other := bytes.Clone(b)
		if bent(other); bytes.Equal(other, b) {
			t.Fatalf("%s: the snapshot is as it was", what)
		}
		if _, err := lockquorum.Restore(other); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// What the quorum of before gave that nobody remembers comes from no series of the next one: neither if that begins with what an older
// snapshot has, nor if it begins with nothing.
func TestReseedOfWhatIsOlder(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	invoices := lockquorum.CircleID{1}
	open := &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 1000}
	a.expect(lockquorum.CodeDone, open)
	older := q.st.Snapshot()
	a.expect(lockquorum.CodeDone, &lockquorum.CloseCircle{Circle: invoices})
	a.expect(lockquorum.CodeDone, open)
	given := a.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{1}})
	for what, snapshot := range map[string][]byte{"an older snapshot": older, "nothing": lockquorum.New(1).Snapshot()} {
		st, err := lockquorum.Restore(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		st.Reseed(2, nil)
		next := &quorum{t: t, st: st}
		b := next.client("b")
		b.expect(lockquorum.CodeDone, open)
		r := b.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{2}})
		if r.Series == given.Series && r.Number == given.Number {
			t.Errorf("from %s another item is given %d of series %v too", what, r.Number, r.Series)
		}
	}
}

// A circle gives each item one number, in order, for ever; what became of a number is said once.
func TestNumbers(t *testing.T) {
	q := begin(t)
	a, b := q.client("a"), q.client("b")
	invoices := lockquorum.CircleID{1}
	item := func(n int) (id lockquorum.ItemID) { copy(id[:], fmt.Sprintf("item %d", n)); return id }
	a.expect(lockquorum.CodeUnknown, &lockquorum.Assign{Circle: invoices, Item: item(1)})
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 101, Last: 103})
	b.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 101, Last: 103})
	b.expect(lockquorum.CodeExists, &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 103})
	for i := range 3 {
		for _, c := range []*client{a, b} {
			if r := c.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: item(i)}); r.Number != int64(101+i) || r.Series != (lockquorum.SeriesID{Epoch: 1, N: 1}) {
				t.Fatalf("item %d is %d", i, r.Number)
			}
		}
	}
	a.expect(lockquorum.CodeExhausted, &lockquorum.Assign{Circle: invoices, Item: item(3)})
	a.expect(lockquorum.CodeDone, &lockquorum.Resolve{Circle: invoices, Item: item(0), To: lockquorum.NumberUsed})
	a.expect(lockquorum.CodeDone, &lockquorum.Resolve{Circle: invoices, Item: item(0), To: lockquorum.NumberUsed})
	a.expect(lockquorum.CodeResolved, &lockquorum.Resolve{Circle: invoices, Item: item(0), To: lockquorum.NumberVoid})
	a.expect(lockquorum.CodeDone, &lockquorum.Resolve{Circle: invoices, Item: item(1), To: lockquorum.NumberVoid, Note: []byte("sealed")})
	a.expect(lockquorum.CodeUnknown, &lockquorum.Resolve{Circle: invoices, Item: item(3), To: lockquorum.NumberVoid})
	a.expect(lockquorum.CodeDone, &lockquorum.CloseCircle{Circle: invoices})
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: invoices, First: 1, Last: 10})
	if r := a.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: invoices, Item: item(1)}); r.Number != 102 || r.Series != (lockquorum.SeriesID{Epoch: 1, N: 1}) {
		t.Errorf("an item whose number is void was given %d of series %v", r.Number, r.Series)
	}
	list, _ := q.st.Circle(invoices)
	var states []string
	for _, n := range list[0].Numbers {
		states = append(states, fmt.Sprint(n.Number, " ", n.State))
	}
	if want := []string{"101 used", "102 void", "103 reserved"}; len(list) != 2 || !slices.Equal(states, want) {
		t.Errorf("the circle has %v", states)
	}
}

// Parts of a number space never overlap, also with what was taken back.
func TestRanges(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	patients := lockquorum.RangeID{1}
	grant := func(lo, hi int64) *lockquorum.Grant {
		return &lockquorum.Grant{Range: patients, Owner: a.device, Log: [32]byte{1}, Min: lo, Max: hi, Increment: 1}
	}
	a.expect(lockquorum.CodeDone, grant(100, 199))
	a.expect(lockquorum.CodeDone, grant(100, 199))
	a.expect(lockquorum.CodeDone, grant(300, 399))
	for _, g := range []*lockquorum.Grant{grant(150, 160), grant(50, 100), grant(199, 250), grant(50, 500), grant(250, 300), grant(100, 198), grant(399, 399)} {
		a.expect(lockquorum.CodeOverlap, g)
	}
	a.expect(lockquorum.CodeDone, grant(200, 299))
	a.expect(lockquorum.CodeUnknown, &lockquorum.Void{Range: patients, Min: 100, From: 201})
	a.expect(lockquorum.CodeDone, &lockquorum.Void{Range: patients, Min: 100, From: 150})
	a.expect(lockquorum.CodeDone, &lockquorum.Void{Range: patients, Min: 100, From: 150})
	a.expect(lockquorum.CodeResolved, &lockquorum.Void{Range: patients, Min: 100, From: 140})
	a.expect(lockquorum.CodeOverlap, grant(100, 199))
	a.expect(lockquorum.CodeOverlap, grant(160, 170))
	if parts := q.st.Range(patients); len(parts) != 3 || !parts[0].Void || parts[0].From != 150 || parts[1].Void {
		t.Errorf("parts %+v", parts)
	}
}
