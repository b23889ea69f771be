package kept

import (
	"bytes"
	"testing"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// TestCarries: an anchor carries how far a practice's quorum was seen to be, from device to device and over a crash, without a key of the practice; what nobody signed
// who may have voted it does not carry, and nothing of a practice that it is no anchor of.
func TestCarries(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := keyring.Create("", nil)
	must(err)
	first, _, err := keys.Found(keyring.FoundOptions{Practice: "Berg", Site: "s", Device: "d", Now: time.Now()})
	must(err)
	st, err := trust.Found(first)
	must(err)
	anchor := trust.DeviceID{1}
	second, err := keys.AddAnchor(st, anchor, []string{"/ip4/192.0.2.1/tcp/4001"}, "anchor", time.Now())
	must(err)
	at := func(index uint64) []byte {
		return lockquorum.SignPosition(keys, st.Practice(), lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: index}}).Marshal()
	}
	forged := at(9)
	forged[2]++

	twin := storage.NewTwin()
	p := New(Config{ID: st.Practice(), By: keys.Device(), Self: self{anchor}, Store: twin})
	carry := func(b []byte) []byte {
		t.Helper()
		p.Carried(t.Context(), keys.Device(), b)
		return p.Carries()
	}
	if got := carry(at(3)); got != nil {
		t.Errorf("before the membership log has come it carries %x", got)
	}
	must(p.AddEntries(t.Context(), keys.Device(), [][]byte{first.Bytes()}))
	if got := carry(at(3)); got != nil {
		t.Errorf("of a practice that it is no anchor of it carries %x", got)
	}
	must(p.AddEntries(t.Context(), keys.Device(), [][]byte{second.Bytes()}))
	for _, c := range []struct{ told, carries []byte }{{at(3), at(3)}, {at(2), at(3)}, {forged, at(3)}, {[]byte("junk"), at(3)}, {nil, at(3)}, {at(7), at(7)}} {
		if got := carry(c.told); !bytes.Equal(got, c.carries) {
			t.Errorf("told %x it carries %x", c.told, got)
		}
	}
	p = New(Config{ID: st.Practice(), By: keys.Device(), Self: self{anchor}, Store: twin.Crash()})
	must(p.Open(t.Context()))
	if got := p.Carries(); !bytes.Equal(got, at(7)) {
		t.Errorf("after a crash it carries %x", got)
	}
}
