package api

import (
	"context"
	"encoding/json"
	"io"
	"time"
)

// Agent is what the handlers serve; *agent.Agent implements it. Every method is safe for concurrent use. Errors are
// [*Error], or wrap one; anything else is answered as CodeInternal without its text.
type Agent interface {
	Status(ctx context.Context, peer string) (Status, error)
	// WaitInSync blocks until Status would say in_sync (with peer, when not empty), or ctx ends (CodeTimeout).
	WaitInSync(ctx context.Context, peer string) (Status, error)
	// Metrics writes figures of the agent in Prometheus' text form. No label names a person, a place or a record.
	Metrics(ctx context.Context, w io.Writer) error
	// Diagnose gathers what somebody who helps from afar needs to know, without names and without patient data.
	Diagnose(ctx context.Context) (Diagnosis, error)
	// SetOnline pauses or resumes the network; edits go on either way. It holds until the agent ends.
	SetOnline(ctx context.Context, online bool) error

	Get(ctx context.Context, ref Ref, version string) (Resource, error)
	Put(ctx context.Context, user string, resource json.RawMessage, force bool) (Written, error)
	Delete(ctx context.Context, user string, ref Ref) (Written, error)
	History(ctx context.Context, ref Ref) ([]Revision, error)
	// Stored says of every change of a resource on which other devices it is stored, by what these have confirmed.
	Stored(ctx context.Context, ref Ref) (StoredResource, error)
	Find(ctx context.Context, text string, limit int) ([]Match, error)
	// Import applies one batch: the resources of one bundle, or a run of lines of an NDJSON file.
	Import(ctx context.Context, user string, batch ImportBatch) (ImportResult, error)
	// Export writes NDJSON or one collection Bundle, sorted by type and id.
	Export(ctx context.Context, w io.Writer, opts ExportOptions) error

	// Compact packs what could be packed now, without waiting for documents to be left alone, and deletes what is packed
	// and that every device has found good.
	Compact(ctx context.Context) (Compaction, error)

	Conflicts(ctx context.Context) ([]Conflict, error)
	Conflict(ctx context.Context, id string) (Conflict, error)
	Resolve(ctx context.Context, user, id string, decision Decision) (Written, error)

	Quarantine
	Erasing

	Invitations
	Membership
	Keyring
	Exclusive
	Ranges

	// Events calls fn with every event after cursor, oldest first, and then, if follow is set, with each new one until
	// ctx ends. A cursor that is no longer held is CodeGone.
	Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error

	// Verify checks everything that is stored, and tells progress now and then. It can take minutes; reads and writes go on.
	Verify(ctx context.Context, opts VerifyOptions, progress func(VerifyProgress)) (VerifyReport, error)
}

// Ref names a resource, "Type/id".
type Ref struct{ Type, ID string }

func (r Ref) String() string { return r.Type + "/" + r.ID }

// Status is what `chartmesh status --json` prints.
type Status struct {
	Practice string `json:"practice"`
	Device   string `json:"device"`
	Site     string `json:"site"`
	PeerID   string `json:"peer_id"`
	Version  string `json:"version"`
	Running  bool   `json:"running"` // false when read from the folder without a running agent
	State    string `json:"state"`   // online, syncing, offline
	Reason   string `json:"reason,omitempty"`
	// InSync: at least one member reached, vectors equal with every connected one, applier at the end.
	InSync       bool       `json:"in_sync"`
	Documents    int        `json:"documents"`
	Resources    int        `json:"resources"`
	Parked       int        `json:"parked"`
	Quarantined  int        `json:"quarantined"`
	Unapplied    int        `json:"unapplied"`
	Conflicts    int        `json:"conflicts"`
	Elsewhere    string     `json:"elsewhere"`      // alone, unwritten, none, some, all: how much of what this device wrote others hold
	OwnChanges   int        `json:"own_changes"`    // written by this device
	NotElsewhere int        `json:"not_elsewhere"`  // own changes that no other device has acknowledged, nor an anchor
	AtAnchorOnly int        `json:"at_anchor_only"` // own changes that only anchors have acknowledged
	AtDevices    int        `json:"at_devices"`     // own changes that at least one other device has acknowledged
	Addresses    []string   `json:"addresses"`
	Peers        []Peer     `json:"peers"`
	Sync         []PeerSync `json:"sync"`
	NewLog       *NewLog    `json:"new_log,omitempty"`  // this device began a new log
	Branches     int        `json:"branches,omitempty"` // histories of this device's logs beside the first
	Held         []Held     `json:"held,omitempty"`     // what is parked, quarantined or unapplied; at most 100
	Store        Store      `json:"store,omitzero"`
}

