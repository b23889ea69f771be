package storage

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzDamaged reads bytes as the engine's log, as an index and as a block of a table, and as LOCK: whatever they are, reading
// them ends, with what is there or with an error.
func FuzzDamaged(f *testing.F) {
	key := make([]byte, 32)
	f.Add([]byte("12345      open   \n"))
	f.Add(make([]byte, 64))
	f.Add([]byte{0x40, 0, 1, 1, 0, 'k', 'v', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		l := logContent{b: b, key: key, iv: make([]byte, 12)}
		end, _, err := l.walk(func(e logEntry, _, _ []byte, _ uint64) {
			if e.next > len(b) || e.at < logHead {
				t.Errorf("an entry at %d ends at %d of %d", e.at, e.next, len(b))
			}
		})
		if err == nil && end > len(b) {
			t.Errorf("the log ends at %d of %d", end, len(b))
		}
		l.goesOn(0)
		_ = guarded(func() { _, _ = tableIndex(b, key) })
		s := &salvage{tags: newTagger([32]byte{}), seen: map[string]uint64{}, fn: func(_, _ []byte) error {
			t.Error("a pair without a tag was taken")
			return nil
		}}
		for i := range s.wanted {
			s.wanted[i] = true
		}
		_ = guarded(func() { _, _ = s.block(b, key) })
		name := filepath.Join(t.TempDir(), fileLock)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if pid, _ := readLock(name); len(pid) > 20 {
			t.Errorf("a process number of %d digits", len(pid))
		}
	})
}
