package trust

import (
	"bytes"
	"unicode/utf8"

	"chartmesh/wire"
)

// SuiteHybrid1 names the practice's algorithms: HPKE base mode with MLKEM768X25519, HKDF-SHA256 and ChaCha20-Poly1305
// for key boxes, Ed25519 for signatures, SHA-256 for hashes. It is the only one so far.
const SuiteHybrid1 = 1

// Names of the scopes that every practice founds.
const (
	ScopeBilling  = "billing"
	ScopeClinical = "clinical"
)

// Founding is what a founding entry states.
type Founding struct {
	Nonce    [32]byte
	Root     DeviceID // the practice's root key, derived from the recovery code
	Recovery []byte   // HPKE public key, derived from the recovery code
	Practice []byte   // sealed name
	Device   Device   // the first device, an administrator
	Scopes   []NewScope
}

// Device is what the log says of a device.
type Device struct {
	ID    DeviceID
	HPKE  []byte
	Role  Role
	Names []byte // sealed names of device and site
}

// NewScope is a scope with its first epoch. Scopes stand ascending by name.
type NewScope struct {
	Name       string
	Commitment [32]byte
	Boxes      []ScopeBox
}

// ScopeBox is a key box of a new scope. A zero Recipient is the recovery key. Boxes stand ascending by recipient.
type ScopeBox struct {
	Recipient DeviceID
	Sealed    []byte
}

// Addition is what an add entry states.
type Addition struct {
	Device Device
	Boxes  []EpochBox
}

// EpochBox is a key box for the added device. Boxes stand ascending by scope and epoch.
type EpochBox struct {
	Scope  ScopeID
	Epoch  EpochID
	Sealed []byte
}

// Encode returns the payload of a founding entry.
func (f Founding) Encode() []byte {
	var w wire.Writer
	w.Byte(SuiteHybrid1)
	w.Raw(f.Nonce[:])
	w.Raw(f.Root[:])
	w.Raw(f.Recovery)
	w.Blob(f.Practice)
	f.Device.append(&w)
	w.Uvarint(uint64(len(f.Scopes)))
	for _, s := range f.Scopes {
		s.append(&w)
	}
	return w.Bytes()
}

func parseFounding(r *wire.Reader) statement {
	f := &Founding{}
	r.Fixed(f.Nonce[:])
	r.Fixed(f.Root[:])
	f.Recovery = r.Raw(HPKEPublicSize)
	f.Practice = r.Blob(MaxSealedNames)
	f.Device = parseDevice(r)
	if f.Device.Role != RoleAdmin {
		r.Fail("the first device is no administrator")
	}
	if f.Root == (DeviceID{}) || f.Root == f.Device.ID {
		r.Fail("root key")
	}
	f.Scopes = make([]NewScope, r.Uvarint(MaxScopes))
	for i := range f.Scopes {
		s := &f.Scopes[i]
		*s = parseNewScope(r)
		if i > 0 && f.Scopes[i-1].Name >= s.Name {
			r.Fail("scopes out of order")
		}
		if r.Err() == nil && (len(s.Boxes) != 2 || s.Boxes[1].Recipient != f.Device.ID) {
			r.Fail("a first scope has a box for the recovery key and one for the first device")
		}
	}
	if r.Err() == nil && len(f.Scopes) == 0 {
		r.Fail("no scope")
	}
	return f
}

func (s NewScope) append(w *wire.Writer) {
	w.String(s.Name)
	w.Raw(s.Commitment[:])
	appendBoxes(w, s.Boxes)
}

func parseNewScope(r *wire.Reader) (s NewScope) {
	s.Name = r.String(MaxScopeName)
	if s.Name == "" || !utf8.ValidString(s.Name) {
		r.Fail("scope name")
	}
	r.Fixed(s.Commitment[:])
	s.Boxes = parseBoxes(r)
	return s
}

// Encode returns the payload of an add entry.
func (a Addition) Encode() []byte {
	var w wire.Writer
	a.Device.append(&w)
	w.Uvarint(uint64(len(a.Boxes)))
	for _, b := range a.Boxes {
		w.Raw(b.Scope[:])
		w.Raw(b.Epoch[:])
		w.Raw(b.Sealed)
	}
	return w.Bytes()
}

func parseAddition(r *wire.Reader) statement {
	a := &Addition{}
	a.Device = parseDevice(r)
	a.Boxes = make([]EpochBox, r.Uvarint(MaxScopes))
	for i := range a.Boxes {
		x := &a.Boxes[i]
		r.Fixed(x.Scope[:])
		r.Fixed(x.Epoch[:])
		x.Sealed = r.Raw(KeyBoxSize)
		if i > 0 && compareBoxes(a.Boxes[i-1], *x) >= 0 {
			r.Fail("boxes out of order")
		}
	}
	return a
}

func compareBoxes(a, b EpochBox) int {
	if c := bytes.Compare(a.Scope[:], b.Scope[:]); c != 0 {
		return c
	}
	return bytes.Compare(a.Epoch[:], b.Epoch[:])
}

func (d Device) append(w *wire.Writer) {
	w.Raw(d.ID[:])
	w.Raw(d.HPKE)
	w.Byte(byte(d.Role))
	w.Blob(d.Names)
}

func parseDevice(r *wire.Reader) Device {
	d := Device{ID: parseDeviceID(r)}
	d.HPKE = r.Raw(HPKEPublicSize)
	d.Role = parseRole(r)
	d.Names = r.Blob(MaxSealedNames)
	return d
}
