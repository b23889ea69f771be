package apitest

import (
	"context"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
)

// PlanErasure implements api.Agent: every resource can be erased, with a document of its own.
func (a *Agent) PlanErasure(_ context.Context, req api.ErasureRequest) (plan api.ErasurePlan, err error) {
	if err := a.failing("PlanErasure"); err != nil {
		return plan, err
	}
	return api.ErasurePlan{Documents: 1, Chunks: 3, Resources: map[string]int{req.Resource.Type: 1}}, nil
}

// OrderErasure implements api.Agent.
func (a *Agent) OrderErasure(_ context.Context, user string, req api.ErasureRequest) (e api.Erasure, err error) {
	if err := a.failing("OrderErasure"); err != nil {
		return e, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e = api.Erasure{ID: strings.Repeat("e", len(a.mu.erasures)+4), State: "ordered", Documents: 1, Chunks: 3, Reason: req.Reason,
		Ordered: api.ErasureWord{Device: "Front desk", Site: "Hauptsitz", User: user, At: time.Unix(1_800_000_000, 0).UTC()}}
	if req.Resource.Type == "Patient" {
		e.Patient = req.Resource.String()
	}
	if req.RecoveryCode != "" {
		e.State, e.Agreed = "erased", &api.ErasureWord{Device: "Front desk", User: user, At: e.Ordered.At, Recovery: true}
	}
	a.mu.erasures = append([]api.Erasure{e}, a.mu.erasures...)
	return e, nil
}

// AgreeErasure implements api.Agent.
func (a *Agent) AgreeErasure(_ context.Context, user, id string, _ api.ErasureAgreement) (e api.Erasure, err error) {
	if err := a.failing("AgreeErasure"); err != nil {
		return e, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.mu.erasures, func(e api.Erasure) bool { return strings.HasPrefix(e.ID, id) })
	if i < 0 {
		return e, &api.Error{Code: api.CodeNotFound, Message: "no erasure has this id"}
	}
	had := &a.mu.erasures[i]
	had.State, had.Agreed = "erased", &api.ErasureWord{Device: "Lab", User: user, At: had.Ordered.At}
	return *had, nil
}

// Erasures implements api.Agent.
func (a *Agent) Erasures(context.Context) ([]api.Erasure, error) {
	if err := a.failing("Erasures"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.mu.erasures), nil
}
