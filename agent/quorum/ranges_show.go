package quorum

import (
	"cmp"
	"context"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/ranges"
)

// Ranges implements api.Ranges.
func (s *Service) Ranges(ctx context.Context) ([]api.Range, error) {
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadRanges})
	if api.CodeOf(err) == api.CodeUnavailable {
		return s.ownRanges(err)
	} else if err != nil {
		return nil, err
	}
	var unknowns []unknown
	for _, id := range st.Ranges() {
		d, _ := st.Defined(id)
		unknowns = append(unknowns, unknown{kind: kindRange, id: id, by: d.By})
	}
	s.learn(ctx, unknowns)
	list := []api.Range{}
	for _, id := range st.Ranges() {
		r, err := s.describeRange(st, id)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return sortRanges(list), nil
}

func sortRanges(list []api.Range) []api.Range {
	slices.SortStableFunc(list, func(a, b api.Range) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list
}

// ownRanges lists what this device knows of itself, where the quorum says nothing.
func (s *Service) ownRanges(why error) ([]api.Range, error) {
	held, err := s.ranges.Parts()
	if err != nil {
		return nil, s.explainRange(err)
	}
	byRange := map[lockquorum.RangeID][]lockquorum.Part{}
	for _, h := range held {
		byRange[h.Range] = append(byRange[h.Range], h.Part)
	}
	list := []api.Range{}
	for id, parts := range byRange {
		r, err := s.describeParts(id, parts)
		if err != nil {
			return nil, err
		}
		r.First, r.Last, r.Increment, r.Unreached = parts[0].Min, parts[len(parts)-1].Max, parts[0].Increment, why.Error()
		list = append(list, r)
	}
	return sortRanges(list), nil
}

func (s *Service) describeRange(st *lockquorum.View, id lockquorum.RangeID) (api.Range, error) {
	r, err := s.describeParts(id, st.Range(id))
	d, _ := st.Defined(id)
	r.First, r.Last, r.Increment, r.Part, r.Free = d.First, d.Last, d.Increment, d.Part, st.Free(id)
	return r, err
}

// describeParts says what becomes of a range's parts.
func (s *Service) describeParts(id lockquorum.RangeID, parts []lockquorum.Part) (api.Range, error) {
	out := api.Range{Name: s.nameOf(kindRange, id), ID: short(id), Parts: []api.RangePart{}}
	own, err := s.own(id)
	if err != nil {
		return out, err
	}
	var left, largest int64
	for _, p := range parts {
		h, known := own[p.Min]
		known = known && p.Owner == s.self && h.Log == p.Log
		out.Parts = append(out.Parts, s.describePart(id, p, h, known))
		if known && h.Usable && !p.Void {
			left += h.Left()
			largest = max(largest, (p.Max-p.Min)/p.Increment+1)
		}
	}
	out.Here, err = s.here(id, left, len(own) > 0 && left*10 <= largest)
	return out, err
}

func (s *Service) describePart(id lockquorum.RangeID, p lockquorum.Part, h ranges.Held, known bool) api.RangePart {
	out := api.RangePart{First: p.Min, Last: p.Max, Increment: p.Increment, Device: s.cfg.Name(p.Owner), State: api.PartInUse}
	switch {
	case p.Void:
		out.State, out.From = api.PartVoid, &p.From
		if said, ok := s.open(p.Note, aboutPart(id, p.Min)); ok {
			out.User, out.Time, out.Reason = said.user, &said.time, said.reason
		}
	case p.Log == ([32]byte{}):
		out.State = api.PartAside
	case known && h.Next > h.Max:
		out.State = api.PartUsed
	case known && h.Usable:
		left := h.Left()
		out.Mine, out.Left = true, &left
	case !known && p.Owner == s.self && p.Log != s.cfg.Log.Current() && s.cfg.Log.Continues(s.cfg.Log.Current()): // of its present log it may just be about to note it
		out.State = api.PartForgotten
	}
	if p.Owner != s.self && !p.Void {
		s.describeOwner(&out, p.Owner)
	}
	return out
}

// describeOwner says what is known of another device that has a part.
func (s *Service) describeOwner(out *api.RangePart, d lockquorum.DeviceID) {
	m, belongs := s.cfg.Members().Member(d)
	out.Removed = !belongs || !m.Role.MayWrite()
	if out.Connected = s.reaches(d); out.Connected || s.cfg.LastContact == nil {
		return
	}
	if last := s.cfg.LastContact(d); !last.IsZero() {
		last = last.UTC().Truncate(time.Millisecond)
		out.LastContact = &last
	}
}

// RangeReport implements api.Ranges.
func (s *Service) RangeReport(ctx context.Context, name string) (api.RangeReport, error) {
	id, err := s.id(kindRange, name)
	if err != nil {
		return api.RangeReport{}, s.explain(err)
	}
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadRange, ID: id})
	if err != nil {
		return api.RangeReport{}, err
	}
	d, ok := st.Defined(id)
	if !ok && len(st.Range(id)) == 0 {
		return api.RangeReport{}, s.explainRange(client.ErrUnknown)
	}
	report := api.RangeReport{Entries: []api.RangeEntry{}}
	if report.Range, err = s.describeRange(st, id); err != nil {
		return api.RangeReport{}, err
	}
	report.Name = name
	own, err := s.own(id)
	if err != nil {
		return api.RangeReport{}, err
	}
	given, err := s.ranges.Numbers(id)
	if err != nil {
		return api.RangeReport{}, s.explain(err)
	}
	at := d.First
	for i, p := range st.Range(id) {
		if at <= min(p.Min-1, d.Last) {
			report.Entries = append(report.Entries, api.RangeEntry{First: at, Last: min(p.Min-1, d.Last), What: api.RangeFree})
		}
		h, known := own[p.Min]
		report.Entries = append(report.Entries, s.explainPart(report.Parts[i], p, h, known && p.Owner == s.self, given)...)
		at = max(at, p.Max+1)
	}
	if ok && at <= d.Last {
		report.Entries = append(report.Entries, api.RangeEntry{First: at, Last: d.Last, What: api.RangeFree})
	}
	return report, nil
}

