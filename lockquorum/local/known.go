package local

import (
	"context"
	"fmt"
	"slices"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// known is who the voters are, as this device last heard of it: at a place in the quorum's log.
type known struct {
	at     lockquorum.Place
	voters []lockquorum.Voter
}

// itemKnown is its number under storage.Quorum. Those before are the driver's.
const itemKnown = 4

// loadKnown reads who the voters were.
func (v *Voter) loadKnown() error {
	k, err := readKnown(v.cfg.Store, v.cfg.Members())
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.known = k
	return nil
}

// readKnown reads who the voters were. Who never heard of any asks the device that founded the practice.
func readKnown(store storage.Store, members *trust.State) (known, error) {
	k := known{voters: []lockquorum.Voter{{ID: 1, Device: members.Founding().Device.ID}}}
	err := store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(itemKnown))
		if err != nil {
			return err
		}
		k, err = parseKnown(b)
		return err
	})
	if storage.IgnoreNotFound(err) != nil {
		return known{}, fmt.Errorf("read who votes: %w", err)
	}
	return k, nil
}

// LastHeard returns who votes as a store last heard of it, of which no Voter is open: as its own voter stored it, or as it was told, or as the membership log founds it.
func LastHeard(store storage.Store, members *trust.State) (list []trust.DeviceID, err error) {
	k, err := readKnown(store, members)
	if err != nil {
		return nil, err
	}
	if own, err := driver.ReadKept(store); err == nil { // what is damaged of it says nothing
		if st, _, err := own.Latest(); err == nil {
			if at := (lockquorum.Place{Epoch: st.Epoch(), Index: st.Index()}); at.Compare(k.at) >= 0 && len(st.Voters()) > 0 {
				k = known{at, st.Voters()}
			}
		}
	}
	founded := lockquorum.Foundings(members)
	if force := founded[len(founded)-1]; k.at.Epoch < force.Epoch {
		k.voters = force.Voters
	}
	for _, v := range k.voters {
		list = append(list, v.Device)
	}
	return list, nil
}

// Voting returns who votes: by this device's own voter, or as it was last heard of, or as the membership log founds it.
func (v *Voter) Voting() []lockquorum.Voter {
	force := v.InForce()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.driver != nil && v.mu.record.Epoch == force.Epoch {
		st := v.mu.driver.Status()
		if len(st.Voters) > 0 && v.mu.known.at.Compare(lockquorum.Place{Epoch: st.Epoch, Index: st.Index}) <= 0 {
			return st.Voters
		}
	}
	if v.mu.known.at.Epoch < force.Epoch {
		return slices.Clone(force.Voters)
	}
	return slices.Clone(v.mu.known.voters)
}

// leftLocked reports whether this device's voter has no part in its quorum any more: its State named it, and a later one that was heard of does not. A number is
// never given again.
func (v *Voter) leftLocked(st driver.Status) bool {
	self := lockquorum.Voter{ID: v.mu.record.ID, Device: v.self}
	at := lockquorum.Place{Epoch: st.Epoch, Index: st.Index}
	return v.mu.known.at.Epoch == st.Epoch && v.mu.known.at.Compare(at) > 0 && slices.Contains(st.Voters, self) && !slices.Contains(v.mu.known.voters, self)
}

// Heard notes who votes, of what a quorum agreed on.
func (v *Voter) Heard(ctx context.Context, st *lockquorum.View) {
	k := known{lockquorum.Place{Epoch: st.Epoch(), Index: st.Index()}, st.Voters()}
	v.mu.Lock()
	was := v.mu.known
	newer := k.at.Compare(was.at) > 0 && len(k.voters) > 0
	if newer {
		v.mu.known = k
		if d := v.mu.driver; d != nil && v.leftLocked(d.Status()) {
			v.log.Info("this device votes no more on leases and numbers")
			d.Stop()
		}
	}
	v.mu.Unlock()
	if !newer || was.at.Epoch == k.at.Epoch && slices.Equal(was.voters, k.voters) {
		return
	}
	var b storage.Batch
	b.Put(storage.Quorum.Key(itemKnown), k.marshal())
	if err := v.cfg.Store.Commit(ctx, &b); err != nil {
		v.log.Warn("who keeps leases and numbers was not noted", "error", err)
	}
}

// learnVoters notes who votes, of a quorum that this device is to vote in. It is durable when it returns.
func (v *Voter) learnVoters(ctx context.Context, k known) error {
	var b storage.Batch
	b.Put(storage.Quorum.Key(itemKnown), k.marshal())
	if err := v.cfg.Store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("note who votes: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.known = k
	return nil
}

// marshal writes: 1 | epoch | index | count | number, device (32) …, ascending by number.
func (k known) marshal() []byte {
	var w wire.Writer
	w.Byte(1)
	w.Uvarint(k.at.Epoch)
	w.Uvarint(k.at.Index)
	w.Uvarint(uint64(len(k.voters)))
	for _, o := range k.voters {
		w.Uvarint(o.ID)
		w.Raw(o.Device[:])
	}
	return w.Bytes()
}

func parseKnown(b []byte) (k known, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	k.at.Epoch = r.Uvarint(1<<63 - 1)
	k.at.Index = r.Uvarint(1<<63 - 1)
	for range r.Uvarint(lockquorum.MaxVoters) {
		v := lockquorum.Voter{ID: r.Uvarint(1<<63 - 1)}
		if r.Fixed(v.Device[:]); r.Err() != nil {
			return known{}, r.Err()
		}
		k.voters = append(k.voters, v)
	}
	return k, r.Close()
}
