package apitest

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"chartmesh/agent/api"
)

// AddHeld holds a chunk back.
func (a *Agent) AddHeld(h api.HeldDetail) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.held = append(a.mu.held, h)
}

// Held implements api.Agent.
func (a *Agent) Held(_ context.Context, query api.HeldQuery) (page api.HeldPage, err error) {
	if err := a.failing("Held"); err != nil {
		return page, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	after, _ := strconv.Atoi(query.After)
	for i, h := range a.mu.held {
		if query.State != "" && h.State != query.State || query.State == "" && h.State == "discarded" && !query.Discarded {
			continue
		}
		page.Total++
		switch {
		case i < after:
		case len(page.Chunks) == query.Limit:
			if page.Next == "" {
				page.Next = strconv.Itoa(i)
			}
		default:
			page.Chunks = append(page.Chunks, h.Held)
		}
	}
	return page, nil
}

func (a *Agent) heldLocked(id string) (int, error) {
	i := slices.IndexFunc(a.mu.held, func(h api.HeldDetail) bool { return strings.HasPrefix(h.ID, id) })
	if i < 0 {
		return i, &api.Error{Code: api.CodeNotFound, Message: "no chunk that is held back begins so"}
	}
	return i, nil
}

// HeldChunk implements api.Agent.
func (a *Agent) HeldChunk(_ context.Context, id string) (api.HeldDetail, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, err := a.heldLocked(id)
	if err != nil {
		return api.HeldDetail{}, err
	}
	return a.mu.held[i], nil
}

// DecideHeld implements api.Agent: what is releasable is applied, what is not is refused.
func (a *Agent) DecideHeld(_ context.Context, user, id string, decision api.HeldDecision) (api.HeldOutcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, err := a.heldLocked(id)
	if err != nil {
		return api.HeldOutcome{}, err
	}
	h := &a.mu.held[i]
	out := api.HeldOutcome{Chunk: h.Chunk, Verdict: decision.Verdict, State: "discarded"}
	if decision.Verdict == "release" {
		if !h.Releasable {
			return out, &api.Error{Code: api.CodeInvalid, Message: "a release cannot help: " + h.Reason, Hint: "discard it"}
		}
		a.mu.held = slices.Delete(a.mu.held, i, i+1)
		out.State = "applied"
		return out, nil
	}
	h.State, out.With = "discarded", len(h.Waiting)
	h.Decisions = append(h.Decisions, api.HeldDecided{Verdict: "discard", User: user, Time: Begun, Reason: decision.Reason})
	return out, nil
}

// RetryHeld implements api.Agent: what was unapplied is applied.
func (a *Agent) RetryHeld(_ context.Context, id string) (out api.HeldRetry, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.held = slices.DeleteFunc(a.mu.held, func(h api.HeldDetail) bool {
		return h.State == "unapplied" && strings.HasPrefix(h.ID, id) && func() bool { out.Tried++; out.Applied++; return true }()
	})
	return out, nil
}
