package trust

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"

	"chartmesh/wire"
)

// Removal is what a remove entry states: the device belongs no more, and nothing that it wrote counts but what Cut names.
// It is for ever: who comes back comes as another device.
type Removal struct {
	Device DeviceID
	Cut    Cut
}

// Promotion is what a role entry states. A role that may not write, given to who could, ends its logs as a removal does.
type Promotion struct {
	Device DeviceID
	Role   Role
	Cut    Cut // empty for a role that may write
}

// Renaming is what a rename entry states. A zero Device is the practice.
type Renaming struct {
	Device DeviceID
	Names  []byte // sealed names of device and site, or of the practice
}

// Rotation is what a rotate entry states: a scope's next epoch.
type Rotation struct {
	Scope      ScopeID
	Commitment [32]byte
	Previous   []PreviousEpoch // the epochs that it follows, all of them that were not followed yet; ascending
	Boxes      []ScopeBox      // one for each device that reads the scope and one for the recovery key; ascending
}

// PreviousEpoch is the key of an epoch sealed under that of the one that follows it, so that a newcomer reads all history
// with one box a scope.
type PreviousEpoch struct {
	Epoch  EpochID
	Sealed []byte
}

// ScopeCreation is what a scope entry states. The boxes say who reads it, its author and the recovery key at least. Nobody else can read
// its name.
type ScopeCreation struct {
	Name       []byte // sealed under the scope's index key
	Commitment [32]byte
	Boxes      []ScopeBox
}

// Anchor is what an anchor entry states of one.
type Anchor struct {
	ID        DeviceID
	Addresses []string // multiaddrs, in clear
	Names     []byte   // sealed
}

// Reseed is what a reseed entry states: exclusive operations begin anew, with these voters and in a new series.
type Reseed struct{ Voters []DeviceID } // ascending

// Checkpoint is what a checkpoint entry states: its author has seen the ancestors and lets nothing else come beside them. A
// zero Of begins one; else the entry agrees to another's.
type Checkpoint struct{ Of EntryID }

// Recovery is what a recovery entry states: another recovery code, from which other keys follow. The new root key signs it beside the
// author. Signed by the replaced one too it ends that key's right at once; without, it does so only for what knows of it.
type Recovery struct {
	Replaced DeviceID
	Root     DeviceID
	Key      []byte // HPKE public key
}

// Cut says how far the logs of a device count: in each log up to the positions named, along their predecessors. A log that
// it does not name does not count at all. Ascending.
type Cut []CutPosition

// CutPosition is a chunk in a log.
type CutPosition struct {
	Scope   ScopeID
	Log     [32]byte
	Counter uint64
	Tip     [16]byte // the first bytes of the chunk's ID
}

func (p CutPosition) compare(q CutPosition) int {
	return cmp.Or(bytes.Compare(p.Scope[:], q.Scope[:]), bytes.Compare(p.Log[:], q.Log[:]), cmp.Compare(p.Counter, q.Counter),
		bytes.Compare(p.Tip[:], q.Tip[:]))
}

// Sorted returns the cut as an entry has it.
func (c Cut) Sorted() Cut {
	c = slices.Clone(c)
	slices.SortFunc(c, CutPosition.compare)
	return slices.Compact(c)
}

// union returns the farther of two cuts: of removals that were made apart, what one of them lets count counts.
func (c Cut) union(d Cut) Cut { return slices.Concat(c, d).Sorted() }

// statement is the payload of an entry.
type statement interface {
	Encode() []byte
}

// parsers of the kinds that this version understands. Each returns a payload that encodes to the same bytes.
var parsers = map[Kind]func(*wire.Reader) statement{
	KindFound:      parseFounding,
	KindAdd:        parseAddition,
	KindRemove:     parseRemoval,
	KindRole:       parsePromotion,
	KindRename:     parseRenaming,
	KindRotate:     parseRotation,
	KindScope:      parseScopeCreation,
	KindAnchor:     parseAnchor,
	KindReseed:     parseReseed,
	KindCheckpoint: parseCheckpoint,
	KindRecovery:   parseRecovery,
}

