package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/p2p/session"
	"chartmesh/storage"
)

// A change of a newer schema is parked, passed on and not read. Whoever edited its resource here would write over what they cannot
// see, so that the resource is read-only until this device is updated. The rest of the chart is not.

// Schemas is the range of document schemas that this build reads.
func Schemas() session.Range { return session.Range{Min: 1, Max: fhir.Schema} }

// newerIn lists the parked chunks of newer schemas about a document. Some may have been released since.
func (r *Replica) newerIn(doc crdt.DocumentID) ([]storage.Ref, error) {
	if r.newer == nil {
		newer := map[crdt.DocumentID][]storage.Ref{}
		if err := r.store.View(func(v storage.Reader) error {
			return v.Scan(storage.Parked.With(missingSchema), nil, func(key, _ []byte) error {
				_, _, at, err := storage.Parked.Parse(key)
				if err != nil {
					return err
				}
				b, err := v.Get(storage.Held.Key(at))
				if err != nil {
					return storage.IgnoreNotFound(err)
				}
				h, err := parseHeld(b)
				newer[h.Document] = append(newer[h.Document], at)
				return err
			})
		}); err != nil {
			return nil, fmt.Errorf("read what newer versions wrote: %w", err)
		}
		r.newer = newer
	}
	return r.newer[doc], nil
}

// newerAt says why a resource of a document cannot be edited here: which device changed it with a newer version. Empty: it can.
func (t *transaction) newerAt(doc crdt.DocumentID, key string) (device string, err error) {
	places, err := t.r.newerIn(doc)
	if err != nil {
		return "", err
	}
	for _, at := range places {
		h, err := t.heldAt(at)
		if err != nil {
			return "", err
		}
		if h == nil || h.Missing.Kind != missingSchema {
			continue
		}
		touches, err := t.r.touchesNewer(at, doc, key)
		if err != nil {
			return "", err
		}
		if touches {
			device, _ := t.r.names(h.Device)
			return device, nil
		}
	}
	return "", nil
}

// touchesNewer reports whether a parked chunk changes a resource. What it writes into was made by a change that is applied here,
// or by another that is parked, and that names the resource.
func (r *Replica) touchesNewer(at storage.Ref, doc crdt.DocumentID, key string) (bool, error) {
	sealed, err := r.logs.Sealed(at)
	if err != nil {
		return false, err
	}
	body, err := chunk.Open(r.keys, sealed)
	if err != nil {
		return false, nil // its layout is newer as well: nobody here can say
	}
	d, err := r.document(at.Scope, doc)
	if err != nil {
		return false, err
	}
	for _, p := range partsOf(sealed, body) {
		if p.Schema <= fhir.Schema {
			continue
		}
		for _, ch := range p.Changes {
			c, err := crdt.Decode(ch.Raw)
			if err != nil || slices.ContainsFunc(c.Ops, func(op crdt.Op) bool { return keyOf(op, d) == key }) {
				return true, nil // what does not decode may be about any
			}
		}
	}
	return false, nil
}

// keyOf returns the root key of the resource that an operation makes, or writes in; empty if that is not applied here.
func keyOf(op crdt.Op, d *document) string {
	if op.Obj == (crdt.OpID{}) {
		return op.Key
	}
	if d == nil {
		return ""
	}
	rec, ok := d.index.ByOp(op.Obj)
	if !ok {
		return ""
	}
	key, _ := rec.Key(op.Obj.Counter)
	return key
}

// writable refuses an edit of a resource that a newer version changed.
func (t *transaction) writable(doc crdt.DocumentID, key string) error {
	device, err := t.newerAt(doc, key)
	if err != nil || device == "" {
		return err
	}
	return &api.Error{Code: api.CodeIncompat,
		Message: fmt.Sprintf("%s was changed at %s by a newer version of chartmesh, which this one does not read; nothing was written", key, device),
		Hint:    "update chartmesh on this device; until then it shows this resource as it was before, and everything else can be edited"}
}

// newerNow is newerAt for who only looks.
func (r *Replica) newerNow(ctx context.Context, doc crdt.DocumentID, key string) (device string, err error) {
	r.mu.Lock()
	parked := r.mu.counts.Parked
	r.mu.Unlock()
	if parked == 0 {
		return "", nil
	}
	r.write.Lock()
	defer r.write.Unlock()
	defer r.evict(ctx)
	device, err = r.begin(ctx).newerAt(doc, key)
	if errors.Is(err, storage.ErrDamaged) {
		return "", nil // it is shown all the same
	}
	return device, err
}
