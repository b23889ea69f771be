package storage

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestHeads shows that a store that holds less of a log than HEADS says is damaged, and that HEADS follows every commit.
func TestHeads(t *testing.T) {
	key := [32]byte{1}
	dir := filepath.Join(t.TempDir(), "store")
	head := LogHead.Key([16]byte{1}, [32]byte{2})
	s, err := open(dir, key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		var b Batch
		b.Put(head, []byte{byte(i)})
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	var b Batch
	b.Delete(head)
	if err := s.Commit(t.Context(), &b); !errors.Is(err, ErrKey) {
		t.Errorf("a log head was removed: %v", err)
	}
	if s.heads.mu.timer == nil {
		t.Error("nothing is going to write HEADS")
	}
	aead := s.heads.aead
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	serial, list, err := ReadHeads(dir, key)
	if err != nil || serial < 4 || len(list) != 1 || string(list[0].Key) != string(head) || list[0].Value[0] != 2 {
		t.Fatalf("HEADS holds serial %d and %v, %v", serial, list, err)
	}
	name := filepath.Join(dir, fileHeads)
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	good, err := parseHeads(content, aead)
	if err != nil {
		t.Fatal(err)
	}
	at := good.mirrored[string(head)]
	for what, bent := range map[string]heads{
		"a later commit":     {good.serial + 1, good.mirrored},
		"another log":        {good.serial, map[string]headValue{string(LogHead.Key([16]byte{1}, [32]byte{3})): at}},
		"a later head":       {good.serial, map[string]headValue{string(head): {at.serial + 1, at.value}}},
		"another head":       {good.serial, map[string]headValue{string(head): {at.serial, []byte{9}}}},
		"the heads, as were": {good.serial, maps.Clone(good.mirrored)},
		"an earlier head":    {good.serial, map[string]headValue{string(head): {at.serial - 1, []byte{1}}}},
	} {
		if err := replaceFile(name, bent.seal(aead, make([]byte, nonceLen))); err != nil {
			t.Fatal(err)
		}
		s, err := open(dir, key, Options{})
		if err == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if what != "the heads, as were" && what != "an earlier head" {
				t.Errorf("HEADS names %s, and the store opens", what)
			}
		} else if !errors.Is(err, ErrDamaged) {
			t.Errorf("HEADS names %s: %v", what, err)
		}
	}
}

// TestGuard shows that a store commits nothing while its disk has too little room, and goes on when it has more.
func TestGuard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := open(dir, [32]byte{1}, Options{LeastFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	b.Put([]byte("key"), nil)
	err = s.Commit(t.Context(), &b)
	if room, ok := errors.AsType[*NoRoom](err); !errors.Is(err, ErrNoRoom) || !ok || room.Free == 0 || room.Least < 1<<60 {
		t.Errorf("commit on a full disk: %v", err)
	}
	free, _, full, err := s.Room()
	if err != nil || !full || free == 0 {
		t.Errorf("%d bytes are free, full %v, %v", free, full, err)
	}
	s.guard.least = free - free/50 // enough for one that was not full, and not for one that was
	if err := s.Commit(t.Context(), &b); !errors.Is(err, ErrNoRoom) {
		t.Errorf("commit right above the border: %v", err)
	}
	s.guard.least = free / 2
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Errorf("commit with room: %v", err)
	}
	if _, _, full, _ := s.Room(); full {
		t.Error("the store stays full")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
