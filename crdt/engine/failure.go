package engine

import (
	"errors"
	"fmt"

	"chartmesh/crdt"
)

var (
	// ErrUnsupported says that this system has no Automerge library yet; a device of its kind uses the site's agent.
	ErrUnsupported = errors.New("this system has no Automerge library yet, use the site's agent")
	// ErrStart says that the child process could not be started. It tells nothing about a document.
	ErrStart = errors.New("start the engine's process")
	// ErrClosed says that the engine was closed.
	ErrClosed = errors.New("engine is closed")
)

// reason says what failed, without a word of the document. The numbers go over the pipe.
type reason uint8

const (
	reasonRequest   reason = 1
	reasonLoad      reason = 2
	reasonApply     reason = 3
	reasonMissing   reason = 4
	reasonBase      reason = 5
	reasonEmpty     reason = 6
	reasonStep      reason = 7
	reasonCommit    reason = 8
	reasonRead      reason = 9
	reasonSave      reason = 10
	reasonHeads     reason = 11
	reasonChange    reason = 12
	reasonLimit     reason = 13
	reasonNoHistory reason = 14
)

var reasonText = map[reason]string{
	reasonRequest:   "decode the request",
	reasonLoad:      "load the saved form",
	reasonApply:     "apply changes",
	reasonMissing:   "apply changes: not all are in the document afterwards",
	reasonBase:      "take the document back to the edit's base",
	reasonEmpty:     "edit: no instructions",
	reasonStep:      "edit: instruction",
	reasonCommit:    "edit: commit",
	reasonRead:      "read",
	reasonSave:      "save",
	reasonHeads:     "read the heads",
	reasonChange:    "edit: the change is not what its hash says",
	reasonLimit:     "answer is over the limit of a frame",
	reasonNoHistory: "heads name no changes of the document",
}

// failure is an engine's refusal; the document is forgotten.
type failure struct {
	reason reason
	at     uint64 // number of the instruction, from 0
}

func (f *failure) Error() string {
	if f.reason == reasonStep {
		return fmt.Sprintf("%v: %s %d", crdt.ErrEngine, reasonText[f.reason], f.at)
	}
	return fmt.Sprintf("%v: %s", crdt.ErrEngine, reasonText[f.reason])
}

func (f *failure) Unwrap() error { return crdt.ErrEngine }

func fail(r reason) error { return &failure{reason: r} }
