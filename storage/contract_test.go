package storage_test

import (
	"errors"
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

// TestPartContract: what is within a store is a store, and neither its neighbours nor the whole are touched.
func TestPartContract(t *testing.T) {
	wrap := func(t testing.TB, whole storage.Store) storage.Store {
		neighbour := storage.Within.Key(8)
		check := func() {
			if err := whole.View(func(r storage.Reader) error {
				if v, err := r.Get(append(neighbour, "a"...)); err != nil || string(v) != "neighbour" {
					t.Errorf("the neighbour has %q, %v", v, err)
				}
				return nil
			}); err != nil && !errors.Is(err, storage.ErrClosed) {
				t.Error(err)
			}
		}
		var b storage.Batch
		b.Put(append(neighbour, "a"...), []byte("neighbour"))
		if err := whole.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		return closing{storage.Part(whole, 7), whole, check}
	}
	again := func(t testing.TB, s storage.Store) storage.Store {
		return wrap(t, s.(closing).whole.(*storage.Twin).Crash())
	}
	storagetest.Run(t, storagetest.Subject{
		Open: func(t testing.TB) storage.Store { return wrap(t, storage.NewTwin()) },
		Reopen: func(t testing.TB, s storage.Store) storage.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return again(t, s)
		},
		Crash: again,
	})
}

// closing is a part that closes the whole.
type closing struct {
	storage.Store
	whole storage.Store
	check func()
}

func (c closing) Close() error {
	c.check()
	return c.whole.Close()
}