func parseStatement(kind Kind, payload []byte) (statement, error) {
	parse := parsers[kind]
	if parse == nil {
		return nil, nil
	}
	r := wire.NewReader(payload)
	if kind == KindFound {
		if suite := r.Byte(); r.Err() == nil && suite != SuiteHybrid1 {
			return nil, fmt.Errorf("suite %d: %w", suite, ErrNewer)
		}
	}
	s := parse(r)
	if err := r.Close(); err != nil {
		return nil, err
	}
	return s, nil
}

// Encode returns the payload of a remove entry.
func (m Removal) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Device[:])
	m.Cut.append(&w)
	return w.Bytes()
}

func parseRemoval(r *wire.Reader) statement {
	m := &Removal{Device: parseDeviceID(r)}
	m.Cut = parseCut(r)
	return m
}

// Encode returns the payload of a role entry.
func (m Promotion) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Device[:])
	w.Byte(byte(m.Role))
	m.Cut.append(&w)
	return w.Bytes()
}

func parsePromotion(r *wire.Reader) statement {
	m := &Promotion{Device: parseDeviceID(r), Role: parseRole(r)}
	m.Cut = parseCut(r)
	if m.Role.MayWrite() && len(m.Cut) > 0 {
		r.Fail("a cut for a role that may write")
	}
	return m
}

// Encode returns the payload of a rename entry.
func (m Renaming) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Device[:])
	w.Blob(m.Names)
	return w.Bytes()
}

func parseRenaming(r *wire.Reader) statement {
	m := &Renaming{}
	r.Fixed(m.Device[:])
	m.Names = r.Blob(MaxSealedNames)
	return m
}

// Encode returns the payload of a rotate entry.
func (m Rotation) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Scope[:])
	w.Raw(m.Commitment[:])
	w.Uvarint(uint64(len(m.Previous)))
	for _, p := range m.Previous {
		w.Raw(p.Epoch[:])
		w.Raw(p.Sealed)
	}
	appendBoxes(&w, m.Boxes)
	return w.Bytes()
}

func parseRotation(r *wire.Reader) statement {
	m := &Rotation{}
	r.Fixed(m.Scope[:])
	r.Fixed(m.Commitment[:])
	m.Previous = make([]PreviousEpoch, r.Uvarint(MaxParents))
	for i := range m.Previous {
		p := &m.Previous[i]
		r.Fixed(p.Epoch[:])
		p.Sealed = r.Raw(PreviousEpochSize)
		if i > 0 && bytes.Compare(m.Previous[i-1].Epoch[:], p.Epoch[:]) >= 0 {
			r.Fail("previous epochs out of order")
		}
	}
	if r.Err() == nil && len(m.Previous) == 0 {
		r.Fail("no previous epoch")
	}
	m.Boxes = parseBoxes(r)
	return m
}

// Encode returns the payload of a scope entry.
func (m ScopeCreation) Encode() []byte {
	var w wire.Writer
	w.Blob(m.Name)
	w.Raw(m.Commitment[:])
	appendBoxes(&w, m.Boxes)
	return w.Bytes()
}

func parseScopeCreation(r *wire.Reader) statement {
	m := &ScopeCreation{Name: r.Blob(MaxSealedNames)}
	r.Fixed(m.Commitment[:])
	m.Boxes = parseBoxes(r)
	return m
}

// Encode returns the payload of an anchor entry.
func (m Anchor) Encode() []byte {
	var w wire.Writer
	w.Raw(m.ID[:])
	w.Uvarint(uint64(len(m.Addresses)))
	for _, a := range m.Addresses {
		w.String(a)
	}
	w.Blob(m.Names)
	return w.Bytes()
}

func parseAnchor(r *wire.Reader) statement {
	m := &Anchor{ID: parseDeviceID(r)}
	m.Addresses = make([]string, r.Uvarint(MaxAddresses))
	for i := range m.Addresses {
		m.Addresses[i] = r.String(MaxAddress)
		if m.Addresses[i] == "" || !utf8.ValidString(m.Addresses[i]) {
			r.Fail("address")
		}
	}
	m.Names = r.Blob(MaxSealedNames)
	return m
}

