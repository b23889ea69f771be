package keyring

import (
	"errors"
	"slices"
	"testing"

	"chartmesh/trust"
)

// Of two administrators each agrees. From then on what an older one who was removed states in return does not stand, which it does
// before.
func TestCheckIn(t *testing.T) {
	old, a, b := create(t), create(t), create(t)
	st, _ := foundPractice(t, old)
	st = admit(t, admit(t, st, old, a, trust.RoleAdmin), old, b, trust.RoleAdmin)
	apart := st
	e, err := a.Remove(st, old.Device(), nil, now)
	st = take(t, st, e, err)
	strike, err := old.Remove(apart, a.Device(), nil, now)
	if err != nil {
		t.Fatal(err)
	}
	struck := func(st *trust.State) bool {
		_, member := take(t, st, strike, nil).Member(a.Device())
		return !member
	}
	if !struck(st) {
		t.Fatal("who was added earlier does not prevail; the test shows nothing")
	}

	e, err = a.CheckIn(st, trust.EntryID{}, now)
	st = take(t, st, e, err)
	of := e.ID()
	want := trust.Agreement{Entry: of, Agreed: []trust.DeviceID{a.Device()}, Waiting: []trust.DeviceID{b.Device()}}
	same := func(x, y trust.Agreement) bool {
		return x.Entry == y.Entry && slices.Equal(x.Agreed, y.Agreed) && slices.Equal(x.Waiting, y.Waiting)
	}
	if got := st.Agreements(); len(got) != 1 || !same(got[0], want) || !struck(st) {
		t.Errorf("one of two agreed: %+v, struck %v", got, struck(st))
	}
	e, err = b.CheckIn(st, of, now)
	st = take(t, st, e, err)
	if got := st.Agreements(); len(got) != 1 || len(got[0].Agreed) != 2 || len(got[0].Waiting) != 0 || struck(st) {
		t.Errorf("both agreed: %+v, struck %v", got, struck(st))
	}
	if _, err := old.CheckIn(st, of, now); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("who was removed agrees: %v", err)
	}
}
