package quorum

import (
	"testing"
	"testing/synctest"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/trust"
)

// TestTakeBackMany: as many documents as a lock has are taken back by one command.
func TestTakeBackMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, _ := founding(t, trust.RoleAdmin)
		s := first.open(t)
		run(t, s)
		_, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "code-lists"})
		must(t, err)
		held := s.Held()[0]
		for i := range lockquorum.MaxDocuments {
			doc := lockquorum.DocumentID{1, byte(i)}
			must(t, held.Commit(t.Context(), doc, lockquorum.Heads{1}))
			must(t, held.Commit(t.Context(), doc, lockquorum.Heads{2}))
		}
		back, err := s.NotHere(t.Context(), "code-lists", func(_ string, _ lockquorum.DocumentID, heads lockquorum.Heads) (bool, error) {
			return heads != lockquorum.Heads{2}, nil
		})
		must(t, err)
		got, err := s.BreakLease(t.Context(), "", api.BreakRequest{Name: "code-lists", Reason: "lost"}, back)
		if err != nil || got.TakenBack != lockquorum.MaxDocuments {
			t.Errorf("it came to %+v (%v)", got, err)
		}
	})
}

// TestTakeBackMeanwhile: what is committed while it is found out what to take back is not taken back unseen, nor what the next holder commits.
func TestTakeBackMeanwhile(t *testing.T) {
	for _, next := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			first, _ := founding(t, trust.RoleAdmin)
			s := first.open(t)
			run(t, s)
			take := func() Held {
				t.Helper()
				_, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "code-lists"})
				must(t, err)
				return s.Held()[0]
			}
			held, doc := take(), lockquorum.DocumentID{1}
			must(t, held.Commit(t.Context(), doc, lockquorum.Heads{1}))
			must(t, held.Commit(t.Context(), doc, lockquorum.Heads{2}))
			names := func(_ string, _ lockquorum.DocumentID, heads lockquorum.Heads) (bool, error) {
				return heads != lockquorum.Heads{2}, nil
			}
			back, err := s.NotHere(t.Context(), "code-lists", names)
			must(t, err)
			if next {
				must(t, s.ReleaseLease(t.Context(), "code-lists"))
				held = take()
			}
			must(t, held.Commit(t.Context(), doc, lockquorum.Heads{3}))
			if _, err := s.BreakLease(t.Context(), "", api.BreakRequest{Name: "code-lists", Reason: "lost"}, back); api.CodeOf(err) != api.CodeConflict {
				t.Errorf("it came to %v", err)
			}
			id, err := s.id(kindLock, "code-lists")
			must(t, err)
			st, err := s.read(t.Context(), lockquorum.Query{Kind: lockquorum.ReadLock, ID: id})
			must(t, err)
			if l, _ := st.Lease(id); l.Documents[0].Heads != (lockquorum.Heads{3}) || l.How != 0 {
				t.Errorf("the lock is %+v", l)
			}
			if _, err := s.NotHere(t.Context(), "code-lists", names); api.CodeOf(err) != api.CodeConflict {
				t.Errorf("with nothing to take back: %v", err)
			}
		})
	}
}
