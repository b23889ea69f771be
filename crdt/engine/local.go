//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"chartmesh/crdt"
)

// NewLocal returns an engine in this process, for the simulator, for tests and for the child itself: an input that makes
// the library abort ends the process.
func NewLocal() crdt.Engine { return newDocuments() }

// documents is the in-process engine: what is loaded, by ID.
type documents struct {
	mu struct {
		sync.Mutex
		loaded    map[crdt.DocumentID]*held
		forgotten int // since the last trim
		closed    bool
	}
}

// held serialises the calls for one document, so that a caller who breaks the rule of one goroutine gets an error and not
// a damaged heap.
type held struct {
	sync.Mutex
	*document // nil when forgotten
}

func newDocuments() *documents {
	d := &documents{}
	d.mu.loaded = map[crdt.DocumentID]*held{}
	return d
}

// with runs f on a loaded document and forgets the document when f fails.
func (d *documents) with(ctx context.Context, id crdt.DocumentID, f func(*document) error) error {
	d.mu.Lock()
	h, closed := d.mu.loaded[id], d.mu.closed
	d.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if h == nil {
		return crdt.ErrNotLoaded
	}
	h.Lock()
	if h.document == nil {
		h.Unlock()
		return crdt.ErrNotLoaded
	}
	err := ctx.Err()
	if err == nil {
		err = f(h.document)
	}
	h.Unlock()
	if err != nil {
		d.drop(id, h)
	}
	return err
}

// drop forgets h, unless another document has taken its place.
func (d *documents) drop(id crdt.DocumentID, h *held) {
	d.mu.Lock()
	if d.mu.loaded[id] == h {
		delete(d.mu.loaded, id)
	}
	d.mu.forgotten++
	due := d.mu.forgotten >= trimEvery
	d.mu.Unlock()
	h.Lock()
	if h.document != nil {
		h.free()
		h.document = nil
	}
	h.Unlock()
	if due {
		d.trim()
	}
}

// due reports whether documents were forgotten since the last trim.
func (d *documents) due() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.forgotten > 0
}

// trim returns the memory of forgotten documents to the system.
func (d *documents) trim() {
	d.mu.Lock()
	d.mu.forgotten = 0
	d.mu.Unlock()
	trim()
}

func (d *documents) Load(ctx context.Context, id crdt.DocumentID, saved []byte, changes [][]byte) (crdt.State, error) {
	if err := d.Forget(ctx, id); err != nil {
		return crdt.State{}, err
	}
	if err := ctx.Err(); err != nil {
		return crdt.State{}, err
	}
	doc, err := loadDocument(saved, changes)
	if err != nil {
		return crdt.State{}, err
	}
	heads, err := doc.heads()
	if err != nil {
		doc.free()
		return crdt.State{}, err
	}
	d.mu.Lock()
	closed, old := d.mu.closed, d.mu.loaded[id]
	if !closed {
		d.mu.loaded[id] = &held{document: doc}
	}
	d.mu.Unlock()
	if closed {
		doc.free()
		return crdt.State{}, ErrClosed
	}
	if old != nil {
		d.drop(id, old)
	}
	return crdt.State{Heads: heads}, nil
}

func (d *documents) Apply(ctx context.Context, id crdt.DocumentID, changes [][]byte) (s crdt.State, err error) {
	err = d.with(ctx, id, func(doc *document) error {
		if err := doc.apply(changes); err != nil {
			return err
		}
		s.Heads, err = doc.heads()
		return err
	})
	return s, err
}

func (d *documents) Edit(ctx context.Context, id crdt.DocumentID, e crdt.Edit) (raw []byte, s crdt.State, err error) {
	err = d.with(ctx, id, func(doc *document) error {
		if raw, err = doc.edit(e); err != nil {
			return err
		}
		s.Heads, err = doc.heads()
		return err
	})
	if err != nil {
		return nil, crdt.State{}, err
	}
	return raw, s, nil
}

func (d *documents) Read(
	ctx context.Context, id crdt.DocumentID, keys []string, heads []crdt.ChangeHash,
) (fields []crdt.Field, err error) {
	b, err := d.read(ctx, id, keys, heads)
	if err != nil {
		return nil, err
	}
	defer b.free()
	if fields, err = parseFields(b.bytes()); err != nil {
		_ = d.Forget(ctx, id)
		return nil, fmt.Errorf("%w: %w", crdt.ErrEngine, err)
	}
	return fields, nil
}

func (d *documents) read(
	ctx context.Context, id crdt.DocumentID, keys []string, heads []crdt.ChangeHash,
) (b *buffer, err error) {
	err = d.with(ctx, id, func(doc *document) error {
		b, err = doc.read(keys, heads)
		return err
	})
	return b, err
}

func (d *documents) Save(ctx context.Context, id crdt.DocumentID) ([]byte, error) {
	b, err := d.save(ctx, id)
	if err != nil {
		return nil, err
	}
	defer b.free()
	return bytes.Clone(b.bytes()), nil
}

func (d *documents) save(ctx context.Context, id crdt.DocumentID) (b *buffer, err error) {
	err = d.with(ctx, id, func(doc *document) error {
		b, err = doc.save()
		return err
	})
	return b, err
}

func (d *documents) Forget(_ context.Context, id crdt.DocumentID) error {
	d.mu.Lock()
	h, closed := d.mu.loaded[id], d.mu.closed
	d.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if h != nil {
		d.drop(id, h)
	}
	return nil
}

func (d *documents) Close() error {
	d.mu.Lock()
	loaded := d.mu.loaded
	d.mu.loaded, d.mu.closed = nil, true
	d.mu.Unlock()
	for id, h := range loaded {
		d.drop(id, h)
	}
	d.trim()
	return nil
}
