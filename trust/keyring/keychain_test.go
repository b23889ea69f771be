package keyring

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// fakeKeychain is a keychain that fails when it is told to.
type fakeKeychain struct {
	held   map[string][]byte
	fail   string // the call that fails
	forget bool   // what is put in is not there
}

var errFake = errors.New("the keychain fails")

func (f *fakeKeychain) Set(name string, secret []byte) error {
	if f.fail == "set" {
		return errFake
	}
	if !f.forget {
		f.held[name] = bytes.Clone(secret)
	}
	return nil
}

func (f *fakeKeychain) Get(name string) ([]byte, error) {
	if f.fail == "get" {
		return nil, errFake
	}
	if b, ok := f.held[name]; ok {
		return b, nil
	}
	return nil, ErrKeychainEntry
}

func (f *fakeKeychain) Delete(name string) error {
	if f.fail == "delete" {
		return errFake
	}
	delete(f.held, name)
	return nil
}

func newChained(t *testing.T) (k *Keyring, dir string, chain *fakeKeychain) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	chain = &fakeKeychain{held: map[string][]byte{}}
	k.chain = chain
	return k, dir, chain
}

func readKeyring(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeychain(t *testing.T) {
	k, dir, chain := newChained(t)
	plain := readKeyring(t, dir)
	if err := k.ProtectByKeychain(); err != nil || k.Protection() != "keychain" || len(chain.held) != 1 {
		t.Fatalf("protected by %s, %d entries: %v", k.Protection(), len(chain.held), err)
	}
	file := readKeyring(t, dir)
	if seed := k.mu.secrets.seed; bytes.Contains(file, seed[:8]) {
		t.Error("a key stands in clear")
	}
	open := func(c Keychain) (*Keyring, error) { return openAs(dir, instanceOf(dir), access{nil, c}) }
	again, err := open(chain)
	if err != nil || again.Device() != k.Device() || again.StoreKey() != k.StoreKey() || again.Moved() {
		t.Fatalf("opened: %v", err)
	}
	// A folder on another machine, a keychain that was reset, another user's, and none at all.
	if _, err := open(&fakeKeychain{held: map[string][]byte{}}); !errors.Is(err, ErrKeychainEntry) {
		t.Errorf("without its entry: %v", err)
	}
	other := maps.Clone(chain.held)
	for name := range other {
		other[name] = make([]byte, 32)
	}
	if _, err := open(&fakeKeychain{held: other}); !errors.Is(err, ErrKeychainEntry) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := open(nil); !errors.Is(err, ErrNoKeychain) {
		t.Errorf("without a keychain: %v", err)
	}
	// A copy on the same machine opens, and begins a log of its own.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, FileName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := openAs(copied, instanceOf(copied), access{nil, chain}); err != nil || !c.Moved() || c.LogNonce() == k.LogNonce() {
		t.Errorf("a copy: %v", err)
	}
	for i := range file {
		b := bytes.Clone(file)
		b[i] ^= 1
		if _, _, err := decode(b, access{nil, chain}); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrProtected) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	// To a passphrase and back: what is not needed any more is gone, and no file goes before another is there.
	if err := again.Protect([]byte("correct horse battery")); err != nil || len(chain.held) != 0 {
		t.Fatalf("to a passphrase: %v, %d entries left", err, len(chain.held))
	}
	if err := again.ProtectByKeychain(); err != nil || len(chain.held) != 1 {
		t.Fatalf("back to the keychain: %v", err)
	}
	if err := again.ProtectByKeychain(); err != nil || len(chain.held) != 1 {
		t.Fatalf("once more: %v, %d entries", err, len(chain.held))
	}
	if err := again.Protect(nil); err != nil || len(chain.held) != 0 || !bytes.Equal(readKeyring(t, dir), plain) {
		t.Errorf("to permissions: %v", err)
	}
}

