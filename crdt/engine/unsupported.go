//go:build !(cgo && (linux || darwin) && (amd64 || arm64))

package engine

import (
	"context"

	"chartmesh/crdt"
)

const supported = false

// NewLocal returns an engine that answers every call with ErrUnsupported.
func NewLocal() crdt.Engine { return unsupported{} }

// ChildMain does nothing where no child can be.
func ChildMain() {}

type unsupported struct{}

func (unsupported) Load(context.Context, crdt.DocumentID, []byte, [][]byte) (crdt.State, error) {
	return crdt.State{}, ErrUnsupported
}

func (unsupported) Apply(context.Context, crdt.DocumentID, [][]byte) (crdt.State, error) {
	return crdt.State{}, ErrUnsupported
}

func (unsupported) Edit(context.Context, crdt.DocumentID, crdt.Edit) ([]byte, crdt.State, error) {
	return nil, crdt.State{}, ErrUnsupported
}

func (unsupported) Read(context.Context, crdt.DocumentID, []string, []crdt.ChangeHash) ([]crdt.Field, error) {
	return nil, ErrUnsupported
}

func (unsupported) Save(context.Context, crdt.DocumentID) ([]byte, error) { return nil, ErrUnsupported }

func (unsupported) Forget(context.Context, crdt.DocumentID) error { return ErrUnsupported }

func (unsupported) Close() error { return nil }
