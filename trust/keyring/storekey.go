package keyring

import (
	"errors"
	"fmt"
	"time"
)

// The store's key is changed in two steps, with the store encrypted anew in between: until the second is durable the file holds both keys,
// and whoever finds two stores knows by which of them are there how far it came.

// BeginStoreKey makes the key that the store is to be encrypted under next, durably; NextStoreKey returns it.
func (k *Keyring) BeginStoreKey() error {
	return k.change("begin another store key", func(s *secrets) error { return k.fillLocked(s.next[:]) })
}

// EndStoreKey puts the next store key in the place of the one so far, which is then worth nothing for what is stored.
func (k *Keyring) EndStoreKey(now time.Time) error {
	return k.change("put another store key in force", func(s *secrets) error {
		if s.next == ([32]byte{}) {
			return errors.New("there is none")
		}
		s.store, s.next, s.rotated = s.next, [32]byte{}, uint64(now.UnixMilli())
		return nil
	})
}

// DropStoreKey forgets the next store key, under which nothing is stored.
func (k *Keyring) DropStoreKey() error {
	return k.change("give up another store key", func(s *secrets) error {
		s.next = [32]byte{}
		return nil
	})
}

// NextStoreKey returns the key that a store which is being encrypted anew has, if one is.
func (k *Keyring) NextStoreKey() (key [32]byte, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.secrets.next == ([32]byte{}) {
		return key, false
	}
	return [32]byte(derive(k.mu.secrets.next[:], "chartmesh store 1", 32)), true
}

// StoreKeyChanged returns when the store's key was last changed; zero: it is the first.
func (k *Keyring) StoreKeyChanged() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.secrets.rotated == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(k.mu.secrets.rotated))
}

// change changes the secrets, durably. Where the new file stands and only its durability is in doubt, they are changed all the same:
// memory follows the file, so that no later write puts back what it had before.
func (k *Keyring) change(what string, fn func(*secrets) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.mu.secrets
	err := fn(&next)
	if err == nil {
		err = k.store(next, k.mu.by)
	}
	if err == nil || errors.Is(err, errPlaced) {
		k.mu.secrets = next
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
