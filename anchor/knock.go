package anchor

import (
	"context"
	"fmt"
	"slices"

	"chartmesh/p2p"
	"chartmesh/trust"
)

// byDevice lists practices by device. The lists are never changed, but replaced.
type byDevice map[trust.DeviceID][]*practice

// put has those devices be a practice's, and no others, and reports whether one is not any more.
func (c byDevice) put(p *practice, devices map[trust.DeviceID]bool) (less bool) {
	for d, list := range c {
		if i := slices.Index(list, p); i >= 0 && !devices[d] {
			less = true
			if list = slices.Delete(slices.Clone(list), i, i+1); len(list) == 0 {
				delete(c, d)
			} else {
				c[d] = list
			}
		}
	}
	for d := range devices {
		if !slices.Contains(c[d], p) {
			c[d] = append(slices.Clone(c[d]), p)
		}
	}
	return less
}

// readmission judges devices that a practice has removed, as far as is known here. One that comes as another practice's too is of both.
type readmission struct{ a *Anchor }

var _ p2p.Readmission = readmission{}

// former reports whether a practice is held and has removed a device.
func (p *practice) former(d trust.DeviceID) bool {
	return p.broken == nil && !p.dropped.Load() && p.Former(d)
}

// Former implements p2p.Readmission.
func (r readmission) Former(d trust.DeviceID) bool {
	r.a.mu.Lock()
	list := r.a.mu.former[d]
	r.a.mu.Unlock()
	return slices.ContainsFunc(list, func(p *practice) bool { return p.former(d) })
}

// Readmit implements p2p.Readmission. The entries are the practice's that begins with the first of them; whoever was not of that one hears
// the same whether it is held or not.
func (r readmission) Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error) {
	if len(entries) == 0 {
		return false, nil
	}
	first, err := trust.ParseEntry(entries[0])
	if err != nil {
		return false, fmt.Errorf("membership entry from %v: %w", from, err)
	}
	p := r.a.find(first.ID())
	if p == nil || !p.former(from) && !p.admits(from) {
		return false, nil
	}
	if _, err := p.Readmit(ctx, from, entries); err != nil {
		return false, err
	}
	return p.admits(from), nil // it may have been dropped meanwhile
}
