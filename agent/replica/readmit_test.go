package replica_test

import (
	"strings"
	"testing"
	"time"

	"chartmesh/trust"
)

// foes founds a practice of three, whose first two administrate, and has these remove each other while the third hears of the second
// one's removal alone.
func foes(t *testing.T) (a, b, m *device) {
	t.Helper()
	d := practice(t, "surgery", "branch", "laptop")
	a, b, m = d[0], d[1], d[2]
	a.promote(b)
	a.put(`{"resourceType":"Patient","id":"p1","birthDate":"1970-01-01"}`, false)
	settleAll(t, a, b, m)
	a.remove(b)
	b.remove(a)
	sync(t, b, m)
	return a, b, m
}

func (d *device) promote(other *device) {
	d.t.Helper()
	must(d.t, d.Enter(d.t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := d.keys.SetRole(st, other.Device(), trust.RoleAdmin, nil, time.Now())
		return []trust.Entry{e}, err
	}))
}

func (d *device) readmits(from *device, entries [][]byte, want bool) {
	d.t.Helper()
	before := d.State().HeadsHash()
	got, err := d.Readmit(d.t.Context(), from.Device(), entries)
	must(d.t, err)
	if _, member := d.State().Member(from.Device()); got != want || member != want {
		d.t.Fatalf("%s readmits %s: %v; it belongs: %v", d.name, from.name, got, member)
	}
	if !want && d.State().HeadsHash() != before {
		d.t.Errorf("%s took what %s brought", d.name, from.name)
	}
}

// TestReadmit: of two that removed each other, the one that prevails brings its entries to who knows the other's alone; the other
// brings nothing by which it would belong, and nothing of it is taken. What was taken is there after a crash.
func TestReadmit(t *testing.T) {
	a, b, m := foes(t)
	if !m.Former(a.Device()) || m.Former(b.Device()) || m.Former(trust.DeviceID{1}) || !a.Former(b.Device()) {
		t.Error("who was removed is not known")
	}
	a.readmits(b, b.EntriesSince(nil), false)
	m.readmits(a, m.EntriesSince(nil), false)
	m.readmits(a, nil, false)
	m.readmits(a, a.EntriesSince(nil), true)
	if _, member := m.State().Member(b.Device()); member || m.Former(a.Device()) || !m.Former(b.Device()) {
		t.Error("B belongs still")
	}
	m.crash()
	m.readmits(a, nil, true)

	// The rest comes as between members.
	born(a, "1970-01-02")
	sync(t, a, m)
	agree(t, a, m)
	if a.State().HeadsHash() != m.State().HeadsHash() || !strings.Contains(m.get("Patient/p1"), "1970-01-02") {
		t.Errorf("M shows %s", m.get("Patient/p1"))
	}
	must(t, b.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := b.keys.Rename(st, m.Device(), "of B", "", time.Now())
		return []trust.Entry{e}, err
	}))
	m.readmits(b, b.EntriesSince(nil), false)
}

// TestReadmitHostile: what is no entry, is of another practice, or is too much is not taken, by whomever it is brought.
func TestReadmitHostile(t *testing.T) {
	a, b, m := foes(t)
	other := practice(t, "elsewhere")[0]
	m.readmits(a, other.EntriesSince(nil), false)
	before := m.State().HeadsHash()
	for _, bad := range [][]byte{nil, []byte("cmm\x01"), a.EntriesSince(nil)[1][:100]} {
		if got, err := m.Readmit(t.Context(), a.Device(), append(a.EntriesSince(nil), bad)); got || err == nil {
			t.Errorf("%x: %v, %v", bad, got, err)
		}
	}
	var list []trust.Entry
	must(t, a.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		for range 1025 {
			e, err := a.keys.Rename(st, m.Device(), "of A", "", time.Now())
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		return nil, nil
	}))
	many := a.EntriesSince(nil)
	for _, e := range list {
		many = append(many, e.Bytes())
	}
	if got, err := m.Readmit(t.Context(), a.Device(), many); got || err == nil {
		t.Errorf("1025 renames: %v, %v", got, err)
	}
	if m.State().HeadsHash() != before || m.Former(b.Device()) {
		t.Error("something was taken")
	}
	m.readmits(a, a.EntriesSince(nil), true)
}
