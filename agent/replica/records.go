package replica

import (
	"bytes"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/trust"
	"chartmesh/wire"
)

// recordVersion begins every value that this package stores (docs/spec/store-layout.md, "values").
const recordVersion = 1

// replacingVersion begins the record of a change that writes another anew, fencedVersion that of one under a lease.
const (
	replacingVersion = 2
	fencedVersion    = 3
)

// Caps of the decoders; what is stored was checked on arrival, so they only bound what damage can claim.
const (
	maxHashes    = 1 << 16
	maxJSON      = 64 << 20
	maxSides     = 1 << 20 // a member can write that many values beside each other: what is stored must read
	maxConflicts = 1 << 20
	maxText      = 1 << 17 // a path through all the containers that may be inside one another
	maxRecord    = 64 << 20
)

// appliedChange is what is kept of an applied change: the engine-level record and who wrote it, when, in which chunk.
type appliedChange struct {
	Record        crdt.Record
	Chunk         logs.Ref
	Device        trust.DeviceID
	Schema        uint16
	TimeMillis    int64
	Author        string
	Origin        chunk.Origin
	ArrivedMillis int64
	Replaces      crdt.ChangeHash // what it writes anew; zero: nothing
	Fence         chunk.Fence     // the token of the lease under which it was written; zero: none is known

	overlay bool // it is this device's own and pending; not stored here
}

func (a *appliedChange) marshal() []byte {
	var w wire.Writer
	switch {
	case a.Fence != chunk.Fence{}:
		w.Byte(fencedVersion)
		w.Raw(a.Replaces[:])
		w.Uvarint(a.Fence.Epoch)
		w.Uvarint(a.Fence.Index)
	case a.Replaces != crdt.ChangeHash{}:
		w.Byte(replacingVersion)
		w.Raw(a.Replaces[:])
	default:
		w.Byte(recordVersion)
	}
	w.Raw(a.Chunk.Scope[:])
	w.Raw(a.Chunk.Log[:])
	w.Uvarint(a.Chunk.Counter)
	w.Raw(a.Device[:])
	w.Uint16(a.Schema)
	w.Varint(a.TimeMillis)
	w.String(a.Author)
	w.Byte(byte(a.Origin))
	w.Varint(a.ArrivedMillis)
	rec, _ := a.Record.AppendBinary(nil)
	w.Blob(rec)
	return w.Bytes()
}

func parseAppliedChange(b []byte) (appliedChange, error) {
	var a appliedChange
	r := wire.NewReader(b)
	switch r.Byte() {
	case recordVersion:
	case replacingVersion:
		r.Fixed(a.Replaces[:])
	case fencedVersion:
		r.Fixed(a.Replaces[:])
		a.Fence = readFence(r)
		if a.Fence == (chunk.Fence{}) {
			r.Fail("fence")
		}
	default:
		r.Fail("record version")
	}
	r.Fixed(a.Chunk.Scope[:])
	r.Fixed(a.Chunk.Log[:])
	a.Chunk.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(a.Device[:])
	a.Schema = r.Uint16()
	a.TimeMillis = r.Varint()
	a.Author = r.String(maxText)
	a.Origin = chunk.Origin(r.Byte())
	a.ArrivedMillis = r.Varint()
	rec := r.Blob(maxRecord)
	if err := r.Close(); err != nil {
		return a, err
	}
	var err error
	a.Record, err = crdt.ParseRecord(rec)
	return a, err
}

// view is a resource of a document as it stands on this device: a cache of what the document says.
type view struct {
	Scope         trust.ScopeID
	Heads         []crdt.ChangeHash // the last changes that touched it: its version
	Imports       []crdt.ChangeHash // the last imports among them
	Removed       bool
	UpdatedMillis int64 // local arrival
	Last          lastEdit
	Conflicts     []openConflict
	JSON          []byte // canonical; empty when Removed

	object fhir.Object // what JSON says, while it is at hand: a view that was just made
}

// lastEdit says who wrote the newest of a view's heads.
type lastEdit struct {
	Device     trust.DeviceID
	Author     string
	TimeMillis int64
}

// openConflict is one conflict of a view, as crdt found it, with its authors looked up.
type openConflict struct {
	ID    [16]byte
	Path  string
	Shown int
	Sides []conflictSide
}

type conflictSide struct {
	Removed    bool
	JSON       []byte
	Device     trust.DeviceID
	Author     string
	TimeMillis int64
}

func (v *view) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(v.Scope[:])
	putHashes(&w, v.Heads)
	putHashes(&w, v.Imports)
	w.Bool(v.Removed)
	w.Varint(v.UpdatedMillis)
	w.Raw(v.Last.Device[:])
	w.String(v.Last.Author)
	w.Varint(v.Last.TimeMillis)
	w.Uvarint(uint64(len(v.Conflicts)))
	for _, c := range v.Conflicts {
		w.Raw(c.ID[:])
		w.String(c.Path)
		w.Uvarint(uint64(c.Shown))
		w.Uvarint(uint64(len(c.Sides)))
		for _, s := range c.Sides {
			w.Bool(s.Removed)
			w.Blob(s.JSON)
			w.Raw(s.Device[:])
			w.String(s.Author)
			w.Varint(s.TimeMillis)
		}
	}
	w.Blob(v.JSON)
	return w.Bytes()
}

