package client_test

import (
	"reflect"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
	"chartmesh/agent/client"
)

// TestQuarantineSame holds that what the agent says of held chunks comes out as it went in.
func TestQuarantineSame(t *testing.T) {
	ways(t, func(t *testing.T, agent *apitest.Agent, c *client.Client) {
		ctx, since := t.Context(), apitest.Begun
		bad := api.HeldDetail{
			ID: "aaaa1111", Bytes: 7, Hidden: "it does not open",
			Held: api.Held{Chunk: "aaaa1111", State: "quarantined", Reason: "it <does> not open", Device: "Labor", Since: &since, Waiting: []string{"x"}},
		}
		policy := api.HeldDetail{
			ID: "bbbb2222", Content: &api.HeldContent{Author: "Mallory", Changes: []api.HeldChange{{Bytes: 3, Malformed: "so"}}},
			Held: api.Held{Chunk: "bbbb2222", State: "quarantined", Releasable: true, WaitsFor: &api.Need{Kind: "key", ID: "00"}},
		}
		stuck := api.HeldDetail{ID: "cccc3333", Held: api.Held{Chunk: "cccc3333", State: "unapplied", Tries: 3, NextTry: &since}}
		for _, h := range []api.HeldDetail{bad, policy, stuck} {
			agent.AddHeld(h)
		}
		page, err := c.Held(ctx, api.HeldQuery{State: "quarantined", Limit: 1})
		if err != nil || page.Total != 2 || page.Next == "" || !reflect.DeepEqual(page.Chunks, []api.Held{bad.Held}) {
			t.Fatalf("page %+v, %v", page, err)
		}
		if page, err = c.Held(ctx, api.HeldQuery{After: page.Next, Limit: 5}); err != nil || page.Next != "" || len(page.Chunks) != 2 {
			t.Fatalf("next page %+v, %v", page, err)
		}
		if got, err := c.HeldChunk(ctx, "bbbb"); err != nil || !reflect.DeepEqual(got, policy) {
			t.Fatalf("chunk %+v, %v", got, err)
		}
		for _, id := range []string{"", "..", "a/b", "dddd"} {
			if _, err := c.HeldChunk(ctx, id); api.CodeOf(err) != api.CodeNotFound {
				t.Fatalf("chunk %q: %v", id, err)
			}
		}
		decide := func(id, verdict string) (api.HeldOutcome, error) {
			return c.DecideHeld(ctx, "Dr. Bérg", id, api.HeldDecision{Verdict: verdict, Reason: "<why>"})
		}
		if _, err := decide("aaaa", "release"); api.CodeOf(err) != api.CodeInvalid || api.AsError(err).Hint == "" {
			t.Fatalf("release of what is malformed: %v", err)
		}
		if out, err := decide("aaaa", "discard"); err != nil || out.State != "discarded" || out.With != 1 {
			t.Fatalf("discard: %+v, %v", out, err)
		}
		if got, err := c.HeldChunk(ctx, "aaaa"); err != nil || len(got.Decisions) != 1 || got.Decisions[0].Reason != "<why>" {
			t.Fatalf("decided %+v, %v", got, err)
		}
		if page, err := c.Held(ctx, api.HeldQuery{Discarded: true, Limit: 5}); err != nil || page.Total != 3 {
			t.Fatalf("with what was discarded: %+v, %v", page, err)
		}
		if out, err := decide("bbbb", "release"); err != nil || out.State != "applied" {
			t.Fatalf("release: %+v, %v", out, err)
		}
		if out, err := c.RetryHeld(ctx, ""); err != nil || out.Tried != 1 || out.Applied != 1 {
			t.Fatalf("retry: %+v, %v", out, err)
		}
		if _, err := decide("aaaa", "burn"); api.CodeOf(err) != api.CodeInvalid {
			t.Fatalf("another verdict: %v", err)
		}
	})
}
