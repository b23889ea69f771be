package remote

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/trust"
)

func owned(n int) (list []lockquorum.Owned) {
	for i := range n {
		o := lockquorum.Owned{Range: lockquorum.RangeID{9}, Part: lockquorum.Part{Min: int64(10 * i), Max: int64(10*i + 9), Increment: 1, Owner: quorumtest.A}}
		if o.Log[3] = 4; i%2 == 1 {
			o.Void, o.From = true, o.Max+1
		}
		list = append(list, o)
	}
	return list
}

// TestTestimony: what a device has comes whole, also where it is long.
func TestTestimony(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{0, 1, maxPiece, 3*maxPiece + 7} {
			want := Testimony{Log: bytes.Repeat([]byte{byte(size), 2, 3}, size)[:size], Parts: owned(size % 5)}
			held := 0
			s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return nil }, Testify: func(_ context.Context, from lockquorum.DeviceID, hold bool) (Testimony, error) {
				if from != quorumtest.A {
					return Testimony{}, lockquorum.ErrForbidden
				}
				if hold {
					held++
				}
				return want, nil
			}}
			got, err := reach(t, s, quorumtest.A, practice).Testimony(t.Context(), size > 0)
			if err != nil || !bytes.Equal(got.Log, want.Log) || len(got.Parts) != len(want.Parts) || held != min(size, 1) {
				t.Errorf("%d bytes come as %d, and %d parts; held %d times (%v)", size, len(got.Log), len(got.Parts), held, err)
			}
			if _, err := reach(t, s, quorumtest.B, practice).Testimony(t.Context(), true); !errors.Is(err, lockquorum.ErrForbidden) {
				t.Errorf("who may not: %v", err)
			}
		}
		if _, err := reach(t, &Server{Practice: practice}, quorumtest.A, practice).Testimony(t.Context(), true); !errors.Is(err, lockquorum.ErrForbidden) {
			t.Errorf("where nobody answers: %v", err)
		}
	})
}

// TestPrepare: a voter's State comes whole, from who may have one stored; of who may not nothing is taken.
func TestPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1, maxPiece, 5 * maxPiece} {
			want := Prepare{Entry: trust.EntryID{7}, Epoch: 1 << 33, Number: 3, State: bytes.Repeat([]byte{1, 2, 3}, size)[:size]}
			var got Prepare
			s := &Server{
				Practice: practice, Founds: func(from lockquorum.DeviceID) bool { return from == quorumtest.A },
				Prepare: func(_ context.Context, _ lockquorum.DeviceID, p Prepare) error { got = p; return nil },
			}
			if err := reach(t, s, quorumtest.B, practice).Prepare(t.Context(), want); !errors.Is(err, lockquorum.ErrForbidden) || got.State != nil {
				t.Errorf("who may not: %v", err)
			}
			must(t, reach(t, s, quorumtest.A, practice).Prepare(t.Context(), want))
			if got.Entry != want.Entry || got.Epoch != want.Epoch || got.Number != want.Number || !bytes.Equal(got.State, want.State) {
				t.Errorf("%d bytes come as %d", size, len(got.State))
			}
		}
	})
}

// FuzzTestimony: what a device has is read as it was written.
func FuzzTestimony(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseTestimony(b); return err },
		Testimony{}.encode(), Testimony{Log: []byte(fuzzing.Canary), Parts: owned(3)}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var got Testimony
		var err error
		fuzzing.Allocates(t, len(b), 16, 8<<10, func() { got, err = parseTestimony(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(got.encode(), b) {
			t.Errorf("%x comes back as %x", b, got.encode())
		}
	})
}
