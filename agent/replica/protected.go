package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
)

// Quorum is what a replica has to know of the practice's quorum: how its voters see names, and who they were.
type Quorum interface {
	certificate.Hasher
	certificate.Voters
}

// A protected document says in its ID that it is, and by which lock (docs/spec/protected-documents.md), so that a change of it is judged before
// anything in it is read:
//
//	scope (8) ‖ mark (5) ‖ class (1) ‖ year (2) ‖ derived (16)
const (
	markAt  = trust.DocumentPrefix
	classAt = markAt + 5
	yearAt  = classAt + 1
	restAt  = yearAt + 2
)

// lockClass says what a lock guards. The numbers are part of the format.
type lockClass byte

const (
	classSettings  lockClass = 1
	classCodeLists lockClass = 2
	classBilling   lockClass = 3
	classInvoices  lockClass = 4
)

// lockDocuments is how many documents a lock has: a quorum keeps no more of one.
const lockDocuments = lockquorum.MaxDocuments

func markOf(scope trust.ScopeID) []byte {
	sum := sha256.Sum256(append([]byte("chartmesh protected document 1"), scope[:]...))
	return sum[:classAt-markAt]
}

// guards names the lock under which a resource is written; empty: none. Who knows of no quorum writes where it always did; the first edit under
// a lease takes it over.
func (r *Replica) guards(obj fhir.Object) string {
	if r.quorum == nil {
		return ""
	}
	return fhir.Lock(obj)
}

// LockOfResource names the lock under which a resource is written that is given as JSON; empty: none, or it is no resource.
func LockOfResource(raw []byte) string {
	obj, _, err := parseResource(raw)
	if err != nil {
		return ""
	}
	return fhir.Lock(obj)
}

// LockOf returns the name of the lock that guards a document of a scope; false for an ordinary one.
func LockOf(scope trust.ScopeID, id crdt.DocumentID) (lock string, protected bool) {
	if string(id[markAt:classAt]) != string(markOf(scope)) {
		return "", false
	}
	class, year := lockClass(id[classAt]), binary.BigEndian.Uint16(id[yearAt:])
	switch {
	case class == classInvoices && year == 0:
		return fhir.LockInvoices + "undated", true
	case class == classInvoices && year <= 9999:
		return fhir.LockInvoices + fmt.Sprintf("%04d", year), true
	case year != 0:
		return "", false
	case class == classSettings:
		return fhir.LockSettings, true
	case class == classCodeLists:
		return fhir.LockCodeLists, true
	case class == classBilling:
		return fhir.LockBilling, true
	}
	return "", false
}

// classOf returns what a lock's name stands for; false if it guards nothing.
func classOf(lock string) (class lockClass, year uint16, ok bool) {
	switch lock {
	case fhir.LockSettings:
		return classSettings, 0, true
	case fhir.LockCodeLists:
		return classCodeLists, 0, true
	case fhir.LockBilling:
		return classBilling, 0, true
	}
	name, ok := strings.CutPrefix(lock, fhir.LockInvoices)
	if !ok {
		return 0, 0, false
	}
	if name == "undated" {
		return classInvoices, 0, true
	}
	n, err := strconv.ParseUint(name, 10, 16)
	if err != nil || len(name) != 4 || n == 0 {
		return 0, 0, false
	}
	return classInvoices, uint16(n), true
}

// lockDocument returns the nth document of a lock, and its scope.
func (r *Replica) lockDocument(lock string, n int) (scope trust.ScopeID, id crdt.DocumentID, err error) {
	class, year, ok := classOf(lock)
	if !ok {
		return scope, id, fmt.Errorf("no document is guarded by a lock of the name %q", lock)
	}
	if scope, err = r.scope(fhir.LockScope(lock)); err != nil {
		return scope, id, err
	}
	derived, err := r.keys.DocumentID(scope, "protected", lock, strconv.Itoa(n))
	if err != nil {
		return scope, id, fmt.Errorf("place resource: %w", err)
	}
	id = crdt.DocumentID(derived)
	copy(id[markAt:], markOf(scope))
	id[classAt] = byte(class)
	binary.BigEndian.PutUint16(id[yearAt:], year)
	return scope, id, nil
}

// ProtectedDocument returns the document that a resource belongs to which a lock guards.
func (r *Replica) ProtectedDocument(lock, key string) (trust.ScopeID, crdt.DocumentID, error) {
	sum := sha256.Sum256([]byte(key))
	return r.lockDocument(lock, int(sum[0]))
}
