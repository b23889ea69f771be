package lockquorum_test

import (
	"encoding/binary"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
)

// TestManySessionsEnd: where all sessions of a device end at once, not all locks are gone through in order for each: with all caps reached voters stood still for a
// quarter of a minute. What was gone through shows in what it took of memory.
func TestManySessionsEnd(t *testing.T) {
	q := &quorum{t: t, st: lockquorum.New(1)}
	apply := func(c *lockquorum.Command) lockquorum.Result {
		q.index++
		raw, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r, _ := q.st.Apply(q.index, c, raw)
		return r
	}
	session := func(n int) (id lockquorum.SessionID) {
		binary.BigEndian.PutUint32(id[:], uint32(n+1))
		return id
	}
	for n := range lockquorum.MaxSessionsOfOne {
		apply(&lockquorum.Command{Session: session(n), Seq: 1, Operation: &lockquorum.Open{TTL: 60_000}})
	}
	for n := range uint64(lockquorum.MaxLocksOfOne) {
		var id lockquorum.LockID
		binary.BigEndian.PutUint64(id[:], n)
		take := &lockquorum.Command{Session: session(0), Seq: n + 2, Done: n + 1, Operation: &lockquorum.Acquire{Lock: id, TTL: 60_000}}
		if r := apply(take); r.Code != lockquorum.CodeDone {
			t.Fatalf("lock %d: %v", n, r.Code)
		}
	}
	if got := fuzzing.Allocated(func() { apply(&lockquorum.Command{Clock: 120_000, Operation: &lockquorum.Tick{}}) }); got > 2<<20 {
		t.Errorf("that %d sessions end took %d bytes", lockquorum.MaxSessionsOfOne, got)
	}
	for _, l := range q.st.Leases() {
		if l.How != lockquorum.SealExpired {
			t.Fatalf("lock %v is %v", l.Lock, l.How)
		}
	}
}
