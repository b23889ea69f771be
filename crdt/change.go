package crdt

import (
	"errors"
	"fmt"
)

// Change is one Automerge change as decoded from its bytes.
type Change struct {
	Hash        ChangeHash
	Deps        []ChangeHash // strictly ascending
	Actor       Actor
	Seq         uint64
	StartOp     uint64
	TimeSeconds int64
	Message     string
	Ops         []Op // never empty; the ith has the ID {StartOp+i, Actor}
}

// ID returns the ID of the ith operation.
func (c *Change) ID(i int) OpID { return OpID{Counter: c.StartOp + uint64(i), Actor: c.Actor} }

// Action says what an Op does.
type Action uint8

const (
	ActionMake   Action = 1 // make the container whose kind Value.Kind names
	ActionPut    Action = 2 // write the scalar Value
	ActionDelete Action = 3 // delete, in Automerge's sense
)

// Op is one operation of a Change.
type Op struct {
	Obj    OpID   // the container written to; zero: root
	Key    string // in a map
	Elem   OpID   // in a list or text: the element, or with Insert the one before (zero: the beginning)
	Insert bool
	Action Action
	Value  Scalar
	Pred   []OpID // strictly ascending
}

// ErrRefused is wrapped by every *Refused.
var ErrRefused = errors.New("change refused")

// Refused says that a change breaks a rule. The reason is one of the constants below; the same bytes with the same
// ancestors give the same reason on every peer of the same ValidatorVersion.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return "change refused: " + e.Reason }
func (e *Refused) Unwrap() error { return ErrRefused }

// Reasons of Decode.
const (
	ReasonSize      = "larger than allowed"
	ReasonEnvelope  = "not one uncompressed change"
	ReasonChecksum  = "checksum does not match"
	ReasonEncoding  = "not encoded as Automerge encodes it"
	ReasonHeader    = "header field out of bounds"
	ReasonDeps      = "dependencies out of bounds or order"
	ReasonActors    = "actors out of bounds or order"
	ReasonColumns   = "columns unknown, repeated or out of order"
	ReasonRows      = "columns of different lengths"
	ReasonOps       = "number of operations out of bounds"
	ReasonPreds     = "predecessors out of bounds or order"
	ReasonReference = "reference out of bounds"
	ReasonKey       = "key out of bounds"
	ReasonAction    = "action that documents do not contain"
	ReasonValue     = "value that documents do not contain"
)

// Reasons of Index.Judge.
const (
	ReasonSeq         = "sequence number does not follow the actor's own changes among the ancestors"
	ReasonStartOp     = "operation counter does not follow the ancestors"
	ReasonObject      = "object is not among the ancestors"
	ReasonObjectType  = "operation does not fit the object's type"
	ReasonElement     = "element is not in the object"
	ReasonPredecessor = "predecessor is not an earlier value of the same place"
	ReasonRoot        = "root holds resources alone"
	ReasonSlot        = "container or value in a slot of another kind"
	ReasonControl     = "control key with another value than it may have"
	ReasonDepth       = "containers nested too deep"
	ReasonText        = "text changed otherwise than by characters"
	ReasonUnmarked    = "edit inside a container that does not mark it"
	ReasonNames       = "too many different keys"
)

func refuse(reason string) error { return &Refused{Reason: reason} }

// ErrKnown says that a change is applied already.
var ErrKnown = errors.New("change is applied already")

// Missing says that a change cannot be judged until another is applied.
type Missing struct{ Hash ChangeHash } // the smallest dependency that is not applied

func (e *Missing) Error() string { return fmt.Sprintf("dependency %v is not applied", e.Hash) }

// Equivocation says that an acceptable change has the actor and sequence number of another that is applied. Automerge
// cannot hold both.
type Equivocation struct {
	Actor Actor
	Seq   uint64
	Other ChangeHash // the applied one
}

func (e *Equivocation) Error() string {
	return fmt.Sprintf("actor %x wrote another change %d, %v", e.Actor[:8], e.Seq, e.Other)
}
