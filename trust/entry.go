package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chartmesh/wire"
)

// Kind says what an entry states. The numbers are part of the format; this version understands all but share.
type Kind uint8

const (
	KindFound      Kind = 1
	KindAdd        Kind = 2
	KindRemove     Kind = 3
	KindRole       Kind = 4
	KindRotate     Kind = 5
	KindScope      Kind = 6
	KindShare      Kind = 7
	KindAnchor     Kind = 8
	KindReseed     Kind = 9
	KindCheckpoint Kind = 10
	KindRename     Kind = 11
	KindRecovery   Kind = 12
)

var kindNames = map[Kind]string{
	KindFound: "found", KindAdd: "add", KindRemove: "remove", KindRole: "role", KindRotate: "rotate",
	KindScope: "scope", KindShare: "share", KindAnchor: "anchor", KindReseed: "reseed", KindCheckpoint: "checkpoint",
	KindRename: "rename", KindRecovery: "recovery",
}

func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

var entryMagic = []byte{'c', 'm', 'm', 1}

// ErrNewer says that an entry has a version that this program does not read.
var ErrNewer = errors.New("made by a newer version")

// Entry is one entry of the membership log. It never changes; the zero Entry is none and only Bytes may be asked of it.
type Entry struct{ p *parsed }

type parsed struct {
	raw     []byte
	id      EntryID
	kind    Kind
	author  DeviceID
	parents []EntryID
	time    int64
	payload []byte
	signed  []byte // the prefix of raw that the signatures cover
	sigs    []signature
	states  statement // nil for a kind that this version does not know
}

type signature struct {
	signer DeviceID
	sig    []byte
}

// ParseEntry reads an entry: shape and caps alone. Whether it holds is for [State.With] to say.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > MaxEntry {
		return Entry{}, fmt.Errorf("parse membership entry: %w: over %d bytes", wire.ErrMalformed, MaxEntry)
	}
	if len(b) >= 4 && bytes.Equal(b[:3], entryMagic[:3]) && b[3] > entryMagic[3] {
		return Entry{}, fmt.Errorf("parse membership entry: version %d: %w", b[3], ErrNewer)
	}
	p := &parsed{raw: bytes.Clone(b)}
	r := wire.NewReader(p.raw)
	if !bytes.Equal(r.Raw(len(entryMagic)), entryMagic) {
		r.Fail("magic")
	}
	if p.kind = Kind(r.Byte()); p.kind == 0 {
		r.Fail("kind")
	}
	r.Fixed(p.author[:])
	p.parents = make([]EntryID, r.Uvarint(MaxParents))
	for i := range p.parents {
		r.Fixed(p.parents[i][:])
		if i > 0 && bytes.Compare(p.parents[i-1][:], p.parents[i][:]) >= 0 {
			r.Fail("parents out of order")
		}
	}
	if (p.kind == KindFound) != (len(p.parents) == 0) {
		r.Fail("a founding entry alone has no parents")
	}
	p.time = r.Varint()
	p.payload = r.Blob(MaxPayload)
	p.signed = p.raw[:len(p.raw)-r.Len()]
	p.sigs = make([]signature, r.Uvarint(MaxSignatures))
	for i := range p.sigs {
		r.Fixed(p.sigs[i].signer[:])
		p.sigs[i].sig = r.Raw(ed25519.SignatureSize)
		// The author signs first; the others follow in order, so that one set of signatures has one form.
		if i > 1 && bytes.Compare(p.sigs[i-1].signer[:], p.sigs[i].signer[:]) >= 0 ||
			i > 0 && p.sigs[i].signer == p.author {
			r.Fail("signatures out of order")
		}
	}
	if r.Err() == nil && (len(p.sigs) == 0 || p.sigs[0].signer != p.author) {
		r.Fail("the author's signature is missing")
	}
	if err := r.Close(); err != nil {
		return Entry{}, fmt.Errorf("parse membership entry: %w", err)
	}
	var err error
	if p.states, err = parseStatement(p.kind, p.payload); err == nil {
		err = p.checkSigners()
	}
	if err != nil {
		return Entry{}, fmt.Errorf("parse membership entry (%v): %w", p.kind, err)
	}
	p.id = sha256.Sum256(p.raw)
	return Entry{p}, nil
}

// checkSigners checks that those have signed who are to, and nobody else.
func (p *parsed) checkSigners() error {
	switch m := p.states.(type) {
	case nil:
	case *Founding:
		if m.Device.ID != p.author || len(p.sigs) != 2 || p.sigs[1].signer != m.Root {
			return fmt.Errorf("%w: not signed by root key and first device", wire.ErrMalformed)
		}
	case *Recovery:
		// The new root key signs, so that nobody makes a log in which it is in force but its owner; see Proves. Builds before had it
		// sign only where it was the author.
		if slices.ContainsFunc(p.sigs[1:], func(s signature) bool { return s.signer != m.Root && s.signer != m.Replaced }) {
			return fmt.Errorf("%w: signed by others than its author, the new root key and the replaced one", wire.ErrMalformed)
		}
	default:
		if len(p.sigs) != 1 {
			return fmt.Errorf("%w: more than one signature", wire.ErrMalformed)
		}
	}
	return nil
}