func parseView(b []byte) (*view, error) {
	v := new(view)
	r := open(b)
	r.Fixed(v.Scope[:])
	v.Heads = getHashes(r)
	v.Imports = getHashes(r)
	v.Removed = r.Bool()
	v.UpdatedMillis = r.Varint()
	r.Fixed(v.Last.Device[:])
	v.Last.Author = r.String(maxText)
	v.Last.TimeMillis = r.Varint()
	for range r.Uvarint(maxConflicts) {
		var c openConflict
		r.Fixed(c.ID[:])
		c.Path = r.String(maxText)
		c.Shown = int(r.Uvarint(maxSides))
		for range r.Uvarint(maxSides) {
			s := conflictSide{Removed: r.Bool(), JSON: r.Blob(maxJSON)}
			r.Fixed(s.Device[:])
			s.Author = r.String(maxText)
			s.TimeMillis = r.Varint()
			c.Sides = append(c.Sides, s)
			if r.Err() != nil {
				return nil, r.Err()
			}
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
		v.Conflicts = append(v.Conflicts, c)
	}
	v.JSON = r.Blob(maxJSON)
	return v, r.Close()
}

// counts are kept in step with what they count, in the same commits.
type counts struct{ Documents, Resources, Conflicts, Parked, Quarantined, Unapplied uint64 }

func (c counts) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	for _, n := range []uint64{c.Documents, c.Resources, c.Conflicts, c.Parked, c.Quarantined, c.Unapplied} {
		w.Uvarint(n)
	}
	return w.Bytes()
}

func parseCounts(b []byte) (c counts, err error) {
	r := open(b)
	for _, n := range []*uint64{&c.Documents, &c.Resources, &c.Conflicts, &c.Parked, &c.Quarantined, &c.Unapplied} {
		*n = r.Uvarint(1<<64 - 1)
	}
	return c, r.Close()
}

// HeldState says why a stored chunk is not part of its document. The numbers are stored.
type HeldState byte

const (
	Parked      HeldState = 1
	Quarantined HeldState = 2
	Unapplied   HeldState = 3
	Discarded   HeldState = 4 // parked or quarantined, and a person decided to leave it aside
	// Settled is a change that lost its place and was written anew by its author: kept, and nobody's task.
	Settled HeldState = 5
)

func (s HeldState) String() string {
	switch s {
	case Parked:
		return "parked"
	case Quarantined:
		return "quarantined"
	case Unapplied:
		return "unapplied"
	case Discarded:
		return "discarded"
	case Settled:
		return "settled"
	}
	return "unknown"
}

// held is the state of a chunk that is stored and not applied. Missing names what a parked chunk waits for. The rest is
// for people, and for the next try: see hold.go.
type held struct {
	State   HeldState
	Reason  string
	Device  trust.DeviceID
	Missing missing

	Class         heldClass
	Decided       chunk.Verdict // what stood decided when it was judged; 0: nothing
	Kind          chunk.Kind
	Document      crdt.DocumentID // zero: not known, or the whole scope
	About         string          // resources that it touches, as far as they are known, with spaces between
	WrittenMillis int64           // by its author's clock; 0: not known
	HeldMillis    int64           // when it was first held here; 0: not known
	Tries         uint64          // unapplied: how often this build failed on it
	NextMillis    int64           // unapplied: not tried again by itself before
	Build         string          // unapplied: which build failed

	onRelease crdt.ChangeHash // not stored: what another device than its author wrote instead, which counts if it is released
}

// heldClass says what keeps a chunk out. The numbers are stored.
type heldClass byte

const (
	classUnknown heldClass = 0 // held by a build that did not note it
	classRule    heldClass = 1 // the chunk and its ancestors break a rule: nothing can make it apply
	classPolicy  heldClass = 2 // it would apply, and a rule about its author or its log keeps it out until somebody decides
	classWaits   heldClass = 3 // something is missing
	classMachine heldClass = 4 // this machine failed
)

// missing is what a parked chunk waits for. The kinds are stored.
type missing struct {
	Kind byte
	What [32]byte
}

const (
	missingNothing byte = 0
	missingChange  byte = 1 // a change's hash
	missingEpoch   byte = 2 // an epoch's key
	missingSchema  byte = 3 // a newer schema than this build's
	missingAuthor  byte = 4 // a membership entry
	// missingCertificate is a certificate of the document that is named, missingQuorum what a build without one does not know.
	missingCertificate byte = 6
	missingQuorum      byte = 7
	missingTurn             = logs.ParkedTurn // nothing: it stands beside those that a cursor comes to, and has not been looked at
)

// heldVersion is 2 since 2026-11-25; a value of version 1 ends after what it waits for.
const heldVersion = 2