// How much of what this device wrote is stored on at least one other.
const (
	ElsewhereAlone     = "alone"     // the practice has no other device
	ElsewhereUnwritten = "unwritten" // this device has written nothing
	ElsewhereNone      = "none"      // no other device has acknowledged any of it
	ElsewhereSome      = "some"
	ElsewhereAll       = "all"
)

// NewLog says that a device goes on under a new log, since the old one may have another history elsewhere.
type NewLog struct {
	Began  time.Time `json:"began"`
	Reason string    `json:"reason"`
	Logs   int       `json:"logs"` // of this device, with the present one
}

// Store is the state of what is on this device's disk.
type Store struct {
	State      string     `json:"state"` // ok, read-only (the disk is nearly full), repairing (what was damaged is being filled again)
	FreeBytes  uint64     `json:"free_bytes"`
	LeastBytes uint64     `json:"least_bytes"` // with less free, nothing is written
	Repair     *Repair    `json:"repair,omitempty"`
	SetAside   []SetAside `json:"set_aside,omitempty"`
}

// States of a Store.
const (
	StoreOK        = "ok"
	StoreReadOnly  = "read-only"
	StoreRepairing = "repairing"
)

// Repair is the last time that damage was found, and what became of it.
type Repair struct {
	Since    time.Time  `json:"since"`
	Done     *time.Time `json:"done,omitempty"`
	Reason   string     `json:"reason"`
	Have     uint64     `json:"have"` // chunks, of those that were held before the damage
	Of       uint64     `json:"of"`
	Salvaged uint64     `json:"salvaged"` // read from the damaged store; the rest comes from the other devices
	From     []string   `json:"from"`     // the devices that are connected now
	// Unsure counts own chunks that could not be read and that no other device was known to hold; LostOwn and LostOthers
	// what has not come so far: when it is done, what no device that was reached had.
	Unsure     uint64 `json:"unsure"`
	LostOwn    uint64 `json:"lost_own"`
	LostOthers uint64 `json:"lost_others"`
	// Kept counts whole chunks that come after those: they are stored, and neither passed on nor, once documents have been made
	// anew, shown until those have come.
	Kept uint64 `json:"kept,omitempty"`
}

// SetAside is a damaged store that lies beside the one in use.
type SetAside struct {
	Path  string `json:"path"`
	Bytes uint64 `json:"bytes"`
}

// Compaction is what a call of Compact did, and what is stored after it.
type Compaction struct {
	Checkpoints int   `json:"checkpoints"` // made
	Words       int   `json:"words"`       // given on checkpoints of other devices
	Deleted     int   `json:"deleted"`     // chunks that checkpoints stand for from now on
	Waiting     int   `json:"waiting"`     // checkpoints that not every device has found good yet
	Contested   int   `json:"contested"`   // documents that stay as they are, since a device wrote one of their logs twice
	Chunks      int   `json:"chunks"`      // stored
	Skips       int   `json:"skips"`       // runs of chunks that checkpoints stand for
	Bytes       int64 `json:"bytes"`       // of both
}