// cosigned reports whether a key signed beside the author.
func (p *parsed) cosigned(id DeviceID) bool {
	return slices.ContainsFunc(p.sigs[1:], func(s signature) bool { return s.signer == id })
}

// Proves reports whether an entry puts a root key in force and is signed by it: only the key's owner can make a log with such an
// entry, so that whoever comes with the code tells the practice from an imitation.
func (e Entry) Proves(root DeviceID) bool {
	switch m := e.p.states.(type) {
	case *Founding:
		return m.Root == root && e.verify()
	case *Recovery:
		return m.Root == root && e.p.cosigned(root) && e.verify()
	}
	return false
}

// ID returns the hash of the entry's bytes.
func (e Entry) ID() EntryID { return e.p.id }

// Bytes returns the entry as it is stored and sent; the caller may not change them.
func (e Entry) Bytes() []byte {
	if e.p == nil {
		return nil
	}
	return e.p.raw
}

// Kind returns what the entry states.
func (e Entry) Kind() Kind { return e.p.kind }

// Author returns the device that made the entry, or the practice's root key.
func (e Entry) Author() DeviceID { return e.p.author }

// Parents returns the entries that the author saw as heads, ascending.
func (e Entry) Parents() []EntryID { return slices.Clone(e.p.parents) }

// TimeMillis returns when the author says it was made. For display alone.
func (e Entry) TimeMillis() int64 { return e.p.time }

// Founding returns the payload of a founding entry.
func (e Entry) Founding() (Founding, bool) { return stated[Founding](e) }

// Addition returns the payload of an add entry.
func (e Entry) Addition() (Addition, bool) { return stated[Addition](e) }

// Removal returns the payload of a remove entry.
func (e Entry) Removal() (Removal, bool) { return stated[Removal](e) }

// About is whom and what an entry is about, as far as its kind says.
type About struct {
	Device DeviceID
	Role   Role
	Scope  ScopeID
}

// About returns whom and what the entry is about.
func (e Entry) About() (a About) {
	switch m := e.p.states.(type) {
	case *Founding:
		a.Device, a.Role = m.Device.ID, m.Device.Role
	case *Addition:
		a.Device, a.Role = m.Device.ID, m.Device.Role
	case *Anchor:
		a.Device, a.Role = m.ID, RoleAnchor
	case *Removal:
		a.Device = m.Device
	case *Promotion:
		a.Device, a.Role = m.Device, m.Role
	case *Renaming:
		a.Device = m.Device
	case *Rotation:
		a.Scope = m.Scope
	case *ScopeCreation:
		a.Scope = ScopeIDOfEntry(e.ID())
	}
	return a
}

func stated[T any](e Entry) (v T, ok bool) {
	if p, ok := any(e.p.states).(*T); ok {
		return *p, true
	}
	return v, false
}

// String names kind and ID.
func (e Entry) String() string {
	if e.p == nil {
		return "no entry"
	}
	return fmt.Sprintf("%v entry %v", e.p.kind, e.p.id)
}

// verify checks every signature.
func (e Entry) verify() bool {
	digest := sha256.Sum256(e.p.signed)
	for _, s := range e.p.sigs {
		if !VerifySignature(s.signer, ContextEntry, digest[:], s.sig) {
			return false
		}
	}
	return true
}

// Draft is an entry that is not signed yet.
type Draft struct {
	Kind       Kind
	Parents    []EntryID
	TimeMillis int64
	Payload    []byte
}

// Sign makes the entry. The author signs first; a founding entry is signed by the root key too.
func (d Draft) Sign(author Signer, others ...Signer) (Entry, error) {
	parents := slices.Clone(d.Parents)
	slices.SortFunc(parents, compareEntryID)
	parents = slices.Compact(parents)
	others = slices.Clone(others)
	slices.SortFunc(others, func(a, b Signer) int {
		x, y := a.Device(), b.Device()
		return bytes.Compare(x[:], y[:])
	})

	var w wire.Writer
	w.Raw(entryMagic)
	w.Byte(byte(d.Kind))
	id := author.Device()
	w.Raw(id[:])
	w.Uvarint(uint64(len(parents)))
	for _, p := range parents {
		w.Raw(p[:])
	}
	w.Varint(d.TimeMillis)
	w.Blob(d.Payload)
	digest := sha256.Sum256(w.Bytes())
	w.Uvarint(uint64(1 + len(others)))
	for _, s := range append([]Signer{author}, others...) {
		id := s.Device()
		w.Raw(id[:])
		w.Raw(s.Sign(ContextEntry, digest[:]))
	}
	e, err := ParseEntry(w.Bytes())
	if err != nil {
		return Entry{}, fmt.Errorf("sign %v entry: %w", d.Kind, err)
	}
	return e, nil
}

func compareEntryID(a, b EntryID) int { return bytes.Compare(a[:], b[:]) }
