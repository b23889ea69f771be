package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/trust/keyring"
)

var errCut = errors.New("cut short")

// TestStoreKeyCutShort: cut short before each of its steps, a change of the store's key is finished or taken back by whoever opens the
// folder next, and nothing is missing; what the old key opened then opens nothing.
func TestStoreKeyCutShort(t *testing.T) {
	for _, at := range []string{"begin", "copy", "close", "aside", "place", "end", "remove", ""} {
		t.Run("before "+at, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
				t.Fatal(err)
			}
			before := storeValues(t, dir)
			keys, err := keyring.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			old := keys.StoreKey()
			came := at == ""
			r, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1, step: func(step string) error {
				if step == at {
					came = true
					return errCut
				}
				return nil
			}})
			if !came || at == "" && (err != nil || r.Values == 0 || r.Changed.IsZero()) || at != "" && err == nil {
				t.Fatalf("%v, %+v", err, r)
			}
			a, err := Open(Config{Dir: dir, Offline: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if there(storeIn(dir)+suffixNext) || there(storeIn(dir)+suffixBefore) {
				t.Error("something is left")
			}
			if keys, err = keyring.Open(dir, nil); err != nil {
				t.Fatal(err)
			}
			changed := at == "" || at == "place" || at == "end" || at == "remove"
			if _, pending := keys.NextStoreKey(); pending || (keys.StoreKey() != old) != changed || keys.StoreKeyChanged().IsZero() == changed {
				t.Errorf("pending %v, another key %v", pending, keys.StoreKey() != old)
			}
			if changed {
				if s, err := storage.Open(storeIn(dir), old, storage.Options{}); !errors.Is(err, storage.ErrWrongKey) {
					t.Errorf("the old key opens the store: %v", err)
					_ = s.Close()
				}
			}
			for key, value := range before {
				if now := storeValues(t, dir)[key]; key[0] != storage.Meta.Number() && now != value {
					t.Fatal("a value is another, or missing")
				}
			}
			if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1}); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func storeValues(t *testing.T, dir string) map[string]string {
	t.Helper()
	keys, err := keyring.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(storeIn(dir), keys.StoreKey(), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	values := map[string]string{}
	if err := s.View(func(v storage.Reader) error {
		return v.Scan(nil, nil, func(key, value []byte) error {
			values[string(key)] = string(value)
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestStoreKeyRefused: nothing is changed while somebody has the folder, or where a store would be left that opens no more.
func TestStoreKeyRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	a, err := Open(Config{Dir: dir, Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{}); api.CodeOf(err) != api.CodeInUse {
		t.Errorf("beside an agent: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1 << 62}); api.CodeOf(err) != api.CodeFull {
		t.Errorf("without room: %v", err)
	}
	if err := os.Mkdir(storeIn(dir)+suffixDamaged+"20261127T000000Z", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("beside a damaged store: %v", err)
	}
	keys, err := keyring.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, pending := keys.NextStoreKey(); pending || !keys.StoreKeyChanged().IsZero() {
		t.Error("something was changed")
	}
}

// TestStoreKeyBesideCommand: from its claim on the folder until it has the store's own lock, nobody puts another store in the place of the
// one that a command is about to open.
func TestStoreKeyBesideCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{Dir: dir}, log: slog.New(slog.DiscardHandler), keys: keys}
	if err := a.claim(); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1}); api.CodeOf(err) != api.CodeInUse {
		t.Errorf("before the command has the store: %v", err)
	}
	if err := a.openStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1}); api.CodeOf(err) != api.CodeInUse {
		t.Errorf("while the command has the store: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1}); err != nil {
		t.Errorf("after the command: %v", err)
	}
}

// TestStoreKeyCutShortThenBegunAnew: whoever comes to a folder between the two renamings, to join a practice or with a store that was begun
// since, loses none of the stores.
func TestStoreKeyCutShortThenBegunAnew(t *testing.T) {
	for name, begin := range map[string]func(dir string, keys *keyring.Keyring) error{
		"join": func(dir string, keys *keyring.Keyring) error {
			if err := unfinished(dir, keys); api.CodeOf(err) != api.CodeConflict {
				return fmt.Errorf("the folder has a practice: %w", err)
			}
			return nil
		},
		"an empty store": func(dir string, keys *keyring.Keyring) error {
			s, err := storage.Open(storeIn(dir), keys.StoreKey(), storage.Options{})
			if err != nil {
				return err
			}
			return s.Close()
		},
		"no store": func(dir string, _ *keyring.Keyring) error {
			if err := os.Mkdir(storeIn(dir), 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(storeIn(dir), "FORMAT"), []byte("nothing"), 0o600)
		},
		"another store": func(dir string, keys *keyring.Keyring) error {
			s, err := storage.Open(storeIn(dir), keys.StoreKey(), storage.Options{})
			if err != nil {
				return err
			}
			var b storage.Batch
			b.Put(storage.Peer.Key(keys.Device()), []byte("store"))
			return errors.Join(s.Commit(t.Context(), &b), s.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
				t.Fatal(err)
			}
			before := storeValues(t, dir)
			if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1, step: func(step string) error {
				if step == "place" {
					return errCut
				}
				return nil
			}}); err == nil {
				t.Fatal("not cut short")
			}
			keys, err := keyring.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := begin(dir, keys); err != nil {
				t.Fatal(err)
			}
			a, err := Open(Config{Dir: dir, Offline: true})
			if name == "another store" {
				if api.CodeOf(err) != api.CodeConflict || !there(storeIn(dir)+suffixNext) || !there(storeIn(dir)+suffixBefore) {
					t.Fatalf("not refused, or a store is gone: %v", err)
				}
				if err := os.RemoveAll(storeIn(dir)); err != nil {
					t.Fatal(err)
				}
				a, err = Open(Config{Dir: dir, Offline: true})
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			now := storeValues(t, dir)
			for key, value := range before {
				if key[0] != storage.Meta.Number() && now[key] != value {
					t.Fatal("a value is another, or missing")
				}
			}
		})
	}
}

// TestStoreKeyNewStoreLost: where the new store is gone again before its key is in force, the old one goes back to its place.
func TestStoreKeyNewStoreLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	before := storeValues(t, dir)
	if _, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1, step: func(step string) error {
		if step == "end" {
			return errors.Join(errCut, os.RemoveAll(storeIn(dir)))
		}
		return nil
	}}); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	a, err := Open(Config{Dir: dir, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, pending := keys.NextStoreKey(); pending || there(storeIn(dir)+suffixBefore) {
		t.Error("something is left")
	}
	now := storeValues(t, dir)
	for key, value := range before {
		if key[0] != storage.Meta.Number() && now[key] != value {
			t.Fatal("a value is another, or missing")
		}
	}
}

// TestStoreKeyChecked: the store under the old key stays where the new one does not open.
func TestStoreKeyChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	_, err := RotateStore(t.Context(), dir, RotateOptions{LeastFree: 1, step: func(step string) error {
		if step == "end" {
			return os.WriteFile(filepath.Join(storeIn(dir), "FORMAT"), []byte("nothing"), 0o600)
		}
		return nil
	}})
	if err == nil || !there(storeIn(dir)+suffixBefore) {
		t.Fatalf("the old store is gone: %v", err)
	}
	keys, err := keyring.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, pending := keys.NextStoreKey(); !pending {
		t.Error("the old key is gone")
	}
}