// Encode returns the payload of a reseed entry.
func (m Reseed) Encode() []byte {
	var w wire.Writer
	w.Uvarint(uint64(len(m.Voters)))
	for _, v := range m.Voters {
		w.Raw(v[:])
	}
	return w.Bytes()
}

func parseReseed(r *wire.Reader) statement {
	m := &Reseed{Voters: make([]DeviceID, r.Uvarint(MaxVoters))}
	for i := range m.Voters {
		m.Voters[i] = parseDeviceID(r)
		if i > 0 && bytes.Compare(m.Voters[i-1][:], m.Voters[i][:]) >= 0 {
			r.Fail("voters out of order")
		}
	}
	if r.Err() == nil && len(m.Voters) == 0 {
		r.Fail("no voter")
	}
	return m
}

// Encode returns the payload of a checkpoint entry.
func (m Checkpoint) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Of[:])
	return w.Bytes()
}

func parseCheckpoint(r *wire.Reader) statement {
	m := &Checkpoint{}
	r.Fixed(m.Of[:])
	return m
}

// Encode returns the payload of a recovery entry.
func (m Recovery) Encode() []byte {
	var w wire.Writer
	w.Raw(m.Replaced[:])
	w.Raw(m.Root[:])
	w.Raw(m.Key)
	return w.Bytes()
}

func parseRecovery(r *wire.Reader) statement {
	m := &Recovery{Replaced: parseDeviceID(r), Root: parseDeviceID(r)}
	m.Key = r.Raw(HPKEPublicSize)
	if m.Root == m.Replaced {
		r.Fail("the root key stays")
	}
	return m
}

func (c Cut) append(w *wire.Writer) {
	w.Uvarint(uint64(len(c)))
	for _, p := range c {
		w.Raw(p.Scope[:])
		w.Raw(p.Log[:])
		w.Uvarint(p.Counter)
		w.Raw(p.Tip[:])
	}
}

func parseCut(r *wire.Reader) Cut {
	n := int(r.Uvarint(MaxCut))
	if r.Err() != nil || n == 0 {
		return nil
	}
	c := make(Cut, n)
	for i := range c {
		p := &c[i]
		r.Fixed(p.Scope[:])
		r.Fixed(p.Log[:])
		if p.Counter = r.Uvarint(1<<63 - 1); p.Counter == 0 {
			r.Fail("position")
		}
		r.Fixed(p.Tip[:])
		if i > 0 && c[i-1].compare(*p) >= 0 {
			r.Fail("positions out of order")
		}
	}
	return c
}

func appendBoxes(w *wire.Writer, boxes []ScopeBox) {
	w.Uvarint(uint64(len(boxes)))
	for _, b := range boxes {
		w.Raw(b.Recipient[:])
		w.Raw(b.Sealed)
	}
}

// parseBoxes reads boxes of which the first is the recovery key's: without it the recovery code would open nothing.
func parseBoxes(r *wire.Reader) []ScopeBox {
	boxes := make([]ScopeBox, r.Uvarint(MaxBoxes))
	for i := range boxes {
		r.Fixed(boxes[i].Recipient[:])
		boxes[i].Sealed = r.Raw(KeyBoxSize)
		if i > 0 && bytes.Compare(boxes[i-1].Recipient[:], boxes[i].Recipient[:]) >= 0 {
			r.Fail("boxes out of order")
		}
	}
	if r.Err() == nil && (len(boxes) < 2 || boxes[0].Recipient != (DeviceID{})) {
		r.Fail("no box for the recovery key and a device")
	}
	return boxes
}

func parseDeviceID(r *wire.Reader) (id DeviceID) {
	r.Fixed(id[:])
	if id == (DeviceID{}) {
		r.Fail("device ID")
	}
	return id
}

// parseRole reads the role of a device. An anchor comes by an entry of its own kind.
func parseRole(r *wire.Reader) Role {
	role := Role(r.Byte())
	if role < RoleAdmin || role > RoleServer {
		r.Fail("role")
	}
	return role
}
