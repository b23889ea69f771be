package agent_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/internal/compat"
	"chartmesh/storage"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

// TestDowngradeIsRefused: a folder that a newer version wrote, in its keyring, its store or its values, is refused with both
// versions and what to do, and is as it was afterwards.
func TestDowngradeIsRefused(t *testing.T) {
	for name, newer := range map[string]struct {
		bend func(t *testing.T, dir string)
		says []string
	}{
		"values": {func(t *testing.T, dir string) {
			note(t, dir, 7, "9.8.7", "and what nobody knows yet")
		}, []string{"chartmesh 9.8.7", "version 7", "chartmesh 1.2.3", "up to 5"}},
		"store": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, "records", "FORMAT")
			b, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, bytes.Replace(b, []byte("version 2\n"), []byte("version 5\n"), 1), 0o600))
		}, []string{"version is 5", "up to 2"}},
		"keyring": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, "keyring")
			b, err := os.ReadFile(path)
			must(t, err)
			b[3] = 6
			must(t, os.WriteFile(path, b, 0o600))
		}, []string{"version is 6", "up to 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			_, err := agent.Init(dir, agent.InitOptions{Practice: "P", Site: "S", Device: "D"})
			must(t, err)
			open := func() (*agent.Agent, error) {
				return agent.Open(agent.Config{Dir: dir, Version: "1.2.3", Offline: true})
			}
			a, err := open()
			must(t, err)
			_, err = a.Put(t.Context(), "u", json.RawMessage(`{"resourceType":"Patient","id":"p"}`), false)
			must(t, err)
			must(t, a.Close())
			newer.bend(t, dir)
			keys := sum(t, filepath.Join(dir, "keyring"))
			_, err = open()
			e := api.AsError(err)
			if e == nil || e.Code != api.CodeIncompat || !strings.Contains(e.Hint, "install that version") {
				t.Fatalf("%#v", err)
			}
			for _, want := range append(newer.says, dir, "written by") {
				if !strings.Contains(e.Message, want) {
					t.Errorf("it does not say %q: %s", want, e.Message)
				}
			}
			if sum(t, filepath.Join(dir, "keyring")) != keys {
				t.Error("the keyring was changed")
			}
		})
	}
}

// TestUpgradeIsNoted: the first build that opens an older folder notes that it did, once; one that opens it again does not.
func TestUpgradeIsNoted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	compat.Open(t, filepath.Join(compatDir, "1"), dir)
	if b := noted(t, dir); b != nil {
		t.Fatalf("the old folder has a note: %x", b)
	}
	var first []byte
	for _, version := range []string{"2.0.0", "2.0.1"} {
		a, err := agent.Open(agent.Config{Dir: dir, Version: version, Offline: true})
		must(t, err)
		must(t, a.Close())
		b := noted(t, dir)
		if first == nil {
			first = b
		}
		if !bytes.Contains(b, []byte("2.0.0")) || !bytes.Equal(b, first) {
			t.Errorf("after %s: %q", version, b)
		}
	}
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return sha256.Sum256(b)
}

func openStore(t *testing.T, dir string, fn func(storage.Store) error) {
	t.Helper()
	keys, err := keyring.Open(dir, nil)
	must(t, err)
	s, err := storage.Open(filepath.Join(dir, "records"), keys.StoreKey(), storage.Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	must(t, fn(s))
}

func note(t *testing.T, dir string, data uint64, version, more string) {
	t.Helper()
	openStore(t, dir, func(s storage.Store) error {
		var w wire.Writer
		w.Byte(3) // a format that comes later
		w.Uvarint(data)
		w.String(version)
		w.String(more)
		var b storage.Batch
		b.Put(storage.Meta.Key(replica.MetaWritten), w.Bytes())
		return s.Commit(t.Context(), &b)
	})
}

func noted(t *testing.T, dir string) (b []byte) {
	t.Helper()
	openStore(t, dir, func(s storage.Store) error {
		return s.View(func(v storage.Reader) error {
			value, err := v.Get(storage.Meta.Key(replica.MetaWritten))
			if err == nil {
				b = value
			}
			return nil
		})
	})
	return b
}
