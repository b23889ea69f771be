package client_test

import (
	"context"
	"errors"
	"testing"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/quorumtest"
)

// late is a voter to which a question takes long, while who asks has given it up and asked again.
type late struct {
	lockquorum.Engine
	next bool
	kept []lockquorum.Request
}

func (l *late) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	if _, opens := r.Operation.(*lockquorum.Open); l.next && !opens {
		l.next, l.kept = false, append(l.kept, r)
		return lockquorum.Answer{}, lockquorum.ErrOutcomeUnknown
	}
	return l.Engine.Do(ctx, from, r)
}

// arrives has the questions arrive that were given up.
func (l *late) arrives(t *testing.T) {
	t.Helper()
	if len(l.kept) != 1 {
		t.Fatalf("%d questions are on their way", len(l.kept))
	}
	_, err := l.Engine.Do(t.Context(), quorumtest.A, l.kept[0])
	must(t, err)
	l.kept = nil
}

// TestLateCopies: what an administrator said, and was answered when he asked again, does not come to pass once more when the first question arrives after all:
// a circle that was closed since would give its numbers again.
func TestLateCopies(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, ma *machine) {
		way := &late{Engine: ma.Engine}
		ma.Engine = way
		way.next = true
		series, err := a.OpenCircle(t.Context(), circle, 1, 9)
		must(t, err)
		if n, err := b.Assign(t.Context(), circle, lockquorum.ItemID{1}); err != nil || n.Number != 1 {
			t.Fatalf("the first number is %+v (%v)", n, err)
		}
		_, err = b.CloseCircle(t.Context(), circle)
		must(t, err)
		way.arrives(t)
		if n, err := b.Assign(t.Context(), circle, lockquorum.ItemID{2}); !errors.Is(err, client.ErrClosed) {
			t.Errorf("the circle was closed, and gives %+v (%v), after series %v", n, err, series)
		}
		way.next = true
		_, err = a.CloseCircle(t.Context(), circle)
		must(t, err)
		_, err = b.OpenCircle(t.Context(), circle, 10, 19)
		must(t, err)
		way.arrives(t)
		if n, err := b.Assign(t.Context(), circle, lockquorum.ItemID{3}); err != nil || n.Number != 10 {
			t.Errorf("the circle was opened again, and gives %+v (%v)", n, err)
		}
		patients := lockquorum.RangeID{1}
		way.next = true
		must(t, a.Define(t.Context(), lockquorum.Define{Range: patients, First: 1, Last: 9, Increment: 1, Part: 3}))
		must(t, b.Define(t.Context(), lockquorum.Define{Range: patients, First: 1, Last: 99, Increment: 1, Part: 5}))
		way.arrives(t)
		st, err := b.Read(t.Context(), lockquorum.Query{Kind: lockquorum.ReadRange, ID: patients})
		must(t, err)
		if d, _ := st.Defined(patients); d.Last != 99 || d.By != quorumtest.B {
			t.Errorf("the range is what was said before: %+v", d)
		}
	})
}
