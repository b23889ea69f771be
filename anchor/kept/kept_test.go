package kept

import (
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
