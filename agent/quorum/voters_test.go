package quorum

import (
	"slices"
	"testing"

	"chartmesh/lockquorum"
)

// TestWanted: an anchor takes the place of one voter, and this device that of an anchor alone; else voters come and go as they are named.
func TestWanted(t *testing.T) {
	type list = []lockquorum.DeviceID
	self, b, c, anchor, other := lockquorum.DeviceID{1}, lockquorum.DeviceID{2}, lockquorum.DeviceID{3}, lockquorum.DeviceID{8}, lockquorum.DeviceID{9}
	isAnchor := func(d lockquorum.DeviceID) bool { return d == anchor || d == other }
	for _, x := range []struct {
		name                   string
		now, add, remove, want list
	}{
		{"two devices more", list{self}, list{b, c}, nil, list{self, b, c}},
		{"one device more", list{self}, list{b}, nil, list{self, b}},
		{"the anchor alone", list{self}, list{anchor}, nil, list{anchor}},
		{"the anchor again", list{anchor}, list{anchor}, nil, list{anchor}},
		{"another anchor", list{anchor}, list{other}, nil, list{other}},
		{"the anchor and two devices", list{self}, list{anchor, b, c}, nil, list{anchor, b, c}},
		{"the anchor, a device, and who votes", list{self}, list{anchor, b}, nil, list{self, anchor, b}},
		{"two devices beside the anchor", list{anchor}, list{self, b}, nil, list{anchor, self, b}},
		{"the anchor in the place of two", list{self, b, c}, list{anchor}, list{self, b, c}, list{anchor}},
		{"the anchor as a fourth", list{self, b, c}, list{anchor}, nil, list{self, b, c, anchor}},
		{"the anchor in the place of one of three", list{self, b, c}, list{anchor}, list{c}, list{self, b, anchor}},
		{"other three with the anchor", list{self, b, c}, list{anchor, self, b}, nil, list{anchor, self, b}},
		{"two of three go", list{anchor, b, c}, nil, list{b, c}, list{anchor}},
		{"the anchor that votes alone goes", list{anchor}, nil, list{anchor}, list{self}},
		{"the device that votes alone goes", list{b}, nil, list{b}, list{}},
	} {
		if got := wanted(x.now, x.add, x.remove, self, isAnchor); !slices.Equal(got, x.want) {
			t.Errorf("%s: %v are to vote, not %v", x.name, got, x.want)
		}
	}
}
