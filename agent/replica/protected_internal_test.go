package replica

import (
	"bytes"
	"encoding/binary"
	"testing"

	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
)

var locks = []string{fhir.LockSettings, fhir.LockCodeLists, fhir.LockBilling, "invoices/undated", "invoices/0001", "invoices/2026", "invoices/9999"}

// idUnder is the ID of a document that a lock guards, as lockDocument makes it.
func idUnder(scope trust.ScopeID, lock string) (id crdt.DocumentID) {
	class, year, _ := classOf(lock)
	copy(id[:], scope[:trust.DocumentPrefix])
	copy(id[markAt:], markOf(scope))
	id[classAt] = byte(class)
	binary.BigEndian.PutUint16(id[yearAt:], year)
	return id
}

func TestLockOf(t *testing.T) {
	scope := trust.ScopeID{1, 2, 3}
	for _, lock := range locks {
		if got, ok := LockOf(scope, idUnder(scope, lock)); !ok || got != lock {
			t.Errorf("%s is read as %q, %v", lock, got, ok)
		}
		if _, ok := LockOf(trust.ScopeID{9}, idUnder(scope, lock)); ok {
			t.Errorf("%s guards a document of another scope", lock)
		}
	}
	for _, name := range []string{"", "invoices", "invoices/", "invoices/0000", "invoices/202", "invoices/20266", "invoices/+202", "Settings"} {
		if _, _, ok := classOf(name); ok {
			t.Errorf("%q is a lock", name)
		}
	}
	bent := idUnder(scope, fhir.LockBilling)
	for _, class := range []byte{0, 5, 255} {
		bent[classAt] = class
		if _, ok := LockOf(scope, bent); ok {
			t.Errorf("class %d guards something", class)
		}
	}
	bent = idUnder(scope, fhir.LockSettings)
	bent[yearAt+1] = 1
	if _, ok := LockOf(scope, bent); ok {
		t.Error("settings of a year")
	}
	bent = idUnder(scope, "invoices/9999")
	bent[yearAt] = 255
	if _, ok := LockOf(scope, bent); ok {
		t.Error("invoices of a year beyond 9999")
	}
}

// FuzzLock: the ID says which lock guards a document in one way.
func FuzzLock(f *testing.F) {
	scope := trust.ScopeID{1, 2, 3}
	for _, lock := range locks {
		id := idUnder(scope, lock)
		f.Add(id[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != len(crdt.DocumentID{}) {
			return
		}
		id := crdt.DocumentID(b)
		var lock string
		var ok bool
		fuzzing.Allocates(t, len(b), 8, 4<<10, func() { lock, ok = LockOf(scope, id) })
		if !ok {
			return
		}
		again := idUnder(scope, lock)
		if !bytes.Equal(again[markAt:restAt], id[markAt:restAt]) {
			t.Errorf("%q of %x is of %x", lock, id, again)
		}
	})
}
