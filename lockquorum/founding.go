package lockquorum

import (
	"cmp"
	"slices"

	"chartmesh/trust"
)

// FirstEpoch is that of the quorum that a practice's founding brings.
const FirstEpoch = 1

// Founding is a quorum that the membership log founds: that of the practice's founding, or one that an administrator founded anew.
type Founding struct {
	Epoch      uint64
	Entry      trust.EntryID // the practice's founding entry, or a reseed
	Author     DeviceID      // or the root key
	TimeMillis int64
	Voters     []Voter         // that it begins with
	After      []trust.EntryID // the reseeds that its author knew of
	Void       bool            // it does not stand
}

// Foundings returns the quorums that the membership log founds, ascending by epoch, so that the last one is in force. What does not stand founds none, but counts as an
// earlier epoch for what follows it. The epoch follows from the entry and its ancestors alone: everybody who holds it finds the same.
func Foundings(st *trust.State) []Founding {
	return slices.DeleteFunc(AllFoundings(st), func(f Founding) bool { return f.Void })
}

// AllFoundings returns those too that do not stand.
func AllFoundings(st *trust.State) []Founding {
	first := st.Founding().Device.ID
	list := []Founding{{Epoch: FirstEpoch, Entry: st.Practice(), Author: first, Voters: []Voter{{ID: 1, Device: first}}}}
	epochs := map[trust.EntryID]uint64{}
	for _, r := range st.Reseedings() {
		if epoch, ok := epochAfter(epochs, r.Entry, r.After); ok {
			epochs[r.Entry] = epoch
			list = append(list, Founding{
				Epoch: epoch, Entry: r.Entry, Author: r.Author, TimeMillis: r.TimeMillis, Voters: Numbered(r.Voters), After: r.After, Void: !r.Stands,
			})
		}
	}
	slices.SortStableFunc(list, func(a, b Founding) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return list
}

// epochAfter returns the epoch of a reseed that follows others.
func epochAfter(epochs map[trust.EntryID]uint64, entry trust.EntryID, after []trust.EntryID) (uint64, bool) {
	latest := uint64(FirstEpoch)
	for _, id := range after {
		latest = max(latest, epochs[id])
	}
	return EpochOf(entry, latest)
}

// Numbered returns the voters that a quorum begins with which is founded anew: numbered from one on, ascending by device.
func Numbered(devices []DeviceID) (list []Voter) {
	for i, d := range slices.SortedFunc(slices.Values(devices), compareIDs[DeviceID]) {
		list = append(list, Voter{ID: uint64(i + 1), Device: d})
	}
	return list
}
