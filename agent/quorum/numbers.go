package quorum

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/trust"
)

// Circles implements api.Exclusive.
func (s *Service) Circles(ctx context.Context) ([]api.Circle, error) {
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadCircles})
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

func (s *Service) describeCircle(st *lockquorum.View, id lockquorum.CircleID) api.Circle {
	out := api.Circle{Name: s.nameOf(kindCircle, id), ID: short(id), Series: []api.NumberSeries{}}
	list, _ := st.Circle(id)
	for _, in := range list {
		series := api.NumberSeries{ID: in.ID.String(), First: in.First, Last: in.Last, Given: in.Given, Used: in.Used, Void: in.Void, Reserved: in.Given - in.Used - in.Void}
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
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadCircle, ID: id})
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
	var item lockquorum.ItemID
	if req.Number == 0 {
		item, err = s.item(ctx, req.Circle, req.Item)
		err = s.explain(err)
	} else if item, err = s.numbered(ctx, circle, req.Series, req.Number); err == nil {
		req.Item = s.nameOf(kindItem, item)
	}
	if err != nil {
		return api.Number{}, err
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

// numbered returns which item has a number, of the series of that name or of the only one that has it.
func (s *Service) numbered(ctx context.Context, circle lockquorum.CircleID, series string, number int64) (item lockquorum.ItemID, err error) {
	q := lockquorum.Query{Kind: lockquorum.ReadCircle, ID: circle}
	v, err := s.part(ctx, q)
	if err != nil {
		return item, err
	}
	if _, ok := v.Circle(circle); !ok {
		return item, s.explain(client.ErrUnknown)
	}
	found := false
	for i, one := range s.describeCircle(v, circle).Series {
		if series != "" && series != one.ID || number < one.First || number-one.First >= int64(one.Given) {
			continue
		}
		if found {
			return item, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("several series have a number %d", number), Hint: "say which one with --series; see chartmesh number report"}
		}
		v, err := s.part(ctx, lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: circle, Series: uint64(i) + 1, Number: number})
		if err != nil {
			return item, err
		}
		if id, list := v.Numbers(); len(list) > 0 && id.String() == one.ID && list[0].Number == number {
			item, found = list[0].Item, true
		}
	}
	if !found {
		return item, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("the number %d was not given", number), Hint: "see chartmesh number report"}
	}
	return item, nil
}

// Numbers implements api.Exclusive.
func (s *Service) Numbers(ctx context.Context, name string) (api.NumberReport, error) {
	id, err := s.id(kindCircle, name)
	if err != nil {
		return api.NumberReport{}, s.explain(err)
	}
	circle := lockquorum.CircleID(id)
	q := lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: id}
	v, err := s.part(ctx, q)
	if err != nil {
		return api.NumberReport{}, err
	}
	if _, ok := v.Circle(circle); !ok {
		return api.NumberReport{}, s.explain(client.ErrUnknown)
	}
	report := api.NumberReport{Circle: s.describeCircle(v, circle), Numbers: []api.Number{}}
	report.Name = name
	parties := map[trust.DeviceID]*api.Party{} // opened once
	for more := true; more; {
		series, list := v.Numbers()
		s.learnItems(ctx, name, list)
		for _, n := range list {
			if parties[n.By] == nil {
				by := s.cfg.Name(n.By)
				parties[n.By] = &by
			}
			report.Numbers = append(report.Numbers, s.describeNumber(name, circle, series, n, parties[n.By]))
		}
		if q, more = v.Next(); more {
			if v, err = s.part(ctx, q); err != nil {
				return api.NumberReport{}, err
			}
		}
	}
	s.recount(&report)
	return report, nil
}

// recount has a report's circle say what the numbers say that stand in it: more may have been given while they were read.
func (s *Service) recount(report *api.NumberReport) {
	at := map[string]*api.NumberSeries{}
	for i := range report.Series {
		in := &report.Series[i]
		in.Given, in.Used, in.Void, in.Reserved = 0, 0, 0, 0
		at[in.ID] = in
	}
	for _, n := range report.Numbers {
		in := at[n.Series]
		if in == nil {
			continue
		}
		in.Given++
		switch n.State {
		case api.NumberUsed:
			in.Used++
		case api.NumberVoid:
			in.Void++
		default:
			in.Reserved++
		}
	}
}

// part reads a part of a list.
func (s *Service) part(ctx context.Context, q lockquorum.Query) (*lockquorum.View, error) {
	if err := s.serves(); err != nil {
		return nil, err
	}
	v, err := s.client.Read(ctx, q)
	return v, s.explain(err)
}

// learnItems asks for the names of items whose notes do not say them.
func (s *Service) learnItems(ctx context.Context, circle string, list []lockquorum.Number) {
	var unknowns []unknown
	for _, n := range list {
		if len(n.Note) == 0 {
			unknowns = append(unknowns, unknown{kind: kindItem, id: n.Item, circle: circle, by: n.By})
		}
	}
	s.learn(ctx, unknowns)
}

func (s *Service) describeNumber(name string, circle lockquorum.CircleID, series lockquorum.SeriesID, n lockquorum.Number, by *api.Party) api.Number {
	out := number(name, s.nameOf(kindItem, n.Item), n.Item, client.Number{Series: series, Number: n.Number}, n.State.String())
	out.Device = by
	if said, ok := s.open(n.Note, about(kindItem, circle, n.Item)); ok {
		out.User, out.Time, out.Reason, out.Item = said.user, &said.time, said.reason, cmp.Or(out.Item, said.subject)
	}
	return out
}
