package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
)

// Resolve settles a conflict by one of its values, or by another. It is an edit like any other: it reaches the other
// devices, and a different decision made elsewhere meanwhile is a new conflict.
func (r *Replica) Resolve(ctx context.Context, user, name string, decision api.Decision) (api.Written, error) {
	var w api.Written
	err := r.transact(ctx, func(t *transaction) error {
		var id [16]byte
		var c api.Conflict
		var at located
		var duplicate bool
		err := r.store.View(func(v storage.Reader) error {
			var place []byte
			var err error
			if id, place, err = findConflict(v, name); err != nil {
				return err
			}
			doc, _, err := parseConflictPlace(place)
			if err != nil {
				return err
			}
			duplicate = doc == crdt.DocumentID{}
			c, at, err = r.readConflict(v, id, place)
			return err
		})
		if err != nil {
			return err
		}
		ref, _ := parseRef(c.Resource)
		if duplicate {
			if (decision.Choose == nil) == (decision.Value == nil) {
				return errOneDecision
			}
			doc, err := t.resolveDuplicate(ctx, ref, r.by(user), decision)
			if err != nil {
				return err
			}
			w, err = t.written(doc, ref, "resolved", 0)
			return err
		}
		j, err := decide(c, at, id, decision)
		if err != nil {
			return err
		}
		if err := t.writable(at.doc, c.Resource); err != nil {
			return err
		}
		if _, _, err := t.edit(ctx, j, r.by(user), chunk.OriginDecision); err != nil {
			switch {
			case errors.Is(err, crdt.ErrNoConflict):
				return &api.Error{Code: api.CodeNotFound, Message: "the conflict is settled already", Err: err}
			case errors.Is(err, crdt.ErrChoice):
				return &api.Error{Code: api.CodeInvalid, Message: "the value does not fit there", Err: err,
					Hint: "choose one of the values, then edit the resource"}
			}
			return err
		}
		w, err = t.written(at.doc, ref, "resolved", 0)
		return err
	})
	return w, err
}

var errOneDecision = &api.Error{Code: api.CodeInvalid, Message: "decide by one of the values or by another, not both"}

// decide turns a person's decision into a job: one of the sides, or another value in that place.
func decide(c api.Conflict, at located, id [16]byte, d api.Decision) (job, error) {
	j := job{scope: at.Scope, doc: at.doc}
	choose := func(side int) (job, error) {
		j.decide, j.id, j.choice = c.Resource, id, crdt.ChooseSide(side)
		return j, nil
	}
	switch {
	case d.Choose != nil && d.Value != nil, d.Choose == nil && d.Value == nil:
		return j, errOneDecision
	case d.Choose != nil && (*d.Choose < 0 || *d.Choose >= len(c.Values)):
		return j, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("the conflict has the values 0 to %d", len(c.Values)-1)}
	case d.Choose != nil:
		return choose(*d.Choose)
	}
	value, err := fhir.ParseValue(d.Value)
	if err != nil {
		return j, &api.Error{Code: api.CodeInvalid, Message: "the value is not JSON: " + err.Error(), Err: err}
	}
	canonical := fhir.AppendCanonical(nil, value)
	for i, side := range c.Values {
		if !side.Removed && bytes.Equal(side.Value, canonical) {
			return choose(i)
		}
	}
	obj, err := fhir.Parse(at.JSON)
	if err != nil {
		return j, fmt.Errorf("read stored resource: %w", err)
	}
	v, err := fhir.ValueAt(obj, c.Path, value)
	if err != nil {
		return j, &api.Error{Code: api.CodeInvalid, Message: "the value does not fit there: " + err.Error(), Err: err,
			Hint: "choose one of the values, then edit the resource"}
	}
	j.decide, j.id, j.choice = c.Resource, id, crdt.ChooseValue(v)
	return j, nil
}
