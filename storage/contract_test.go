package storage_test

import (
	"path/filepath"
	"sync"
	"testing"

	"chartmesh/storage"
	"chartmesh/storage/storagetest"
)

var testKey = [32]byte{1, 2, 3}

func TestTwinContract(t *testing.T) {
	again := func(_ testing.TB, s storage.Store) storage.Store { return s.(*storage.Twin).Crash() }
	storagetest.Run(t, storagetest.Subject{
		Open: func(testing.TB) storage.Store { return storage.NewTwin() },
		Reopen: func(t testing.TB, s storage.Store) storage.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return again(t, s)
		},
		Crash: again,
	})
}

func TestDiskContract(t *testing.T) {
	var folders sync.Map // of storage.Store: where it is
	open := func(t testing.TB, dir string) storage.Store {
		s, err := storage.Open(dir, testKey, storage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		folders.Store(s, dir)
		return s
	}
	storagetest.Run(t, storagetest.Subject{
		Open: func(t testing.TB) storage.Store { return open(t, filepath.Join(t.TempDir(), "store")) },
		Reopen: func(t testing.TB, s storage.Store) storage.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			dir, _ := folders.Load(s)
			return open(t, dir.(string))
		},
	})
}
