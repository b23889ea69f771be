package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
	"chartmesh/agent/client"
)

const berg = `{"resourceType":"Patient","id":"p1","name":[{"family":"Bérg <&>"}],"x":1.50}`

// served returns an agent behind a socket and the folder of the socket.
func served(tb testing.TB) (*apitest.Agent, string, func()) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cm")
	if err != nil {
		tb.Fatal(err)
	}
	agent := apitest.New()
	l, err := api.Listen(dir)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- api.ServeOn(ctx, l, api.NewHandler(agent, api.Options{})) }()
	stop := func() {
		cancel()
		if err, open := <-ended; open && err != nil {
			tb.Errorf("serve: %v", err)
		}
	}
	tb.Cleanup(func() {
		cancel()
		_ = os.RemoveAll(dir)
	})
	return agent, dir, stop
}

// ways are the two sides on which a caller may stand.
func ways(t *testing.T, fn func(t *testing.T, agent *apitest.Agent, c *client.Client)) {
	t.Run("socket", func(t *testing.T) {
		agent, dir, _ := served(t)
		c, err := client.Dial(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		fn(t, agent, c)
	})
	t.Run("in process", func(t *testing.T) {
		agent := apitest.New()
		c := client.InProcess(agent)
		defer func() { _ = c.Close() }()
		fn(t, agent, c)
	})
}

// TestSame holds that a client answers what the agent itself answers, byte for byte where bytes matter.
func TestSame(t *testing.T) {
	ways(t, func(t *testing.T, agent *apitest.Agent, c *client.Client) {
		ctx := t.Context()
		user, ref := "Dr. Bérg/%", api.Ref{Type: "Patient", ID: "p1"}
		written, err := c.Put(ctx, user, json.RawMessage(berg), false)
		if err != nil || written.Outcome != "created" || written.Ref != "Patient/p1" {
			t.Fatalf("put: %+v, %v", written, err)
		}
		_, err = c.Put(ctx, user, json.RawMessage(`{"resourceType":"Patient","id":"p1"}`), false)
		if e := api.AsError(err); e == nil || e.Code != api.CodeConflict || e.Hint == "" {
			t.Fatalf("second put: %#v", err)
		}
		got, err := c.Get(ctx, ref, "")
		if err != nil || string(got.JSON) != berg || got.Ref != ref || got.Version != written.Version || !got.Updated.Equal(apitest.Begun) {
			t.Fatalf("get: %+v, %v", got, err)
		}
		revisions, err := c.History(ctx, ref)
		if err != nil || len(revisions) != 1 || revisions[0].Author != user || string(revisions[0].JSON) != berg {
			t.Fatalf("history: %+v, %v", revisions, err)
		}
		result, err := c.Import(ctx, user, api.ImportBatch{Resources: []json.RawMessage{
			json.RawMessage(berg), json.RawMessage("{\"resourceType\":\"Patient\",\n\"id\":\"p2\"}"), json.RawMessage(`{"resourceType":"Patient"}`)}})
		if err != nil || result.Created != 1 || result.Unchanged != 1 || len(result.Refused) != 1 || result.Refused[0].Index != 2 {
			t.Fatalf("import: %+v, %v", result, err)
		}
		if _, err := c.Import(ctx, user, api.ImportBatch{Resources: []json.RawMessage{nil}}); api.CodeOf(err) != api.CodeInvalid {
			t.Fatalf("import nothing: %v", err)
		}
		matches, err := c.Find(ctx, "Bérg <&", 5)
		if err != nil || len(matches) != 1 || matches[0].Name != "Bérg <&" {
			t.Fatalf("find: %+v, %v", matches, err)
		}
		var out bytes.Buffer
		if err := c.Export(ctx, &out, api.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
		if want := berg + "\n" + `{"resourceType":"Patient","id":"p2"}` + "\n"; out.String() != want {
			t.Fatalf("export: %q, want %q", out.String(), want)
		}
		if written, err := c.Delete(ctx, user, ref); err != nil || written.Outcome != "deleted" {
			t.Fatalf("delete: %+v, %v", written, err)
		}
		if _, err := c.Get(ctx, ref, ""); api.CodeOf(err) != api.CodeDeleted {
			t.Fatalf("get what was deleted: %v", err)
		}
		revisions, err = c.History(ctx, ref)
		if err != nil || len(revisions) != 2 {
			t.Fatalf("history: %+v, %v", revisions, err)
		}
		if got, err := c.Get(ctx, ref, revisions[0].Version); err != nil || !got.Deleted || got.JSON != nil {
			t.Fatalf("get the deletion: %+v, %v", got, err)
		}
		conflict := api.Conflict{ID: "c1", Resource: "Patient/p2", Path: "birthDate", Shown: 1,
			Values: []api.ConflictValue{{Value: json.RawMessage(`"1.50<"`), Author: "a", Time: apitest.Begun}, {Removed: true, Author: "b", Time: apitest.Begun}}}
		agent.AddConflict(conflict)
		if conflicts, err := c.Conflicts(ctx); err != nil || !reflect.DeepEqual(conflicts, []api.Conflict{conflict}) {
			t.Fatalf("conflicts: %+v, %v", conflicts, err)
		}
		if one, err := c.Conflict(ctx, "c1"); err != nil || !reflect.DeepEqual(one, conflict) {
			t.Fatalf("conflict: %+v, %v", one, err)
		}
		for _, id := range []string{"", "..", "a/b", "none"} {
			if _, err := c.Conflict(ctx, id); api.CodeOf(err) != api.CodeNotFound {
				t.Fatalf("conflict %q: %v", id, err)
			}
		}
		null := api.Decision{Value: json.RawMessage("null")}
		if written, err := c.Resolve(ctx, user, "c1", null); err != nil || written.Outcome != "resolved" {
			t.Fatalf("resolve: %+v, %v", written, err)
		}
		if d, ok := agent.Decided("c1"); !ok || !reflect.DeepEqual(d, null) {
			t.Fatalf("decided %+v", d)
		}
		invite, err := c.Invite(ctx, api.InviteRequest{Role: "admin", Expires: time.Hour})
		if err != nil || invite.Code != "code-for-admin" || !invite.Expires.Equal(apitest.Begun.Add(time.Hour)) {
			t.Fatalf("invite: %+v, %v", invite, err)
		}
		if err := c.SetOnline(ctx, true); err != nil {
			t.Fatal(err)
		}
		if done, err := c.Compact(ctx); err != nil || done.Deleted != 80 || done.Bytes != 6000 {
			t.Fatalf("compact: %+v, %v", done, err)
		}
		there, err := agent.Status(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if here, err := c.Status(ctx, ""); err != nil || !reflect.DeepEqual(here, there) || here.State != "online" {
			t.Fatalf("status: %+v, %v", here, err)
		}
		for name, call := range map[string]func() error{
			"no user": func() error { _, err := c.Put(ctx, "", json.RawMessage(berg), true); return err },
			"no ref":  func() error { _, err := c.Get(ctx, api.Ref{}, ""); return err },
			"nothing": func() error { _, err := c.Put(ctx, user, nil, true); return err },
		} {
			if err := call(); api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestCutExport holds that an export which failed under way is never taken for a whole one.
func TestCutExport(t *testing.T) {
	ways(t, func(t *testing.T, agent *apitest.Agent, c *client.Client) {
		if _, err := c.Put(t.Context(), "a", json.RawMessage(berg), false); err != nil {
			t.Fatal(err)
		}
		agent.Fail("Export", &api.Error{Code: api.CodeDamaged, Message: "a value is damaged"})
		var out bytes.Buffer
		if err := c.Export(t.Context(), &out, api.ExportOptions{}); api.CodeOf(err) != api.CodeDamaged || out.Len() == 0 {
			t.Errorf("%d bytes, then %v", out.Len(), err)
		}
		full := errors.New("no space")
		agent.Fail("Export", nil)
		if err := c.Export(t.Context(), writer(func([]byte) (int, error) { return 0, full }), api.ExportOptions{}); !errors.Is(err, full) {
			t.Errorf("the writer's own error became %v", err)
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

var _ io.Writer = writer(nil)

func TestEvents(t *testing.T) {
	ways(t, func(t *testing.T, agent *apitest.Agent, c *client.Client) {
		put := func(n int) {
			if _, err := agent.Put(t.Context(), "a", json.RawMessage(fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, n)), false); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 3 {
			put(n)
		}
		var seen []uint64
		collect := func(e api.Event) error { seen = append(seen, e.Cursor); return nil }
		if err := c.Events(t.Context(), 1, false, collect); err != nil || !slices.Equal(seen, []uint64{2, 3}) {
			t.Fatalf("events after 1: %v, %v", seen, err)
		}
		seen = nil
		if err := c.Events(t.Context(), 3, false, collect); err != nil || seen != nil {
			t.Fatalf("events after the last: %v, %v", seen, err)
		}
		enough := errors.New("enough")
		err := c.Events(t.Context(), 2, true, func(e api.Event) error {
			if e.Cursor < 6 {
				put(int(e.Cursor)) // each event makes the next
				return collect(e)
			}
			return enough
		})
		if err != enough || !slices.Equal(seen, []uint64{3, 4, 5}) {
			t.Fatalf("followed: %v, %v", seen, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = c.Events(ctx, 0, true, func(api.Event) error { cancel(); return nil })
		if api.CodeOf(err) != api.CodeUnavailable {
			t.Fatalf("cancelled: %v", err)
		}
		agent.Fail("Events", &api.Error{Code: api.CodeGone, Message: "the cursor is no longer held"})
		for _, follow := range []bool{false, true} {
			if err := c.Events(t.Context(), 1, follow, collect); api.CodeOf(err) != api.CodeGone {
				t.Errorf("gone, follow %v: %v", follow, err)
			}
		}
	})
}

func TestWaitInSync(t *testing.T) {
	ways(t, func(t *testing.T, agent *apitest.Agent, c *client.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		_, err := c.WaitInSync(ctx, "")
		if e := api.AsError(err); e == nil || e.Code != api.CodeTimeout || e.Hint == "" {
			t.Fatalf("too short: %#v", err) // with the agent's own hint
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := c.WaitInSync(ctx, ""); api.CodeOf(err) != api.CodeUnavailable {
			t.Fatalf("cancelled: %v", err)
		}
		agent.SetInSync()
		if status, err := c.WaitInSync(t.Context(), ""); err != nil || !status.InSync {
			t.Fatalf("in sync: %+v, %v", status, err)
		}
	})
}

// TestEnd holds what callers see of an agent that ends: streams and waits end at once, later calls say that it stopped.
func TestEnd(t *testing.T) {
	agent, dir, stop := served(t)
	c, err := client.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Put(t.Context(), "a", json.RawMessage(berg), false); err != nil {
		t.Fatal(err)
	}
	following, followed, waited := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		followed <- c.Events(t.Context(), 0, true, func(api.Event) error { close(following); return nil })
	}()
	go func() {
		_, err := c.WaitInSync(t.Context(), "")
		waited <- err
	}()
	<-following
	stop()
	if err := <-followed; api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("follow: %v", err)
	}
	if err := <-waited; api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("wait: %v", err)
	}
	if _, err := c.Status(t.Context(), ""); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("status: %v", err)
	}
	if _, err := client.Dial(dir); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("dial: %v", err)
	}
}

func BenchmarkStatus(b *testing.B) {
	_, dir, _ := served(b)
	c, err := client.Dial(dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Status(b.Context(), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet15KB(b *testing.B) {
	agent, dir, _ := served(b)
	c, err := client.Dial(dir)
	if err != nil {
		b.Fatal(err)
	}
	resource := json.RawMessage(`{"resourceType":"Patient","id":"p1","text":"` + strings.Repeat("x", 15<<10) + `"}`)
	if _, err := agent.Put(b.Context(), "a", resource, false); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Get(b.Context(), api.Ref{Type: "Patient", ID: "p1"}, ""); err != nil {
			b.Fatal(err)
		}
	}
}
