package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"chartmesh/trust"
)

func someContacts() contacts {
	return contacts{
		entries: [][]byte{{1, 2}, {3}}, ports: map[string]string{"udp": "4801"},
		addrs: map[trust.DeviceID][]string{{1}: {"/ip4/10.0.0.1/udp/4801/quic-v1"}, {2}: nil},
	}
}

// TestContacts shows that the file is read as it was written, opens with its key alone, and that every byte of it counts.
func TestContacts(t *testing.T) {
	dir, key := t.TempDir(), [32]byte{1}
	if _, err := readContacts(dir, key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	want := someContacts().marshal()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(writeContacts(dir, key, []byte("before")))
	must(writeContacts(dir, key, want))
	got, err := readContacts(dir, key)
	if err != nil || !bytes.Equal(got.marshal(), want) || len(got.entries) != 2 || got.ports["udp"] != "4801" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := readContacts(dir, [32]byte{2}); !errors.Is(err, errContacts) {
		t.Errorf("with another key: %v", err)
	}
	name := filepath.Join(dir, fileContacts)
	b, err := os.ReadFile(name)
	must(err)
	if bytes.Contains(b, []byte("10.0.0.1")) {
		t.Error("an address stands in clear")
	}
	for i := range b {
		bent := bytes.Clone(b)
		bent[i] ^= 1
		must(os.WriteFile(name, bent, 0o600))
		if _, err := readContacts(dir, key); !errors.Is(err, errContacts) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	must(os.WriteFile(name, b[:len(b)-1], 0o600))
	if _, err := readContacts(dir, key); !errors.Is(err, errContacts) {
		t.Errorf("cut short: %v", err)
	}
}

func FuzzContacts(f *testing.F) {
	f.Add(someContacts().marshal())
	f.Add(contacts{}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseContacts(b)
		if err != nil {
			return
		}
		again, err := parseContacts(c.marshal())
		if err != nil || !bytes.Equal(again.marshal(), c.marshal()) {
			t.Errorf("%x came back as %x, %v", b, c.marshal(), err)
		}
	})
}

// TestPairs shows that pairs that a child sends come as they were, and that a child that ends early is noticed.
func TestPairs(t *testing.T) {
	var stream bytes.Buffer
	for _, k := range []string{"a", "bb"} {
		if err := writePair(&stream, []byte(k), []byte("value of "+k)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(b []byte) (got []string, whole bool) {
		whole, err := readPairs(bytes.NewReader(b), func(k, v []byte) error {
			got = append(got, string(k)+"="+string(v))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, whole
	}
	cut := stream.Len() - 3
	if err := writePair(&stream, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got, whole := read(stream.Bytes()); !whole || len(got) != 2 || got[1] != "bb=value of bb" {
		t.Errorf("%q, whole %v", got, whole)
	}
	if got, whole := read(stream.Bytes()[:cut]); whole || len(got) != 1 {
		t.Errorf("cut short: %q, whole %v", got, whole)
	}
	if got, whole := read([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1}); whole || len(got) != 0 {
		t.Errorf("a key of 4 GB: %q, whole %v", got, whole)
	}
	stop := errors.New("stop")
	if _, err := readPairs(bytes.NewReader(stream.Bytes()), func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error: %v", err)
	}
}
