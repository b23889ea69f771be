package quorum

import (
	"cmp"
	"context"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
)

// Circles implements api.Exclusive.
func (s *Service) Circles(ctx context.Context) ([]api.Circle, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	var unknowns []unknown
	for _, id := range st.Circles() {
		unknowns = append(unknowns, unknown{kind: kindCircle, id: id})
	}
	s.learn(ctx, unknowns)
	list := []api.Circle{}
	for _, id := range st.Circles() {
		list = append(list, s.describeCircle(st, id))
	}
	slices.SortStableFunc(list, func(a, b api.Circle) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func (s *Service) describeCircle(st *lockquorum.State, id lockquorum.CircleID) api.Circle {
	out := api.Circle{Name: s.nameOf(kindCircle, id), ID: short(id), Series: []api.NumberSeries{}}
	list, _ := st.Circle(id)
	for _, in := range list {
		series := api.NumberSeries{ID: in.ID.String(), First: in.First, Last: in.Last, Given: len(in.Numbers)}
		for _, n := range in.Numbers {
			switch n.State {
			case lockquorum.NumberUsed:
				series.Used++
			case lockquorum.NumberVoid:
				series.Void++
			default:
				series.Reserved++
			}
		}
		switch in.Closed {
		case 0:
		case lockquorum.SealReseeded:
			series.Closed = "it ended with its quorum, and may have given more numbers than are known"
		default:
			series.Closed = "closed"
		}
		out.Series = append(out.Series, series)
	}
	return out
}

// OpenCircle implements api.Exclusive.
func (s *Service) OpenCircle(ctx context.Context, req api.CircleRequest) (api.Circle, error) {
	return s.withCircle(ctx, req.Name, func(id lockquorum.CircleID) error {
		_, err := s.client.OpenCircle(ctx, id, req.First, req.Last)
		return err
	})
}

// CloseCircle implements api.Exclusive.
func (s *Service) CloseCircle(ctx context.Context, name string) (api.Circle, error) {
	return s.withCircle(ctx, name, func(id lockquorum.CircleID) error {
		_, err := s.client.CloseCircle(ctx, id)
		return err
	})
}

// withCircle changes a circle and says what it is then.
func (s *Service) withCircle(ctx context.Context, name string, change func(lockquorum.CircleID) error) (api.Circle, error) {
	if err := s.serves(); err != nil {
		return api.Circle{}, err
	}
	id, err := s.circle(ctx, name)
	if err != nil {
		return api.Circle{}, s.explain(err)
	}
	if err := change(id); err != nil {
		return api.Circle{}, s.explain(err)
	}
	st, err := s.read(ctx)
	if err != nil {
		return api.Circle{}, err
	}
	return s.describeCircle(st, id), nil
}

// AssignNumber implements api.Exclusive.
func (s *Service) AssignNumber(ctx context.Context, req api.NumberRequest) (api.Number, error) {
	if err := s.serves(); err != nil {
		return api.Number{}, err
	}
	circle, err := s.circle(ctx, req.Circle)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	item, err := s.item(ctx, req.Circle, req.Item)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	n, err := s.client.Assign(ctx, circle, item)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	return number(req.Circle, req.Item, item, n, ""), nil
}

func number(circle, name string, item lockquorum.ItemID, n client.Number, state string) api.Number {
	return api.Number{Circle: circle, Series: n.Series.String(), Number: n.Number, Item: name, ItemID: short(item), State: state}
}

// ResolveNumber implements api.Exclusive.
func (s *Service) ResolveNumber(ctx context.Context, user string, req api.ResolveRequest) (api.Number, error) {
	if err := s.serves(); err != nil {
		return api.Number{}, err
	}
	circle, err := s.circle(ctx, req.Circle)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	item, err := s.item(ctx, req.Circle, req.Item)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	to := lockquorum.NumberUsed
	if req.State == api.NumberVoid {
		to = lockquorum.NumberVoid
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	sealed, err := s.seal(note{user: user, time: now, subject: req.Item, reason: req.Reason}, about(kindItem, circle, item))
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	n, err := s.client.Resolve(ctx, circle, item, to, sealed)
	if err != nil {
		return api.Number{}, s.explain(err)
	}
	out := number(req.Circle, req.Item, item, n, req.State)
	out.User, out.Time, out.Reason = user, &now, req.Reason
	return out, nil
}

// Numbers implements api.Exclusive.
func (s *Service) Numbers(ctx context.Context, name string) (api.NumberReport, error) {
	id, err := s.id(kindCircle, name)
	if err != nil {
		return api.NumberReport{}, s.explain(err)
	}
	circle := lockquorum.CircleID(id)
	st, err := s.read(ctx)
	if err != nil {
		return api.NumberReport{}, err
	}
	list, ok := st.Circle(circle)
	if !ok {
		return api.NumberReport{}, s.explain(client.ErrUnknown)
	}
	var unknowns []unknown
	for _, in := range list {
		for _, n := range in.Numbers {
			if len(n.Note) == 0 { // else that says the name
				unknowns = append(unknowns, unknown{kind: kindItem, id: n.Item, circle: name, by: n.By})
			}
		}
	}
	s.learn(ctx, unknowns)
	report := api.NumberReport{Circle: s.describeCircle(st, circle), Numbers: []api.Number{}}
	report.Name = name
	for _, in := range list {
		for _, n := range in.Numbers {
			by := s.cfg.Name(n.By)
			out := number(name, s.nameOf(kindItem, n.Item), n.Item, client.Number{Series: in.ID, Number: n.Number}, n.State.String())
			out.Device = &by
			if said, ok := s.open(n.Note, about(kindItem, circle, n.Item)); ok {
				out.User, out.Time, out.Reason, out.Item = said.user, &said.time, said.reason, cmp.Or(out.Item, said.subject)
			}
			report.Numbers = append(report.Numbers, out)
		}
	}
	return report, nil
}
