package keyring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestPassphrase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	seed := k.mu.secrets.seed
	if err := k.Protect([]byte("too short")); !errors.Is(err, ErrWeak) {
		t.Errorf("a short passphrase: %v", err)
	}
	text := []byte("correct horse battery")
	if err := k.Protect(text); err != nil || k.Protection() != "passphrase" {
		t.Fatalf("protected by %s: %v", k.Protection(), err)
	}
	file, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, seed[:8]) {
		t.Error("a key stands in clear")
	}
	give := func(b []byte) Unlock { return func() ([]byte, error) { return b, nil } }
	if _, err := Open(dir, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("without a passphrase: %v", err)
	}
	if _, err := Open(dir, give([]byte("correct horse batterY"))); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	gone := errors.New("nobody answers")
	if _, err := Open(dir, func() ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("nobody answers: %v", err)
	}
	again, err := Open(dir, give(text))
	if err != nil || again.Device() != k.Device() || again.StoreKey() != k.StoreKey() {
		t.Fatalf("opened: %v", err)
	}
	// A new log is noted under the same passphrase.
	if err := again.MintLog(); err != nil {
		t.Fatal(err)
	}
	third, err := Open(dir, give(text))
	if err != nil || third.LogNonce() != again.LogNonce() {
		t.Fatalf("after a new log: %v", err)
	}
	for i := range file {
		b := bytes.Clone(file)
		b[i] ^= 1
		if err := os.WriteFile(filepath.Join(dir, FileName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrProtected) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if third, err = Open(dir, give(text)); err != nil {
		t.Fatal(err)
	}
	if err := third.Protect(nil); err != nil {
		t.Fatal(err)
	}
	if plain, err := Open(dir, nil); err != nil || plain.Device() != k.Device() || plain.Protection() != "permissions" {
		t.Errorf("after the protection was taken off: %v", err)
	}
}
