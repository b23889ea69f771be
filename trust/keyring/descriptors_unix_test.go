//go:build unix

package keyring

import (
	"errors"
	"syscall"
	"testing"
)

// TestKeychainNoDescriptors: where neither the folder nor the file can be opened any more once the new file is in its place, its key is kept.
func TestKeychainNoDescriptors(t *testing.T) {
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	k, dir, chain := newChained(t)
	restore := func() {
		syncNames = syncFolder
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	syncNames = func(dir string) error {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: was.Max}); err != nil {
			return err
		}
		return syncFolder(dir)
	}
	err := k.ProtectByKeychain()
	restore()
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("%v, want %v", err, syscall.EMFILE)
	}
	if _, err := openAs(dir, instanceOf(dir), access{nil, chain}); err != nil || k.Protection() != "keychain" {
		t.Errorf("the file does not open, with %d entries; protected by %s: %v", len(chain.held), k.Protection(), err)
	}
	if err := k.Protect(nil); err != nil {
		t.Errorf("it cannot be written again: %v", err)
	}
}
