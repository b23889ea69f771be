package agent

import (
	"context"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/agent/replica"
	"chartmesh/trust"
)

// logs lists the logs that this folder writes and ever wrote.
func (a *Agent) logs() (list [][32]byte) {
	for _, l := range a.records.OwnLogs() {
		list = append(list, l.ID)
	}
	return list
}

// replaced reports whether the folder was put back, in its own place, from a copy that was made when it wrote a log: whoever wrote on under that is gone.
func (a *Agent) replaced(since [32]byte) (is bool) {
	found := false
	for _, l := range a.records.OwnLogs() {
		if found && apart(l.Reason) {
			if l.Reason != replica.LogRestored {
				return false
			}
			is = true
		}
		found = found || l.ID == since
	}
	return is
}

// Ranges implements api.Ranges.
func (a *Agent) Ranges(ctx context.Context) ([]api.Range, error) {
	return asked(a, func(s *quorum.Service) ([]api.Range, error) { return s.Ranges(ctx) })
}

// SetRange implements api.Ranges.
func (a *Agent) SetRange(ctx context.Context, req api.RangeRequest) (api.Range, error) {
	return asked(a, func(s *quorum.Service) (api.Range, error) { return s.SetRange(ctx, req) })
}

// GrantRange implements api.Ranges.
func (a *Agent) GrantRange(ctx context.Context, req api.RangeGrant) (api.Range, error) {
	to, err := a.writers(req.To)
	if err != nil {
		return api.Range{}, err
	}
	return asked(a, func(s *quorum.Service) (api.Range, error) { return s.GrantRange(ctx, req, to) })
}

// writers returns the device of a name or peer ID, or the devices of a site, that write.
func (a *Agent) writers(name string) (list []trust.DeviceID, err error) {
	st := a.records.State()
	for _, m := range st.Members() {
		if _, site := a.keys.Names(st, m.Device); site == name && m.Role.MayWrite() {
			list = append(list, m.Device)
		}
	}
	d, err := a.device(st, name)
	switch {
	case err != nil && len(list) > 0:
		return list, nil
	case err != nil:
		if api.CodeOf(err) == api.CodeNotFound {
			return nil, &api.Error{Code: api.CodeNotFound, Message: "no device of the practice has that name or peer ID, and no site whose devices write", Hint: "see chartmesh peer list"}
		}
		return nil, err
	}
	if m, ok := st.Member(d); !ok || !m.Role.MayWrite() {
		return nil, &api.Error{Code: api.CodeInvalid, Message: "that device writes no records, and gives no numbers"}
	}
	return []trust.DeviceID{d}, nil
}

// VoidRange implements api.Ranges.
func (a *Agent) VoidRange(ctx context.Context, user string, req api.RangeVoid) (api.Range, error) {
	return asked(a, func(s *quorum.Service) (api.Range, error) { return s.VoidRange(ctx, user, req) })
}

// NextInRange implements api.Ranges.
func (a *Agent) NextInRange(ctx context.Context, req api.RangeNext) (api.RangeNumber, error) {
	return asked(a, func(s *quorum.Service) (api.RangeNumber, error) { return s.NextInRange(ctx, req) })
}

// RangeReport implements api.Ranges.
func (a *Agent) RangeReport(ctx context.Context, name string) (api.RangeReport, error) {
	return asked(a, func(s *quorum.Service) (api.RangeReport, error) { return s.RangeReport(ctx, name) })
}