func (h *held) marshal() []byte {
	var w wire.Writer
	w.Byte(heldVersion)
	w.Byte(byte(h.State))
	w.String(h.Reason)
	w.Raw(h.Device[:])
	w.Byte(h.Missing.Kind)
	w.Raw(h.Missing.What[:])
	w.Byte(byte(h.Class))
	w.Byte(byte(h.Decided))
	w.Byte(byte(h.Kind))
	w.Raw(h.Document[:])
	w.String(h.About)
	w.Varint(h.WrittenMillis)
	w.Varint(h.HeldMillis)
	w.Uvarint(h.Tries)
	w.Varint(h.NextMillis)
	w.String(h.Build)
	return w.Bytes()
}

func parseHeld(b []byte) (*held, error) {
	h := new(held)
	r := wire.NewReader(b)
	version := r.Byte()
	if version == 0 || version > heldVersion {
		r.Fail("version of a stored value")
	}
	h.State = HeldState(r.Byte())
	h.Reason = r.String(maxText)
	r.Fixed(h.Device[:])
	h.Missing.Kind = r.Byte()
	r.Fixed(h.Missing.What[:])
	if version == 1 {
		return h, r.Close()
	}
	h.Class = heldClass(r.Byte())
	h.Decided = chunk.Verdict(r.Byte())
	h.Kind = chunk.Kind(r.Byte())
	r.Fixed(h.Document[:])
	h.About = r.String(maxText)
	h.WrittenMillis = r.Varint()
	h.HeldMillis = r.Varint()
	h.Tries = r.Uvarint(1<<64 - 1)
	h.NextMillis = r.Varint()
	h.Build = r.String(maxText)
	return h, r.Close()
}

func (c checkpoint) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(c.scope[:])
	place, _ := c.place.AppendBinary(nil)
	w.Raw(place)
	w.Raw(c.device[:])
	w.Byte(byte(c.state))
	w.Varint(c.notedMillis)
	w.Uvarint(c.changes)
	return w.Bytes()
}

func parseCheckpointRecord(document crdt.DocumentID, b []byte) (checkpoint, error) {
	c := checkpoint{document: document}
	r := open(b)
	r.Fixed(c.scope[:])
	c.place = chunk.ReadPlace(r)
	r.Fixed(c.device[:])
	if c.state = checkpointState(r.Byte()); c.state < checkpointOpen || c.state > checkpointRefused {
		r.Fail("state of a checkpoint")
	}
	c.notedMillis = r.Varint()
	c.changes = r.Uvarint(1 << 40)
	return c, r.Close()
}

func (x tail) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(x.scope[:])
	w.Uvarint(x.changes)
	w.Varint(x.lastMillis)
	return w.Bytes()
}

func parseTail(b []byte) (x tail, err error) {
	r := open(b)
	r.Fixed(x.scope[:])
	x.changes = r.Uvarint(1<<64 - 1) // builds before wrote numbers below zero
	x.lastMillis = r.Varint()
	return x, r.Close()
}

func marshalSets(sets map[trust.ScopeID]chunk.SetHash) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(len(sets)))
	for _, scope := range slices.SortedFunc(maps.Keys(sets), func(a, b trust.ScopeID) int { return bytes.Compare(a[:], b[:]) }) {
		set := sets[scope]
		b, _ := set.AppendBinary(nil)
		w.Raw(scope[:])
		w.Raw(b)
	}
	return w.Bytes()
}

func parseSets(b []byte) (map[trust.ScopeID]chunk.SetHash, error) {
	sets := map[trust.ScopeID]chunk.SetHash{}
	r := open(b)
	var last trust.ScopeID
	for i := range r.Uvarint(maxHashes) {
		var scope trust.ScopeID
		r.Fixed(scope[:])
		if i > 0 && bytes.Compare(last[:], scope[:]) >= 0 {
			r.Fail("order of scopes")
		}
		last = scope
		b := r.Raw(chunk.SetHashSize)
		if r.Err() != nil {
			return nil, r.Err()
		}
		set, err := chunk.ParseSetHash(b)
		if err != nil {
			return nil, err
		}
		sets[scope] = set
	}
	return sets, r.Close()
}

func marshalConflictPlace(doc crdt.DocumentID, key string) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(doc[:])
	w.String(key)
	return w.Bytes()
}

func parseConflictPlace(b []byte) (doc crdt.DocumentID, key string, err error) {
	r := open(b)
	r.Fixed(doc[:])
	key = r.String(maxText)
	return doc, key, r.Close()
}

func open(b []byte) *wire.Reader {
	r := wire.NewReader(b)
	if r.Byte() != recordVersion && r.Err() == nil {
		r.Fail("record version")
	}
	return r
}

func putHashes(w *wire.Writer, hs []crdt.ChangeHash) {
	w.Uvarint(uint64(len(hs)))
	for _, h := range hs {
		w.Raw(h[:])
	}
}

func getHashes(r *wire.Reader) []crdt.ChangeHash {
	var hs []crdt.ChangeHash
	for range r.Uvarint(maxHashes) {
		var h crdt.ChangeHash
		r.Fixed(h[:])
		if r.Err() != nil {
			return nil
		}
		hs = append(hs, h)
	}
	return hs
}