// TestKeychainFails: whatever step fails, the keys open as the file says, before or after; nothing that does not open is written.
func TestKeychainFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fakeKeychain, string)
		want   error
	}{
		"set":     {func(f *fakeKeychain, _ string) { f.fail = "set" }, errFake},
		"get":     {func(f *fakeKeychain, _ string) { f.fail = "get" }, errFake},
		"forgets": {func(f *fakeKeychain, _ string) { f.forget = true }, ErrKeychainEntry},
		"file":    {func(_ *fakeKeychain, dir string) { _ = os.Rename(dir, dir+"-away") }, ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			k, dir, chain := newChained(t)
			before := readKeyring(t, dir)
			c.change(chain, dir)
			if err := k.ProtectByKeychain(); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			_ = os.Rename(dir+"-away", dir)
			if k.Protection() != "permissions" || !bytes.Equal(readKeyring(t, dir), before) || len(chain.held) != 0 {
				t.Errorf("it is protected by %s, with %d entries", k.Protection(), len(chain.held))
			}
		})
	}
	t.Run("sync", func(t *testing.T) { // the file is there, and nobody knows for how long
		k, dir, chain := newChained(t)
		failing := func(string) error { return errFake }
		syncNames = failing
		t.Cleanup(func() { syncNames = syncFolder })
		for _, step := range []func() error{k.ProtectByKeychain, k.ProtectByKeychain, func() error { return k.Protect(nil) }} {
			held := len(chain.held)
			syncNames = failing
			if err := step(); !errors.Is(err, errFake) || len(chain.held) < held {
				t.Errorf("%v, and %d of %d entries are held", err, len(chain.held), held)
			}
			opened, err := openAs(dir, instanceOf(dir), access{nil, chain})
			if err != nil || opened.Protection() != k.Protection() {
				t.Fatalf("the file does not open as it is held in memory: %v", err)
			}
		}
		syncNames = syncFolder
		if err := k.ProtectByKeychain(); err != nil {
			t.Errorf("when it can be written again: %v", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		k, dir, chain := newChained(t)
		if err := k.ProtectByKeychain(); err != nil {
			t.Fatal(err)
		}
		chain.fail = "delete"
		if err := k.Protect(nil); !errors.Is(err, ErrKeychainLeft) || k.Protection() != "permissions" {
			t.Errorf("%v; protected by %s", err, k.Protection())
		}
		if _, err := Open(dir, nil); err != nil {
			t.Error(err)
		}
		chain.fail = ""
		if err := k.ProtectByKeychain(); err != nil {
			t.Fatal(err)
		}
		chain.fail = "delete"
		if err := k.ProtectByKeychain(); !errors.Is(err, ErrKeychainLeft) {
			t.Error(err)
		}
		chain.fail = ""
		if _, err := openAs(dir, instanceOf(dir), access{nil, chain}); err != nil {
			t.Errorf("the new entry was deleted with the old: %v", err)
		}
	})
}

// lockSeen is a keychain that looks, when it is to forget, whether the keyring is locked.
type lockSeen struct {
	*fakeKeychain
	k      *Keyring
	locked bool
	asked  int
}

func (l *lockSeen) Delete(name string) error {
	l.asked++
	if l.k.mu.TryLock() {
		l.k.mu.Unlock()
	} else {
		l.locked = true
	}
	return l.fakeKeychain.Delete(name)
}

// TestKeychainUnlocked: the keyring is of use while the keychain, which may ask somebody first, forgets a key.
func TestKeychainUnlocked(t *testing.T) {
	k, _, chain := newChained(t)
	seen := &lockSeen{fakeKeychain: chain, k: k}
	k.chain = seen
	for _, step := range []func() error{k.ProtectByKeychain, k.ProtectByKeychain, func() error { return k.Protect(nil) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if seen.locked || seen.asked != 2 {
		t.Errorf("asked %d times to forget, under the lock: %t", seen.asked, seen.locked)
	}
}

// TestChangeNotDurable: where a change stands in the file and could not be made durable, memory says what the file says.
func TestChangeNotDurable(t *testing.T) {
	k, dir, _ := newChained(t)
	syncNames = func(string) error { return errFake }
	t.Cleanup(func() { syncNames = syncFolder })
	if err := k.BeginStoreKey(); !errors.Is(err, errFake) {
		t.Fatal(err)
	}
	opened, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	here, pending := k.NextStoreKey()
	if stored, ok := opened.NextStoreKey(); !pending || !ok || here != stored {
		t.Errorf("pending %v in memory, %v in the file", pending, ok)
	}
}
