package trust_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"chartmesh/trust"
)

// Package keyring writes the file, with real keys (go test ./trust/keyring -update).
func TestVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/membership-log.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Entries []struct{ Kind, ID, Bytes string }
		State   struct {
			Practice  string
			HeadsHash string `json:"heads_hash"`
			Members   []struct{ Device, Role string }
			Scopes    []struct{ Name, ID, Epoch, Commitment string }
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Entries) < 2 {
		t.Fatal("too few entries")
	}
	var entries []trust.Entry
	for _, x := range v.Entries {
		raw, err := hex.DecodeString(x.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		e, err := trust.ParseEntry(raw)
		if err != nil {
			t.Fatal(err)
		}
		if full(e.ID()) != x.ID || e.Kind().String() != x.Kind {
			t.Errorf("entry %v is not %s %s", e, x.Kind, x.ID)
		}
		entries = append(entries, e)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) != 0 {
		t.Fatal(rejected[0].Err)
	}
	if full(st.Practice()) != v.State.Practice || full(st.HeadsHash()) != v.State.HeadsHash {
		t.Error("practice or heads hash differ")
	}
	members := st.Members()
	if len(members) != len(v.State.Members) {
		t.Fatalf("%d members, want %d", len(members), len(v.State.Members))
	}
	for i, m := range v.State.Members {
		if full(members[i].Device) != m.Device || members[i].Role.String() != m.Role {
			t.Errorf("member %d differs", i)
		}
	}
	for i, sc := range st.Scopes() {
		w := v.State.Scopes[i]
		if sc.Name != w.Name || hex.EncodeToString(sc.ID[:]) != w.ID || full(sc.Epochs[0].ID) != w.Epoch ||
			full(sc.Epochs[0].Commitment) != w.Commitment {
			t.Errorf("scope %s differs", w.Name)
		}
	}
}

// full writes all of an ID, whose own String is cut.
func full[T ~[32]byte](id T) string {
	b := [32]byte(id)
	return hex.EncodeToString(b[:])
}
