package storage_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/storage"
)

func put(t testing.TB, s storage.Store, key, value string) error {
	t.Helper()
	var b storage.Batch
	b.Put([]byte(key), []byte(value))
	return s.Commit(t.Context(), &b)
}

func get(t testing.TB, s storage.Store, key string) (value string, err error) {
	t.Helper()
	err = s.View(func(r storage.Reader) error {
		v, err := r.Get([]byte(key))
		value = string(v)
		return err
	})
	return value, err
}

// TestTwinStages fails a commit at each stage, and crashes it there, and looks at what is left.
func TestTwinStages(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		stage       storage.Stage
		goesOn      bool // commits go on after a failure there
		durable     bool // the batch is there after a failure or crash there
		seenAtStage bool
	}{
		{storage.Begin, true, false, false},
		{storage.Applied, false, false, false},
		{storage.Synced, false, true, true},
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/crash=%v", c.stage, crash), func(t *testing.T) {
				s := storage.NewTwin()
				if err := put(t, s, "k", "old"); err != nil {
					t.Fatal(err)
				}
				var after *storage.Twin
				s.OnCommit(func(stage storage.Stage, n int) error {
					if n != 2 {
						t.Errorf("commit number %d, want 2", n)
					}
					if stage != c.stage {
						return nil
					}
					if got, _ := get(t, s, "k"); (got == "new") != c.seenAtStage {
						t.Errorf("at %v a reader sees %q", stage, got)
					}
					if crash {
						after = s.Crash()
						return nil
					}
					return broken
				})
				err := put(t, s, "k", "new")
				s.OnCommit(nil)
				if crash {
					if !errors.Is(err, storage.ErrClosed) {
						t.Errorf("the commit that crashed: %v, want ErrClosed", err)
					}
					if _, err := get(t, s, "k"); !errors.Is(err, storage.ErrClosed) {
						t.Errorf("reading after a crash: %v, want ErrClosed", err)
					}
				} else {
					if !errors.Is(err, broken) {
						t.Errorf("the commit that failed: %v", err)
					}
					if err := put(t, s, "other", "x"); (err == nil) != c.goesOn || err != nil && !errors.Is(err, storage.ErrFailed) {
						t.Errorf("the next commit: %v", err)
					}
					if _, err := get(t, s, "k"); err != nil {
						t.Errorf("reading after a failure: %v", err)
					}
					after = s.Crash()
				}
				want := "old"
				if c.durable {
					want = "new"
				}
				if got, err := get(t, after, "k"); got != want || err != nil {
					t.Errorf("afterwards it holds %q, %v, want %q", got, err, want)
				}
				if err := put(t, after, "k", "next"); err != nil {
					t.Errorf("commit afterwards: %v", err)
				}
			})
		}
	}
}

func TestTwinFaults(t *testing.T) {
	s := storage.NewTwin()
	for _, k := range []string{"a", "b", "c"} {
		if err := put(t, s, k, "value of "+k); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != 3 {
		t.Errorf("Len = %d, want 3", s.Len())
	}

	ioErr := errors.New("input/output error")
	s.Fail(ioErr)
	if _, err := get(t, s, "a"); !errors.Is(err, ioErr) {
		t.Errorf("read: %v", err)
	}
	if err := put(t, s, "a", "x"); !errors.Is(err, ioErr) {
		t.Errorf("commit: %v", err)
	}
	s.Fail(nil)
	if got, err := get(t, s, "a"); got != "value of a" || err != nil {
		t.Errorf("after the fault: %q, %v", got, err)
	}

	if s.Corrupt([]byte("none")) {
		t.Error("a key that does not exist was corrupted")
	}
	if !s.Corrupt([]byte("b")) {
		t.Error("b was not corrupted")
	}
	if _, err := get(t, s, "b"); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("damaged value: %v, want ErrDamaged", err)
	}
	n := 0
	err := s.View(func(r storage.Reader) error {
		return r.Scan(nil, nil, func(_, _ []byte) error { n++; return nil })
	})
	if !errors.Is(err, storage.ErrDamaged) || n != 1 {
		t.Errorf("scan over a damaged value: %d values, %v", n, err)
	}
	if _, err := get(t, s.Crash(), "b"); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("damage after a crash: %v, want ErrDamaged", err)
	}

	s = storage.NewTwin()
	s.OnCommit(func(stage storage.Stage, _ int) error {
		if stage == storage.Applied {
			s.Fail(ioErr)
		}
		return nil
	})
	if err := put(t, s, "a", "x"); !errors.Is(err, ioErr) {
		t.Errorf("a fault during a commit: %v", err)
	}
	s.Fail(nil)
	s.OnCommit(nil)
	if err := put(t, s, "a", "x"); !errors.Is(err, storage.ErrFailed) {
		t.Errorf("commit after it: %v, want ErrFailed", err)
	}
}

// TestTwinVirtualTime has commits wait for a slow disk in virtual time, one after the other.
func TestTwinVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storage.NewTwin()
		s.OnCommit(func(stage storage.Stage, _ int) error {
			if stage == storage.Applied {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		})
		start := time.Now()
		done := make(chan error)
		for i := range 5 {
			go func() { done <- put(t, s, fmt.Sprint("k", i), "x") }()
		}
		for range 5 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != 50*time.Millisecond {
			t.Errorf("five commits took %v, want 50ms", took)
		}
	})
}