// explainPart explains the numbers of a part, one by one where this device gave them.
func (s *Service) explainPart(is api.RangePart, p lockquorum.Part, h ranges.Held, mine bool, given []ranges.Number) (list []api.RangeEntry) {
	at := p.Min
	add := func(last int64, what string) {
		if last = min(last, p.Max); at > last {
			return
		}
		e := api.RangeEntry{First: at, Last: last, What: what, Device: &is.Device}
		if what == api.RangeVoided || what == api.RangeUnknown {
			e.User, e.Time, e.Reason = is.User, is.Time, is.Reason
		}
		list = append(list, e)
		at = last + 1
	}
	// What became of the numbers that this device did not give itself, up to where the part was taken back.
	others := api.RangeOut
	switch {
	case is.State == api.PartAside:
		others = api.RangeAside
	case is.State == api.PartForgotten:
		others = api.RangeUnknown
	case p.Void && p.From > p.Max:
		others = api.RangeUnknown
	case p.Void && mine:
		others = api.RangeUnknown
	case mine && h.Usable:
		others = api.RangeLeft
	}
	until := p.Max
	if p.Void {
		until = p.From - 1
	}
	if mine {
		for _, n := range given {
			if n.Number < at || n.Number > p.Max {
				continue
			}
			add(min(n.Number-1, until), others)
			when := n.At
			list = append(list, api.RangeEntry{First: n.Number, Last: n.Number, What: api.RangeGiven, Device: &is.Device, Item: n.Item, Time: &when})
			at = n.Number + p.Increment
		}
	}
	add(until, others)
	add(p.Max, api.RangeVoided)
	return list
}
