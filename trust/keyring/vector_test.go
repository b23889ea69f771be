package keyring

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"chartmesh/trust"
)

var update = flag.Bool("update", false, "write new test vectors")

const vectorFile = "../testdata/membership-log.json"

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectors struct {
	Comment      string         `json:"comment"`
	RecoveryCode string         `json:"recovery_code"`
	Root         hexBytes       `json:"root_public_key"`
	Recovery     hexBytes       `json:"recovery_hpke_public_key"`
	Devices      []vectorDevice `json:"devices"`
	Entries      []vectorEntry  `json:"entries"`
	State        vectorState    `json:"state"`
	Documents    []vectorDoc    `json:"documents"`
}

type vectorDevice struct {
	Seed       hexBytes `json:"ed25519_seed"`
	HPKE       hexBytes `json:"hpke_private_key"`
	Store      hexBytes `json:"store_secret"`
	Secret     hexBytes `json:"device_secret"`
	Nonce      hexBytes `json:"log_nonce"`
	ID         hexBytes `json:"device"`
	Public     hexBytes `json:"hpke_public_key"`
	DeviceName string   `json:"device_name"`
	SiteName   string   `json:"site_name"`
}

func (d vectorDevice) keyring(t *testing.T) *Keyring {
	t.Helper()
	all := bytes.Join([][]byte{d.Seed, d.HPKE, d.Store, d.Secret, d.Nonce}, nil)
	k, err := Create("", bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type vectorEntry struct {
	Kind  string   `json:"kind"`
	ID    hexBytes `json:"id"`
	Bytes hexBytes `json:"bytes"`
}

type vectorState struct {
	Practice  hexBytes       `json:"practice"`
	Name      string         `json:"name"`
	HeadsHash hexBytes       `json:"heads_hash"`
	Members   []vectorMember `json:"members"`
	Scopes    []vectorScope  `json:"scopes"`
}

type vectorMember struct {
	Device hexBytes `json:"device"`
	Role   string   `json:"role"`
}

type vectorScope struct {
	Name       string   `json:"name"`
	ID         hexBytes `json:"id"`
	Epoch      hexBytes `json:"epoch"`
	Commitment hexBytes `json:"commitment"`
	EpochKey   hexBytes `json:"epoch_key"`
	IndexKey   hexBytes `json:"index_key"`
}

type vectorDoc struct {
	Scope string   `json:"scope"`
	Parts []string `json:"parts"`
	ID    hexBytes `json:"id"`
	Tag   hexBytes `json:"tag"`
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var entries []trust.Entry
	for _, x := range v.Entries {
		e, err := trust.ParseEntry(x.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) != 0 || st.Len() != len(v.Entries) {
		t.Fatal("an entry does not hold")
	}
	recovery, err := OpenWithRecovery(v.RecoveryCode, st)
	if err != nil {
		t.Fatal(err)
	}
	f := st.Founding()
	if !bytes.Equal(f.Root[:], v.Root) || !bytes.Equal(f.Recovery, v.Recovery) {
		t.Error("the recovery code's public keys differ")
	}
	keys := []*opened{&recovery.opened}
	for _, d := range v.Devices {
		k := d.keyring(t)
		id := k.Device()
		if !bytes.Equal(id[:], d.ID) || !bytes.Equal(k.HPKEPublic(), d.Public) {
			t.Error("a device's public keys differ")
		}
		if err := k.Learn(st); err != nil {
			t.Error(err)
		}
		if name, site := k.Names(st, id); name != d.DeviceName || site != d.SiteName {
			t.Errorf("names %q, %q", name, site)
		}
		if k.PracticeName(st) != v.State.Name {
			t.Errorf("practice %q", k.PracticeName(st))
		}
		keys = append(keys, &k.opened)
	}
	scopes := map[string]trust.ScopeID{}
	for _, s := range v.State.Scopes {
		id, epoch := trust.ScopeID(s.ID), trust.EpochID(s.Epoch)
		scopes[s.Name] = id
		if c := trust.Commit(id, [32]byte(s.EpochKey), [32]byte(s.IndexKey)); !bytes.Equal(c[:], s.Commitment) {
			t.Errorf("scope %s: the commitment differs", s.Name)
		}
		for _, o := range keys {
			if k, err := o.epochKey(id, epoch); err != nil || !bytes.Equal(k[:], s.EpochKey) {
				t.Errorf("scope %s: the epoch key differs", s.Name)
			}
			if k, err := o.indexKey(id); err != nil || !bytes.Equal(k[:], s.IndexKey) {
				t.Errorf("scope %s: the index key differs", s.Name)
			}
		}
	}
	for _, d := range v.Documents {
		for _, o := range keys {
			id, err := o.DocumentID(scopes[d.Scope], d.Parts...)
			if err != nil || !bytes.Equal(id[:], d.ID) {
				t.Errorf("document %v: %x, %v", d.Parts, id, err)
			}
			tag, err := o.Tag(scopes[d.Scope], id)
			if err != nil || !bytes.Equal(tag[:], d.Tag) {
				t.Errorf("tag of %v: %x, %v", d.Parts, tag, err)
			}
		}
	}
	if len(v.Documents) == 0 || len(v.Devices) != 2 || len(v.Entries) != 2 {
		t.Error("the file is not whole")
	}
}

func writeVectors(t *testing.T) {
	v := vectors{Comment: "Membership log 1. The secrets are of no practice. Checked by the tests of trust and trust/keyring."}
	var rings []*Keyring
	for i := range byte(2) {
		part := func(n byte, size int) hexBytes {
			return derive([]byte{i, n}, "chartmesh test vector", size)
		}
		d := vectorDevice{Seed: part(1, 32), HPKE: part(2, 32), Store: part(3, 32), Secret: part(4, 32), Nonce: part(5, 16),
			DeviceName: []string{"Anmeldung", "Sprechzimmer 1"}[i], SiteName: []string{"Hauptsitz", "Filiale"}[i]}
		k := d.keyring(t)
		id := k.Device()
		d.ID, d.Public = id[:], k.HPKEPublic()
		k.mu.rand = bytes.NewReader(derive([]byte{i}, "chartmesh test vector", 4096))
		v.Devices, rings = append(v.Devices, d), append(rings, k)
	}
	v.State.Name = "Praxis am Markt"
	e, code, err := rings[0].Found(FoundOptions{Practice: v.State.Name, Device: v.Devices[0].DeviceName,
		Site: v.Devices[0].SiteName, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	st, err := trust.Found(e)
	if err != nil {
		t.Fatal(err)
	}
	add, err := rings[0].Admit(st, Newcomer{Device: rings[1].Device(), HPKE: rings[1].HPKEPublic(),
		DeviceName: v.Devices[1].DeviceName, SiteName: v.Devices[1].SiteName, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if st, err = st.With(add); err != nil {
		t.Fatal(err)
	}
	f := st.Founding()
	v.RecoveryCode, v.Root, v.Recovery = code, f.Root[:], f.Recovery
	for _, e := range st.Entries() {
		id := e.ID()
		v.Entries = append(v.Entries, vectorEntry{e.Kind().String(), id[:], e.Bytes()})
	}
	practice, heads := st.Practice(), st.HeadsHash()
	v.State.Practice, v.State.HeadsHash = practice[:], heads[:]
	for _, m := range st.Members() {
		v.State.Members = append(v.State.Members, vectorMember{m.Device[:], m.Role.String()})
	}
	for _, sc := range st.Scopes() {
		epoch := sc.Epochs[0]
		body, err := rings[0].epochKey(sc.ID, epoch.ID)
		if err != nil {
			t.Fatal(err)
		}
		index, err := rings[0].indexKey(sc.ID)
		if err != nil {
			t.Fatal(err)
		}
		v.State.Scopes = append(v.State.Scopes, vectorScope{sc.Name, sc.ID[:], epoch.ID[:], epoch.Commitment[:], body[:],
			index[:]})
		for _, parts := range [][]string{{"patient-1", "core"}, {"Organization", "org-1"}} {
			doc, err := rings[0].DocumentID(sc.ID, parts...)
			if err != nil {
				t.Fatal(err)
			}
			tag, err := rings[0].Tag(sc.ID, doc)
			if err != nil {
				t.Fatal(err)
			}
			v.Documents = append(v.Documents, vectorDoc{sc.Name, parts, doc[:], tag[:]})
		}
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("../testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	fmt.Println("wrote", vectorFile)
}
