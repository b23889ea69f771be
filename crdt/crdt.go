// Package crdt keeps documents as values: what is written, what is read back with every concurrent value, what is in
// conflict, and which change wrote it.
//
// Nouns: a document is one Automerge document. Its root has keys, each naming one resource. A resource is a tree of
// registers; a register holds every concurrent value ([Alternative]) that Automerge has for one key or list element.
// A [Value] is a tree as a caller writes and sees it, a [Conflict] a [Place] in it where several stand. A [Record] is what
// must be kept of an applied change, an [Index] all of a document's, and an [Engine] is the Automerge core behind an interface.
//
// Guarantees: nothing that a person wrote is hidden. Containers are never overwritten and nothing is ever deleted in
// Automerge's sense: a removal is written as a value, so that it meets a concurrent edit as a concurrent value
// (docs/spec/document.md). Nothing that a peer sent reaches an Engine before [Index.Judge] has accepted it.
//
// FHIR is left to package fhir, which maps resources to Values; storage, keys and the network are left to others.
package crdt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
)

// DocumentID names one document.
type DocumentID [32]byte

// String returns the first 16 hex digits, enough for a log.
func (d DocumentID) String() string { return hex.EncodeToString(d[:8]) }

// Actor is an Automerge actor ID; here always a hash of log, document and branch.
type Actor [16]byte

// ChangeHash is an Automerge change's hash (SHA-256).
type ChangeHash [32]byte

// String returns the first 16 hex digits.
func (h ChangeHash) String() string { return hex.EncodeToString(h[:8]) }

// OpID names one operation: its counter and the actor that made it. The zero OpID is the root object.
type OpID struct {
	Counter uint64
	Actor   Actor
}

// Compare orders operations as Automerge does, by counter and then actor; the greatest wins a register.
func (a OpID) Compare(b OpID) int {
	if c := cmp.Compare(a.Counter, b.Counter); c != 0 {
		return c
	}
	return bytes.Compare(a.Actor[:], b.Actor[:])
}

// String returns "counter@actor".
func (a OpID) String() string { return fmt.Sprintf("%d@%x", a.Counter, a.Actor[:]) }

// Kind tells what a value is. The numbers are written to disk and to the engine's pipe.
type Kind uint8

const (
	Map    Kind = 1
	List   Kind = 2
	Text   Kind = 3 // an Automerge text object: characters merge
	String Kind = 4 // a scalar: concurrent strings are a conflict
	Int    Kind = 5
	Bool   Kind = 6
	Null   Kind = 7
	Bytes  Kind = 8 // an opaque scalar; empty means removed, inside this package alone
)

// Container reports whether k holds other values (or characters).
func (k Kind) Container() bool { return k >= Map && k <= Text }

// Scalar is one value of kind String, Int, Bool, Null or Bytes.
type Scalar struct {
	Kind Kind
	Str  string // String: UTF-8; Bytes: the bytes
	Int  int64  // Int; Bool: 0 or 1
}

// Alternative is one of the concurrent values of a register, as the engine reads it.
type Alternative struct {
	Op     OpID // the operation that wrote it; for a container, also its object ID
	Scalar      // Kind says which of the following holds; Text: the characters are in Str
	Map    []Field
	List   []Register // every element in order, removed ones too, so that indexes are Automerge's
}

// Register holds every concurrent value of one key or element, ascending by Op; Automerge's winner is the last.
type Register []Alternative

// Field is one key of a map with its values.
type Field struct {
	Key    string
	Values Register
}

// Verb says what an Instruction does. The numbers go over the engine's pipe.
type Verb uint8

const (
	Enter  Verb = 1 // make the container that alternative Op of Key or Index holds addressable
	Set    Verb = 2 // write Value to Key of a map or Index of a list
	Insert Verb = 3 // insert Value before Index of a list; Index may equal its length
	Splice Verb = 4 // in a text, remove Delete characters at Index and insert Value.Str
)

// Instruction is one step of an edit.
//
// Obj is a reference: 0 is the document's root map, and the nth (from 1) Instruction of the edit that yields a container
// (Enter; Set and Insert with a container Kind, which make a new one) yields reference n. Index counts list elements,
// removed ones too, or Unicode code points of a text.
type Instruction struct {
	Do     Verb
	Obj    int
	Key    string // in a map; in a list or text empty
	Index  int
	Op     OpID // Enter: which alternative
	Value  Scalar
	Delete int
}

// Edit is one local change.
type Edit struct {
	Actor        Actor
	TimeMillis   int64        // stored in the change in whole seconds, as Automerge's JavaScript expects
	Base         []ChangeHash // nil: on top of all that is applied; else the change follows these heads alone
	Instructions []Instruction
}

// State is what an engine knows of a loaded document.
type State struct {
	Heads []ChangeHash // ascending
}

// An Engine runs Automerge. One goroutine at a time may use one document; different documents may be used at once.
// After any error but ErrNotLoaded the document is forgotten and must be loaded again.
type Engine interface {
	// Load forgets what it held of the document and builds it from this device's own saved form (may be empty) and then
	// changes, each a raw uncompressed change that Index.Judge accepted, dependencies first.
	Load(ctx context.Context, doc DocumentID, saved []byte, changes [][]byte) (State, error)
	// Apply adds accepted changes, dependencies first, and fails unless every one is in the document afterwards.
	Apply(ctx context.Context, doc DocumentID, changes [][]byte) (State, error)
	// Edit makes one change and returns its raw uncompressed form. No instructions is an error.
	Edit(ctx context.Context, doc DocumentID, edit Edit) (change []byte, state State, err error)
	// Read returns root keys (nil: all) with everything below them, as of heads (nil: now). Absent keys are left out.
	Read(ctx context.Context, doc DocumentID, keys []string, heads []ChangeHash) ([]Field, error)
	// Save returns Automerge's own saved form, for this device's cache alone.
	Save(ctx context.Context, doc DocumentID) ([]byte, error)
	// Forget frees a document; it is no error if it is not loaded.
	Forget(ctx context.Context, doc DocumentID) error
	Close() error
}

var (
	// ErrNotLoaded says that the engine does not hold the document (never loaded, forgotten, or the engine restarted).
	ErrNotLoaded = errors.New("document is not loaded")
	// ErrEngine says that the engine failed on its input: it aborted, ran out of time or memory, or refused.
	ErrEngine = errors.New("engine failed")
)
