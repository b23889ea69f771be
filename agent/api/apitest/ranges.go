package apitest

import (
	"context"

	"chartmesh/agent/api"
)

func ranged(name string) api.Range {
	return api.Range{Name: name, ID: "00", First: 1, Last: 99, Increment: 1, Free: 99, Parts: []api.RangePart{}}
}

// Ranges implements api.Agent.
func (a *Agent) Ranges(context.Context) ([]api.Range, error) {
	return []api.Range{}, a.failing("Ranges")
}

// SetRange implements api.Agent.
func (a *Agent) SetRange(_ context.Context, req api.RangeRequest) (api.Range, error) {
	return ranged(req.Name), a.failing("SetRange")
}

// GrantRange implements api.Agent.
func (a *Agent) GrantRange(_ context.Context, req api.RangeGrant) (api.Range, error) {
	return ranged(req.Name), a.failing("GrantRange")
}

// VoidRange implements api.Agent.
func (a *Agent) VoidRange(_ context.Context, _ string, req api.RangeVoid) (api.Range, error) {
	return ranged(req.Name), a.failing("VoidRange")
}

// NextInRange implements api.Agent.
func (a *Agent) NextInRange(_ context.Context, req api.RangeNext) (api.RangeNumber, error) {
	return api.RangeNumber{Range: req.Name, Number: 1, Item: req.For, Time: Begun, Left: 98}, a.failing("NextInRange")
}

// RangeReport implements api.Agent.
func (a *Agent) RangeReport(_ context.Context, name string) (api.RangeReport, error) {
	return api.RangeReport{Range: ranged(name), Entries: []api.RangeEntry{}}, a.failing("RangeReport")
}
