// Package quorumtest holds what every lockquorum.Engine keeps to.
//
// Nouns: a Subject opens an Engine whose practice has three devices that may do all, and one stranger.
//
// The suite runs in virtual time (testing/synctest), within a bubble of its own for each test.
package quorumtest

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
)

// Who asks: A, B and C may do all, Stranger nothing.
var (
	A        = lockquorum.DeviceID{0xa}
	B        = lockquorum.DeviceID{0xb}
	C        = lockquorum.DeviceID{0xc}
	Stranger = lockquorum.DeviceID{0xd}
)

// Allow is what the Engine is to go by.
func Allow(from lockquorum.DeviceID, _ lockquorum.Operation) bool { return from != Stranger }

// Sign signs for a voter in the way that Trusts knows.
func Sign(voter lockquorum.DeviceID) func(lockquorum.Seen) lockquorum.Position {
	return func(s lockquorum.Seen) lockquorum.Position {
		p := lockquorum.Position{Seen: s, Voter: voter}
		p.Signature = sha512.Sum512(p.Marshal())
		return p
	}
}

// Trusts is what the Engine is to go by in what it is shown.
func Trusts(p lockquorum.Position) bool { return p == Sign(p.Voter)(p.Seen) }

// Subject opens a new Engine in the bubble of the test. When it returns, or soon after, the Engine takes operations.
type Subject func(t *testing.T) lockquorum.Engine

// Run runs the suite.
func Run(t *testing.T, open Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, lockquorum.Engine)
	}{
		{"one holder", oneHolder}, {"in turn", inTurn}, {"runs out", runsOut}, {"renewed", renewed}, {"gives up", givesUp}, {"asked again", askedAgain},
		{"another's session", anothersSession}, {"heads", heads}, {"broken", broken}, {"numbers", numbers}, {"strangers", strangers},
		{"read", read}, {"malformed", malformed}, {"how far", howFar}, {"seen beyond", seenBeyond}, {"seen otherwise", seenOtherwise}, {"seen of later", seenOfLater},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := open(t)
				begin(t, e)
				c.test(t, e)
			})
		})
	}
}

// begin waits until the Engine takes operations.
func begin(t *testing.T, e lockquorum.Engine) {
	t.Helper()
	for range 100 {
		if _, _, err := e.Read(t.Context(), A, lockquorum.Query{Kind: lockquorum.ReadVoters}); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the engine does not begin")
}

// session is a client's.
type session struct {
	t    *testing.T
	e    lockquorum.Engine
	from lockquorum.DeviceID
	id   lockquorum.SessionID
	seq  uint64
}

func opened(t *testing.T, e lockquorum.Engine, from lockquorum.DeviceID, n byte) *session {
	t.Helper()
	s := &session{t: t, e: e, from: from, id: lockquorum.SessionID{from[0], n}}
	s.must(&lockquorum.Open{TTL: 60_000}, lockquorum.CodeDone)
	return s
}

func (s *session) request(o lockquorum.Operation) lockquorum.Request {
	s.seq++
	return lockquorum.Request{Session: s.id, Seq: s.seq, Operation: o, Done: s.seq - 1}
}

func (s *session) ask(r lockquorum.Request) (lockquorum.Answer, error) {
	return s.e.Do(s.t.Context(), s.from, r)
}

func (s *session) must(o lockquorum.Operation, code lockquorum.Code) lockquorum.Answer {
	s.t.Helper()
	a, err := s.ask(s.request(o))
	if err != nil || a.Code != code {
		s.t.Fatalf("%T is answered %v (%v), and should be %v", o, a.Code, err, code)
	}
	return a
}

// waits asks for a lease and waits for its turn.
func (s *session) waits(ctx context.Context, o lockquorum.Operation) <-chan lockquorum.Answer {
	r := s.request(o)
	r.Wait = true
	got := make(chan lockquorum.Answer, 1)
	go func() {
		defer close(got)
		if a, err := s.e.Do(ctx, s.from, r); err == nil {
			got <- a
		}
	}()
	synctest.Wait()
	return got
}

var lock = lockquorum.LockID{1}

const ttl = 20_000

func oneHolder(t *testing.T, e lockquorum.Engine) {
	a, b := opened(t, e, A, 1), opened(t, e, B, 1)
	first := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl, Try: true}, lockquorum.CodeDone)
	if held := b.must(&lockquorum.Acquire{Lock: lock, TTL: ttl, Try: true}, lockquorum.CodeHeld); held.Token != first.Token {
		t.Errorf("the lease that is held is said to be %v, and is %v", held.Token, first.Token)
	}
	b.must(&lockquorum.Release{Lock: lock, Token: first.Token}, lockquorum.CodeStale)
	a.must(&lockquorum.Release{Lock: lock, Token: first.Token}, lockquorum.CodeDone)
	if second := b.must(&lockquorum.Acquire{Lock: lock, TTL: ttl, Try: true}, lockquorum.CodeDone); second.Token.Compare(first.Token) <= 0 {
		t.Errorf("a lease has the token %v after %v", second.Token, first.Token)
	}
}

