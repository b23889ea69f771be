package apitest

import (
	"context"

	"chartmesh/agent/api"
)

// Quorum implements api.Agent.
func (a *Agent) Quorum(context.Context) (api.QuorumStatus, error) {
	return api.QuorumStatus{State: api.QuorumOK, Epoch: 1, Voters: []api.QuorumVoter{{Party: api.Party{Name: "Empfang", Site: "Mitte"}, Self: true, Leads: true, Reachable: true}}},
		a.failing("Quorum")
}

// ChangeQuorum implements api.Agent.
func (a *Agent) ChangeQuorum(ctx context.Context, _ api.QuorumChange) (api.QuorumStatus, error) {
	if err := a.failing("ChangeQuorum"); err != nil {
		return api.QuorumStatus{}, err
	}
	return a.Quorum(ctx)
}

// ReseedQuorum implements api.Agent.
func (a *Agent) ReseedQuorum(ctx context.Context, req api.ReseedRequest) (api.Reseed, error) {
	if err := a.failing("ReseedQuorum"); err != nil {
		return api.Reseed{}, err
	}
	here := api.Party{Name: "Empfang", Site: "Mitte"}
	out := api.Reseed{
		Done: !req.Plan, Voters: []api.Party{here}, From: &here, Epoch: 1, Index: 42, Missing: []api.Party{}, Gone: []api.Party{}, Leases: 1, Circles: 2, Notes: []string{"a note"},
		Devices: []api.ReseedDevice{{Party: here, Self: true, Epoch: 1, Index: 42, Whole: true, Parts: 3}, {Party: api.Party{Name: "Labor"}, Problem: "gone for good"}},
	}
	for _, name := range req.Gone {
		out.Gone = append(out.Gone, api.Party{Name: name})
	}
	if len(req.Gone) == 0 {
		out.Devices[1].Problem, out.Missing = "not reachable", []api.Party{{Name: "Labor"}}
	}
	if !req.Plan {
		status, _ := a.Quorum(ctx)
		out.NewEpoch, out.Status = 1<<32, &status
	}
	return out, nil
}

// Leases implements api.Agent.
func (a *Agent) Leases(context.Context) ([]api.Lease, error) {
	return []api.Lease{}, a.failing("Leases")
}

// AcquireLease implements api.Agent.
func (a *Agent) AcquireLease(_ context.Context, _ string, req api.LeaseRequest) (api.Lease, error) {
	return lease(req.Name), a.failing("AcquireLease")
}

func lease(name string) api.Lease {
	return api.Lease{Name: name, ID: "00", Token: "1.2", Held: true, Mine: true, Holder: &api.Party{Name: "Empfang", Site: "Mitte"}, Waiting: []api.Party{}}
}

// HoldLease implements api.Agent.
func (a *Agent) HoldLease(ctx context.Context, _ string, req api.LeaseRequest, held func(api.Lease) error) error {
	if err := a.failing("HoldLease"); err != nil {
		return err
	}
	if err := held(lease(req.Name)); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// WaitLease implements api.Agent.
func (a *Agent) WaitLease(_ context.Context, name string) (api.Lease, error) {
	return api.Lease{Name: name, Waiting: []api.Party{}}, a.failing("WaitLease")
}

// ReleaseLease implements api.Agent.
func (a *Agent) ReleaseLease(context.Context, string) error { return a.failing("ReleaseLease") }

// BreakLease implements api.Agent.
func (a *Agent) BreakLease(_ context.Context, _ string, req api.BreakRequest) (api.Lease, error) {
	return api.Lease{Name: req.Name, Ended: "broken", Waiting: []api.Party{}}, a.failing("BreakLease")
}

// Circles implements api.Agent.
func (a *Agent) Circles(context.Context) ([]api.Circle, error) {
	return []api.Circle{}, a.failing("Circles")
}

// OpenCircle implements api.Agent.
func (a *Agent) OpenCircle(_ context.Context, req api.CircleRequest) (api.Circle, error) {
	return api.Circle{Name: req.Name, Series: []api.NumberSeries{{ID: "1.1", First: req.First, Last: req.Last}}}, a.failing("OpenCircle")
}

// CloseCircle implements api.Agent.
func (a *Agent) CloseCircle(_ context.Context, name string) (api.Circle, error) {
	return api.Circle{Name: name, Series: []api.NumberSeries{{ID: "1.1", First: 1, Last: 9, Closed: "closed"}}}, a.failing("CloseCircle")
}

// AssignNumber implements api.Agent.
func (a *Agent) AssignNumber(_ context.Context, req api.NumberRequest) (api.Number, error) {
	return api.Number{Circle: req.Circle, Series: "1.1", Number: 1, Item: req.Item, State: api.NumberReserved}, a.failing("AssignNumber")
}

// ResolveNumber implements api.Agent.
func (a *Agent) ResolveNumber(_ context.Context, user string, req api.ResolveRequest) (api.Number, error) {
	return api.Number{Circle: req.Circle, Series: "1.1", Number: 1, Item: req.Item, State: req.State, User: user, Reason: req.Reason}, a.failing("ResolveNumber")
}

// Numbers implements api.Agent.
func (a *Agent) Numbers(_ context.Context, circle string) (api.NumberReport, error) {
	return api.NumberReport{Circle: api.Circle{Name: circle, Series: []api.NumberSeries{}}, Numbers: []api.Number{}}, a.failing("Numbers")
}
