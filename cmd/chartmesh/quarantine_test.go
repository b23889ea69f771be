package main

import (
	"encoding/json"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

// TestQuarantine runs the commands, in a process and over a socket; what is held cannot steer the terminal.
func TestQuarantine(t *testing.T) {
	both(t, func(t *testing.T, f *folder) {
		now := apitest.Begun
		f.agent.AddHeld(api.HeldDetail{
			ID: "aaaa1111", Bytes: 4711,
			Held: api.Held{Chunk: "aaaa1111", State: "quarantined", Reason: "two changes in one place", Device: "Lab\x1bor", Site: "Nord", Kind: "changes",
				Log: "0102", Counter: 3, Written: &now, Since: &now, Document: "d0c0", Scope: "clinical", Resources: []string{"Patient/p"},
				Waiting: []string{"bbbb2222"}, Releasable: true},
			Decisions: []api.HeldDecided{{Verdict: "discard", Replaced: true, User: "Dr. Tal", Device: "Labor", Time: now, Reason: "so"}},
			Content: &api.HeldContent{Author: "Mal\u202elory", Origin: "edit", Cut: true, Changes: []api.HeldChange{
				{Hash: "beef", Operations: 1, Values: []api.HeldValue{
					{Path: "Patient/p.name", Value: json.RawMessage(`"\u001b[2J"`)}, {Path: "Patient/p.x", Removed: true}}},
				{Bytes: 9, Malformed: "no change"}}},
		})
		f.agent.AddHeld(api.HeldDetail{ID: "bbbb2222", Held: api.Held{Chunk: "bbbb2222", State: "unapplied", Reason: "engine", Tries: 3, NextTry: &now},
			Hidden: "it does not open"})
		f.agent.AddHeld(api.HeldDetail{ID: "cccc3333", Held: api.Held{Chunk: "cccc3333", State: "quarantined", Reason: "malformed"}})
		ctx := t.Context()
		want := func(r result, code int, out ...string) {
			t.Helper()
			if r.code != code || strings.ContainsAny(r.out+r.err, "\x1b\u202e") {
				t.Fatalf("%+v", r)
			}
			for _, s := range out {
				if !strings.Contains(r.out+r.err, s) {
					t.Errorf("%q is missing in\n%s%s", s, r.out, r.err)
				}
			}
		}
		want(f.run(ctx, "", "quarantine", "list", "--limit", "1"), 0, `Lab\u001bor at Nord`, "1 for it", "Patient/p", "1 of 3 chunks", "--after ")
		want(f.run(ctx, "", "quarantine", "list", "--limit", "1001"), 2, "limit is 1 to 1,000")
		r := f.run(ctx, "", "quarantine", "show", "aaaa")
		want(r, 0, "quarantined: two changes in one place", `Lab\u001bor at Nord, chunk 3 of log 0102, changes, 4.71 kB`, "d0c0 in clinical",
			"bbbb2222", "discard by Dr. Tal, Labor, ", ": so (replaced)", `edit by Mal\u202elory`, "change beef, 1 operation", `Patient/p.name  "\u001b[2J"`,
			"Patient/p.x  (removed)", "change of 9 B that cannot be read: no change", "… and more", "quarantine release aaaa1111")
		want(f.run(ctx, "", "quarantine", "show", "bbbb"), 0, "3 times, again at a start after ", "it does not open", "quarantine retry bbbb2222")
		want(f.run(ctx, "", "quarantine", "show", "dddd"), 3)
		want(f.run(ctx, "", "quarantine", "release", "cccc"), 2, "a release cannot help: malformed", "hint: ")
		want(f.run(ctx, "", "quarantine", "release", "aaaa"), 0, "aaaa1111 applied")
		want(f.run(ctx, "", "quarantine", "discard", "cccc", "--reason", "a\nb"), 2, "the reason is one line")
		want(f.run(ctx, "", "quarantine", "discard", "cccc", "--json"), 0, `"state": "discarded"`)
		want(f.run(ctx, "", "quarantine", "retry"), 0, "1 chunk tried, 1 applied")
		want(f.run(ctx, "", "quarantine", "list"), 0, "nothing is held back")
		want(f.run(ctx, "", "quarantine", "list", "--state", "discarded", "--json"), 0, `"total": 1`)
	})
}