// Peer is one other device of the practice, reachable or not.
type Peer struct {
	Name         string     `json:"name"`
	Site         string     `json:"site"`
	PeerID       string     `json:"peer_id"`
	Role         string     `json:"role"`
	State        string     `json:"state"` // in-sync, syncing, offline, diverged, incompatible
	Way          string     `json:"way,omitempty"`
	RTTMillis    float64    `json:"rtt_ms,omitempty"`
	ClockMillis  float64    `json:"clock_ms,omitempty"` // their clock minus ours
	BehindChunks uint64     `json:"behind_chunks"`      // what they have that we lack
	BehindBytes  uint64     `json:"behind_bytes"`
	LacksChunks  uint64     `json:"lacks_chunks"` // what we have that they have not confirmed, also while they are away
	LacksBytes   uint64     `json:"lacks_bytes"`  // about
	Proof        Proof      `json:"proof"`
	ClockWarning bool       `json:"clock_warning,omitempty"` // the clocks differ by more than MostClockMillis
	LastContact  *time.Time `json:"last_contact,omitempty"`
	Branches     int        `json:"branches,omitempty"` // histories of its logs beside the first
	Version      string     `json:"version,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	TakesNothing string     `json:"takes_nothing,omitempty"` // why it stores nothing that it is sent, as it says: disk-full, quota
}

// MostClockMillis is by how much clocks may differ before somebody should set one right.
const MostClockMillis = 2000

// Proof is what a device has confirmed to hold of the chunks that this one holds, in the scopes that both belong to. The times
// are this device's, of when it was told.
type Proof struct {
	Chunks       uint64     `json:"chunks"` // held here
	Stored       uint64     `json:"stored"` // of them, durable there
	StoredAsOf   *time.Time `json:"stored_as_of,omitempty"`
	Readable     uint64     `json:"readable"` // of them, part of the records that are shown there; of an anchor always 0
	ReadableAsOf *time.Time `json:"readable_as_of,omitempty"`
	Lost         *Lost      `json:"lost,omitempty"` // the last time that it held less than it had confirmed
}

// Lost says that a device was put back, or lost data.
type Lost struct {
	Seen      time.Time  `json:"seen"`
	Confirmed *time.Time `json:"confirmed,omitempty"` // when it had last confirmed what it held before
	Again     *time.Time `json:"again,omitempty"`     // when it had confirmed as much again; absent: it is being filled again
}

// WayStored is the way to a device that is not reached while an anchor is: the anchor keeps what is written for it.
const WayStored = "stored"

// Why a peer takes nothing.
const (
	TakesNothingFull  = "disk-full" // it has no room on its disk
	TakesNothingQuota = "quota"     // it is an anchor, and the practice's share of it is used up
)

// PeerSync is what the last session with a peer cost.
type PeerSync struct {
	Peer          string    `json:"peer"`
	Started       time.Time `json:"started"`
	RoundTrips    int       `json:"round_trips"` // until both knew that they agree
	BytesSent     uint64    `json:"bytes_sent"`  // session payload
	BytesReceived uint64    `json:"bytes_received"`
	ChunksSent    uint64    `json:"chunks_sent"`
	ChunksRecv    uint64    `json:"chunks_received"`
}

// Resource is one resource as it stands.
type Resource struct {
	Ref       Ref       `json:"-"`
	Version   string    `json:"version"`
	Updated   time.Time `json:"updated"` // local arrival
	Deleted   bool      `json:"deleted,omitempty"`
	Conflicts int       `json:"conflicts"`
	// Uncommitted: something in it was written here under a lease and is not committed yet; other devices do not show it.
	Uncommitted bool            `json:"uncommitted,omitempty"`
	Newer       string          `json:"newer,omitempty"` // the device that changed it with a newer version: what that wrote is not shown, and the resource read-only
	JSON        json.RawMessage `json:"resource"`        // with meta.versionId and meta.lastUpdated set by the agent
}

// Written answers a write once it is durable on this device.
type Written struct {
	Ref       string `json:"resource"`
	Version   string `json:"version"`
	Outcome   string `json:"outcome"` // created, changed, unchanged, repeated (see docs/integration.md), deleted, resolved
	Conflicts int    `json:"conflicts"`
}

// Revision is one change of a resource.
type Revision struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"` // the author's clock, for display
	Author  string    `json:"author"`
	Device  string    `json:"device"`
	Site    string    `json:"site"`
	Origin  string    `json:"origin"`         // edit, import, decision, delete
	Anew    string    `json:"anew,omitempty"` // the version that this one writes anew, since it lost its place to another history of its author's log
	Deleted bool      `json:"deleted,omitempty"`
	Stored
	JSON    json.RawMessage `json:"resource,omitempty"` // as of that change
	Omitted bool            `json:"omitted,omitempty"`  // JSON is left out, as newer ones take MaxHistory; Get has it
}

// Where a change is stored beside this device.
const (
	StoredHere    = "here"    // nowhere
	StoredAnchor  = "anchor"  // at anchors only
	StoredDevices = "devices" // on at least one other device
)

// Stored says by name on which other devices and anchors a change is stored, and where it can be read, by what they have confirmed.
type Stored struct {
	Where      string   `json:"where"` // here, anchor, devices
	StoredAt   []string `json:"stored_at"`
	ReadableAt []string `json:"readable_at"` // anchors read nothing
	Devices    int      `json:"devices"`     // how many of stored_at are no anchors
}

// StoredRevision is where one change of a resource is stored.
type StoredRevision struct {
	Version string `json:"version"`
	Stored
}

