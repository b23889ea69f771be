package quorumtest

import (
	"errors"
	"testing"

	"chartmesh/lockquorum"
)

// shows asks for something, and shows what was seen.
func shows(t *testing.T, e lockquorum.Engine, shown ...lockquorum.Position) (lockquorum.Answer, error) {
	t.Helper()
	return e.Do(t.Context(), A, lockquorum.Request{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 50}, Shown: shown})
}

// howFar: with every answer comes a signed position, each goes on from those before, and what was seen may be shown.
func howFar(t *testing.T, e lockquorum.Engine) {
	var last lockquorum.Position
	for range 3 {
		a, err := shows(t, e, last)
		if err != nil || a.Code != lockquorum.CodeDone || !Trusts(a.Position) || a.Position.Compare(a.Place) < 0 || a.Position.Compare(last.Place) <= 0 {
			t.Fatalf("after %v it answers %v with %v (%v)", last.Place, a.Code, a.Position.Seen, err)
		}
		st, read, err := e.Read(t.Context(), B, lockquorum.Query{Kind: lockquorum.ReadVoters}, last, a.Position)
		if err != nil || !Trusts(read) || read.Seen != st.Seen() || read.GoesOn(a.Position.Seen) != nil {
			t.Fatalf("after %v it reads %v, and says %v (%v)", a.Position.Place, st.Seen(), read.Seen, err)
		}
		last = read
	}
}

// ends checks that nobody is answered who shows something. What is shown and may be made up is left out of account.
func ends(t *testing.T, e lockquorum.Engine, bend func(*lockquorum.Seen), want error) {
	t.Helper()
	a, err := shows(t, e)
	if err != nil {
		t.Fatal(err)
	}
	seen := a.Position.Seen
	bend(&seen)
	if _, err := shows(t, e, lockquorum.Position{Seen: seen, Voter: A}); err != nil {
		t.Fatalf("what nobody signed is believed: %v", err)
	}
	shown := Sign(a.Position.Voter)(seen)
	if a, err := shows(t, e, a.Position, shown); err == nil {
		t.Errorf("who has seen %v is answered from %v", seen.Place, a.Position.Place)
	}
	if _, _, err := e.Read(t.Context(), B, lockquorum.Query{Kind: lockquorum.ReadVoters}, shown); err == nil {
		t.Errorf("who has seen %v may read", seen.Place)
	} else if !errors.Is(err, want) && !errors.Is(err, lockquorum.ErrNotLeader) && !errors.Is(err, lockquorum.ErrOutcomeUnknown) &&
		!errors.Is(err, lockquorum.ErrStopped) { // it may be about to end
		t.Errorf("it says %v", err)
	}
}

func seenBeyond(t *testing.T, e lockquorum.Engine) {
	ends(t, e, func(s *lockquorum.Seen) { s.Index += 1000 }, lockquorum.ErrLost)
}

func seenOtherwise(t *testing.T, e lockquorum.Engine) {
	ends(t, e, func(s *lockquorum.Seen) { s.Chain[0]++ }, lockquorum.ErrLost)
}

func seenOfLater(t *testing.T, e lockquorum.Engine) {
	ends(t, e, func(s *lockquorum.Seen) { s.Epoch += 1 << 32 }, lockquorum.ErrOver)
}
