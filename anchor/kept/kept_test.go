package kept

import (
	"errors"
	"testing"
	"time"

	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// TestMembershipHasACap: a membership log that would take too much memory is held as far as it went before.
func TestMembershipHasACap(t *testing.T) {
	keys, err := keyring.Create("", nil)
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := keys.Found(keyring.FoundOptions{Practice: "Berg", Site: "s", Device: "d", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	st, _ := trust.Replay([]trust.Entry{first})
	second, err := keys.AddAnchor(st, trust.DeviceID{1}, []string{"/ip4/192.0.2.1/tcp/4001"}, "anchor", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer func(before int) { maxMembership = before }(maxMembership)
	maxMembership = len(first.Bytes()) + len(second.Bytes()) - 1
	p := New(Config{ID: st.Practice(), Store: storage.NewTwin()})
	for range 2 {
		if err := p.AddEntries(t.Context(), keys.Device(), [][]byte{first.Bytes(), second.Bytes()}); err != nil || p.State() != nil {
			t.Fatalf("more than the cap is held: %v", err)
		}
	}
	if err := p.AddEntries(t.Context(), keys.Device(), [][]byte{first.Bytes()}); err != nil || p.State() == nil || p.State().Len() != 1 {
		t.Fatalf("what fits is not held: %v", err)
	}
	if err := p.AddEntries(t.Context(), keys.Device(), [][]byte{second.Bytes()}); err != nil || p.State().Len() != 1 {
		t.Fatalf("more than the cap is held: %v", err)
	}
	maxMembership++
	if err := p.AddEntries(t.Context(), keys.Device(), [][]byte{second.Bytes()}); err != nil || p.State().Len() != 2 {
		t.Fatalf("what fits is not held: %v", err)
	}
}

// self is who holds a practice.
type self struct{ id trust.DeviceID }

func (s self) Device() trust.DeviceID  { return s.id }
func (s self) SignAck(m []byte) []byte { return m }

// TestReadmitIsStored: the answer to who knocks is yes once its entries are stored, and what is not stored changes nothing.
func TestReadmitIsStored(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	x, err := keyring.Create("", nil)
	must(err)
	y, err := keyring.Create("", nil)
	must(err)
	first, _, err := x.Found(keyring.FoundOptions{Practice: "Berg", Site: "s", Device: "d", Now: time.Now()})
	must(err)
	st, _ := trust.Replay([]trust.Entry{first})
	with := func(st *trust.State, e trust.Entry, err error) *trust.State {
		t.Helper()
		must(err)
		st, err = st.With(e)
		must(err)
		return st
	}
	anchor := trust.DeviceID{1}
	e, err := x.AddAnchor(st, anchor, []string{"/ip4/192.0.2.1/tcp/4001"}, "anchor", time.Now())
	st = with(st, e, err)
	e, err = x.Admit(st, keyring.Newcomer{Device: y.Device(), HPKE: y.HPKEPublic(), Role: trust.RoleAdmin, DeviceName: "d", SiteName: "s", Now: time.Now()})
	st = with(st, e, err)
	e, err = x.Remove(st, y.Device(), nil, time.Now())
	ofX := with(st, e, err)
	e, err = y.Remove(st, x.Device(), nil, time.Now())
	ofY := with(st, e, err)
	raw := func(st *trust.State) (list [][]byte) {
		for _, e := range st.Entries() {
			list = append(list, e.Bytes())
		}
		return list
	}

	twin := storage.NewTwin()
	p := New(Config{ID: st.Practice(), By: x.Device(), Self: self{anchor}, Store: twin})
	if got := p.Former(x.Device()); got {
		t.Error("who shall bring the membership log may knock")
	}
	must(p.AddEntries(t.Context(), y.Device(), raw(ofY)))
	refused := func(what string) {
		t.Helper()
		if got, err := p.Readmit(t.Context(), x.Device(), raw(ofX)); got || err == nil || !p.Former(x.Device()) || p.State().HeadsHash() != ofY.HeadsHash() {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	for _, cause := range []error{errors.New("the power is out"), storage.ErrNoRoom} {
		twin.OnCommit(func(storage.Stage, int) error { return cause })
		refused(cause.Error())
	}
	twin.OnCommit(nil)
	defer func(before int) { maxMembership = before }(maxMembership)
	maxMembership = bytesOf(ofX)
	refused("a log that is too long")
	maxMembership *= 2
	if got, err := p.Readmit(t.Context(), x.Device(), raw(ofX)); !got || err != nil || !p.Admits(x.Device()) || !p.Former(y.Device()) {
		t.Errorf("%v, %v", got, err)
	}
	again := New(Config{ID: st.Practice(), By: x.Device(), Self: self{anchor}, Store: twin.Crash()})
	must(again.Open(t.Context()))
	if !again.Admits(x.Device()) || again.State().HeadsHash() != p.State().HeadsHash() {
		t.Error("it is not there after a crash")
	}
}