// StoredResource is where a resource is stored.
type StoredResource struct {
	Ref       string           `json:"resource"`
	Where     string           `json:"where"` // of the change that is stored at the fewest kinds of places
	Revisions []StoredRevision `json:"revisions"`
}

// Match is a find result.
type Match struct {
	Ref        string   `json:"resource"`
	Name       string   `json:"name"`
	BirthDate  string   `json:"birth_date,omitempty"`
	Identifier []string `json:"identifier,omitempty"`
}

// ImportBatch is a unit of import; every document that it touches gets one change (more only past the caps of a change).
type ImportBatch struct {
	Resources []json.RawMessage `json:"resources"`
}

// ImportResult counts what a batch did.
type ImportResult struct {
	Created   int           `json:"created"`
	Changed   int           `json:"changed"`
	Unchanged int           `json:"unchanged"`
	Conflicts int           `json:"conflicts"` // opened by this batch
	Refused   []ImportError `json:"refused,omitempty"`
}

// ImportError names one resource of a batch that was not taken.
type ImportError struct {
	Index  int    `json:"index"` // in Resources
	Reason string `json:"reason"`
	Lock   string `json:"lock,omitempty"` // that guards it, and no lease of it was there to be had
}

// ExportOptions selects what Export writes.
type ExportOptions struct {
	Patient string `json:"patient,omitempty"` // id; empty: everything
	Format  string `json:"format,omitempty"`  // ndjson (default), bundle
	Meta    bool   `json:"meta,omitempty"`    // with the metadata that the agent sets
}

// Conflict is a set of concurrent values that a person must choose from. Its ID is the same on all devices.
type Conflict struct {
	ID       string          `json:"id"`
	Resource string          `json:"resource"`
	Path     string          `json:"path"` // "birthDate", "name[0].family", "" for the whole resource
	Values   []ConflictValue `json:"values"`
	Shown    int             `json:"shown"` // index of the value that reads show until somebody decides
}

// ConflictValue is one side of a conflict.
type ConflictValue struct {
	Value   json.RawMessage `json:"value,omitempty"` // JSON; absent when Removed
	Removed bool            `json:"removed,omitempty"`
	Author  string          `json:"author"`
	Device  string          `json:"device"`
	Site    string          `json:"site"`
	Time    time.Time       `json:"time"`
}

// Decision settles a conflict: by the index of one of its values, or by a value of its own.
type Decision struct {
	Choose *int            `json:"choose,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
}

// Event is something that happened after it was durable. No patient data but the reference.
type Event struct {
	Cursor   uint64    `json:"cursor"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // resource-changed, resource-deleted, conflict-opened, conflict-closed, peer-online, peer-offline, member-added, chunk-parked, chunk-quarantined, chunk-unapplied, chunk-discarded, chunk-decided, chunk-settled, resource-committed, log-begun, log-branched, change-written-anew, records-damaged, records-repaired
	Resource string    `json:"resource,omitempty"`
	Version  string    `json:"version,omitempty"`
	Conflict string    `json:"conflict,omitempty"`
	Peer     string    `json:"peer,omitempty"`
	Local    bool      `json:"local,omitempty"` // written on this device
}

// Code classes an error. Each has one exit code and one HTTP status (errors.go).
type Code string

const (
	CodeInvalid     Code = "invalid"      // the request is not well formed
	CodeNotFound    Code = "not-found"    // no such resource, conflict, peer
	CodeDeleted     Code = "deleted"      // the resource was deleted
	CodeConflict    Code = "conflict"     // needs a version or --force; version unknown
	CodeUnavailable Code = "unavailable"  // needs a running agent, a network or a peer
	CodeTimeout     Code = "timeout"      //
	CodeForbidden   Code = "forbidden"    // the role does not allow it
	CodeInUse       Code = "in-use"       // the folder is open in another process
	CodeDamaged     Code = "damaged"      // stored data does not check out
	CodeGone        Code = "gone"         // the event cursor is no longer held
	CodeIncompat    Code = "incompatible" // written by a newer version
	CodeHeld        Code = "held"         // somebody else holds the lock, or the lease was lost
	CodeFull        Code = "full"         // the disk has too little room left
	CodeLease       Code = "lease"        // what is protected is written under a lease of its lock, which is not held, or lost
	CodeInternal    Code = "internal"
)

// Error is an error that a person reads. It carries no patient data.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do next
	Err     error  `json:"-"`              // for logs
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }
