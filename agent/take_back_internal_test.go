package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/fhir"
	"chartmesh/lockquorum"
)

// TestTakeBack: where voters certify heads that nobody can name, since whoever committed them is gone with what it wrote, the document can be read as it was before, and edits
// say what to do; an administrator goes back to that, and it is edited again. Without anything to take back nothing is, nor where nothing was certified before.
func TestTakeBack(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	_, err := Init(dir, InitOptions{Practice: "Praxis", Site: "Mitte", Device: "Empfang"})
	fatal(t, err)
	a, err := Open(Config{Dir: dir, NoMDNS: true, NoPorts: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	fatal(t, err)
	t.Cleanup(func() { fatal(t, a.Close()) })
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); fatal(t, <-over) })
	for _, err = a.Leases(ctx); api.CodeOf(err) == api.CodeUnavailable; { // until its voter leads
		_, err = a.Leases(ctx)
	}
	fatal(t, err)
	take := func() quorum.Held {
		t.Helper()
		s, err := a.exclusive()
		fatal(t, err)
		if len(s.Held()) == 0 {
			_, err = s.AcquireLease(ctx, "", api.LeaseRequest{Name: fhir.LockCodeLists, For: time.Hour.Milliseconds()})
			fatal(t, err)
		}
		return s.Held()[0]
	}
	put := func(id, title string) error {
		_, err := a.Put(ctx, "user", json.RawMessage(fmt.Sprintf(`{"resourceType":"CodeSystem","id":%q,"title":%q}`, id, title)), true)
		return err
	}
	back := func() (api.Lease, error) {
		return a.BreakLease(ctx, "user", api.BreakRequest{Name: fhir.LockCodeLists, TakeBack: true, Reason: "lost"})
	}
	name := func(id string) lockquorum.DocumentID {
		_, doc, err := a.records.ProtectedDocument(fhir.LockCodeLists, "CodeSystem/"+id)
		fatal(t, err)
		return quorum.Names{Keys: a.keys, Members: a.members}.Document(doc)
	}
	shows := func(title string) {
		t.Helper()
		if r, err := a.Get(ctx, api.Ref{Type: "CodeSystem", ID: "c1"}, ""); err != nil || !strings.Contains(string(r.JSON), title) || r.Uncommitted {
			t.Errorf("it shows %s (%v), and not %s", r.JSON, err, title)
		}
	}
	take()
	fatal(t, put("c1", "one"))
	if _, err := back(); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("with nothing to take back: %v", err)
	}
	fatal(t, take().Commit(ctx, name("c1"), lockquorum.Heads{9})) // as a device would that is gone by now
	fatal(t, take().Commit(ctx, name("c1"), lockquorum.Heads{8}))
	err = put("c1", "two")
	if e := api.AsError(err); e == nil || e.Code != api.CodeUnavailable || !strings.Contains(e.Hint, "chartmesh lease break code-lists --take-back") {
		t.Errorf("on top of what nobody has: %v", err)
	}
	shows("one")
	fatal(t, a.ReleaseLease(ctx, fhir.LockCodeLists)) // nobody has to hold it
	got, err := back()
	if err != nil || got.TakenBack != 1 {
		t.Errorf("it came to %+v (%v)", got, err)
	}
	shows("one")
	take()
	fatal(t, put("c1", "two"))
	shows("two")
	fatal(t, take().Commit(ctx, name("c2"), lockquorum.Heads{7}))
	fatal(t, a.ReleaseLease(ctx, fhir.LockCodeLists))
	if _, err := back(); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("with nothing to go back to: %v", err)
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