func inTurn(t *testing.T, e lockquorum.Engine) {
	a, b, c := opened(t, e, A, 1), opened(t, e, B, 1), opened(t, e, C, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	second := b.waits(t.Context(), &lockquorum.Acquire{Lock: lock, TTL: ttl})
	third := c.waits(t.Context(), &lockquorum.Acquire{Lock: lock, TTL: ttl})
	a.must(&lockquorum.Release{Lock: lock, Token: held.Token}, lockquorum.CodeDone)
	got := <-second
	if got.Code != lockquorum.CodeDone || got.Token.Compare(held.Token) <= 0 {
		t.Fatalf("who waited is answered %v with %v", got.Code, got.Token)
	}
	select {
	case <-third:
		t.Fatal("two hold a lease")
	default:
	}
	b.must(&lockquorum.Release{Lock: lock, Token: got.Token}, lockquorum.CodeDone)
	if last := <-third; last.Code != lockquorum.CodeDone || last.Token.Compare(got.Token) <= 0 {
		t.Fatalf("who waited longer is answered %v with %v", last.Code, last.Token)
	}
}

func runsOut(t *testing.T, e lockquorum.Engine) {
	a, b := opened(t, e, A, 1), opened(t, e, B, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	begun := time.Now()
	got := <-b.waits(t.Context(), &lockquorum.Acquire{Lock: lock, TTL: ttl})
	if took := time.Since(begun); got.Code != lockquorum.CodeDone || took < ttl*time.Millisecond-time.Second || took > (ttl+5000)*time.Millisecond {
		t.Errorf("who waits for a lease of 20 s is answered %v after %v", got.Code, took)
	}
	a.must(&lockquorum.Renew{Lock: lock, Token: held.Token}, lockquorum.CodeStale)
	a.must(&lockquorum.Commit{Lock: lock, Token: held.Token, Document: lockquorum.DocumentID{1}, New: lockquorum.Heads{1}}, lockquorum.CodeStale)
}

func renewed(t *testing.T, e lockquorum.Engine) {
	a, b := opened(t, e, A, 1), opened(t, e, B, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	for range 5 {
		time.Sleep(ttl * time.Millisecond / 3)
		a.must(&lockquorum.Renew{Lock: lock, Token: held.Token}, lockquorum.CodeDone)
		b.must(&lockquorum.Acquire{Lock: lock, TTL: ttl, Try: true}, lockquorum.CodeHeld)
	}
}

func givesUp(t *testing.T, e lockquorum.Engine) {
	a, b, c := opened(t, e, A, 1), opened(t, e, B, 1), opened(t, e, C, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	ctx, cancel := context.WithCancel(t.Context())
	gone := b.waits(ctx, &lockquorum.Acquire{Lock: lock, TTL: ttl})
	cancel()
	<-gone
	b.must(&lockquorum.Cancel{Lock: lock}, lockquorum.CodeDone)
	third := c.waits(t.Context(), &lockquorum.Acquire{Lock: lock, TTL: ttl})
	a.must(&lockquorum.Release{Lock: lock, Token: held.Token}, lockquorum.CodeDone)
	if got := <-third; got.Code != lockquorum.CodeDone {
		t.Errorf("who waits behind one that gave up is answered %v", got.Code)
	}
}

func askedAgain(t *testing.T, e lockquorum.Engine) {
	a := opened(t, e, A, 1)
	r := a.request(&lockquorum.Acquire{Lock: lock, TTL: ttl, Try: true})
	first, err := a.ask(r)
	again, err2 := a.ask(r)
	if err != nil || err2 != nil || first.Code != lockquorum.CodeDone || again.Result != first.Result {
		t.Errorf("what is asked again is answered %v (%v), and was %v (%v)", again.Result, err2, first.Result, err)
	}
	r.Operation = &lockquorum.Acquire{Lock: lockquorum.LockID{2}, TTL: ttl, Try: true}
	if other, err := a.ask(r); err != nil || other.Code != lockquorum.CodeReused {
		t.Errorf("another operation in its place is answered %v (%v)", other.Code, err)
	}
}

func anothersSession(t *testing.T, e lockquorum.Engine) {
	a := opened(t, e, A, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	got, err := e.Do(t.Context(), B, a.request(&lockquorum.Release{Lock: lock, Token: held.Token}))
	if err != nil || got.Code != lockquorum.CodeNoSession {
		t.Errorf("another device in its session is answered %v (%v)", got.Code, err)
	}
}

func heads(t *testing.T, e lockquorum.Engine) {
	a, b := opened(t, e, A, 1), opened(t, e, B, 1)
	doc := lockquorum.DocumentID{1}
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	if len(held.Documents) > 0 {
		t.Errorf("of a new lock there is certified %v", held.Documents)
	}
	commit := func(expected, new byte) *lockquorum.Commit {
		return &lockquorum.Commit{Lock: lock, Token: held.Token, Document: doc, Expected: lockquorum.Heads{expected}, New: lockquorum.Heads{new}}
	}
	a.must(commit(0, 1), lockquorum.CodeDone)
	if other := a.must(commit(0, 2), lockquorum.CodeMismatch); other.Heads != (lockquorum.Heads{1}) {
		t.Errorf("certified are %v", other.Heads)
	}
	a.must(&lockquorum.Release{Lock: lock, Token: held.Token}, lockquorum.CodeDone)
	a.must(commit(1, 2), lockquorum.CodeStale)
	next := b.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	if len(next.Documents) != 1 || next.Documents[0].ID != doc || next.Documents[0].Heads != (lockquorum.Heads{1}) {
		t.Errorf("the next holder is told of %v", next.Documents)
	}
}

func broken(t *testing.T, e lockquorum.Engine) {
	a, b, c := opened(t, e, A, 1), opened(t, e, B, 1), opened(t, e, C, 1)
	held := a.must(&lockquorum.Acquire{Lock: lock, TTL: ttl}, lockquorum.CodeDone)
	next := b.waits(t.Context(), &lockquorum.Acquire{Lock: lock, TTL: ttl})
	c.must(&lockquorum.Break{Lock: lock, Token: held.Token, Note: []byte("why")}, lockquorum.CodeDone)
	if got := <-next; got.Code != lockquorum.CodeDone || got.Token.Compare(held.Token) <= 0 {
		t.Errorf("the next one is answered %v with %v", got.Code, got.Token)
	}
	a.must(&lockquorum.Renew{Lock: lock, Token: held.Token}, lockquorum.CodeStale)
	c.must(&lockquorum.Break{Lock: lock, Token: held.Token}, lockquorum.CodeStale) // it never hits the next one
}

func numbers(t *testing.T, e lockquorum.Engine) {
	circle := lockquorum.CircleID{1}
	ask := func(from lockquorum.DeviceID, o lockquorum.Operation) lockquorum.Answer {
		a, err := e.Do(t.Context(), from, lockquorum.Request{Operation: o})
		if err != nil {
			t.Errorf("%T: %v", o, err)
		}
		return a
	}
	if got := ask(A, &lockquorum.Assign{Circle: circle}); got.Code != lockquorum.CodeUnknown {
		t.Errorf("a circle that was never opened answers %v", got.Code)
	}
	ask(A, &lockquorum.OpenCircle{Circle: circle, First: 1, Last: 50})
	var mu sync.Mutex
	var given []int64
	var work sync.WaitGroup
	for i := range 50 {
		from := []lockquorum.DeviceID{A, B, C}[i%3]
		work.Go(func() {
			item := lockquorum.ItemID{byte(i)}
			first := ask(from, &lockquorum.Assign{Circle: circle, Item: item})
			if again := ask(B, &lockquorum.Assign{Circle: circle, Item: item}); first.Code != lockquorum.CodeDone || again.Result != first.Result {
				t.Errorf("an item has %v, and then %v", first.Result, again.Result)
			}
			mu.Lock()
			given = append(given, first.Number)
			mu.Unlock()
		})
	}
	work.Wait()
	slices.Sort(given)
	for i, n := range given {
		if n != int64(i+1) {
			t.Fatalf("the numbers are %v", given)
		}
	}
	if got := ask(A, &lockquorum.Assign{Circle: circle, Item: lockquorum.ItemID{99}}); got.Code != lockquorum.CodeExhausted {
		t.Errorf("a circle of 50 answers the 51st %v", got.Code)
	}
	void := &lockquorum.Resolve{Circle: circle, Item: lockquorum.ItemID{1}, To: lockquorum.NumberVoid, Note: []byte("why")}
	used := &lockquorum.Resolve{Circle: circle, Item: lockquorum.ItemID{1}, To: lockquorum.NumberUsed}
	if a, b := ask(A, void), ask(B, used); a.Code != lockquorum.CodeDone || b.Code != lockquorum.CodeResolved {
		t.Errorf("a number is made void (%v) and then used (%v)", a.Code, b.Code)
	}
}

func strangers(t *testing.T, e lockquorum.Engine) {
	if _, err := e.Do(t.Context(), Stranger, lockquorum.Request{Operation: &lockquorum.Assign{}}); !errors.Is(err, lockquorum.ErrForbidden) {
		t.Errorf("a stranger's operation: %v", err)
	}
	if _, _, err := e.Read(t.Context(), Stranger, lockquorum.Query{Kind: lockquorum.ReadVoters}); !errors.Is(err, lockquorum.ErrForbidden) {
		t.Errorf("a stranger reads: %v", err)
	}
}

func read(t *testing.T, e lockquorum.Engine) {
	a := opened(t, e, A, 1)
	for i := range 5 {
		l := lockquorum.LockID{byte(i)}
		held := a.must(&lockquorum.Acquire{Lock: l, TTL: ttl}, lockquorum.CodeDone)
		st, _, err := e.Read(t.Context(), B, lockquorum.Query{Kind: lockquorum.ReadLock, ID: l})
		if err != nil {
			t.Fatal(err)
		}
		if lease, ok := st.Lease(l); !ok || lease.Token != held.Token || lease.Holder != A {
			t.Errorf("what was answered reads %+v", lease)
		}
	}
}

func malformed(t *testing.T, e lockquorum.Engine) {
	for _, r := range []lockquorum.Request{
		{Seq: 1, Operation: &lockquorum.Keep{}},
		{Session: lockquorum.SessionID{1}, Operation: &lockquorum.Keep{}},
		{Operation: &lockquorum.Resolve{Note: make([]byte, lockquorum.MaxNote+1), To: lockquorum.NumberVoid}},
		{Operation: &lockquorum.OpenCircle{First: 2, Last: 1}},
	} {
		if _, err := e.Do(t.Context(), A, r); err == nil {
			t.Errorf("%s was taken", fmt.Sprintf("%+v", r))
		}
	}
	opened(t, e, A, 1) // and nothing came of it
}
