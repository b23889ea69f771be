package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
		err := r.store.View(func(v storage.Reader) error {
			var place []byte
			var err error
			if id, place, err = findConflict(v, name); err != nil {
				return err
			}
			c, at, err = r.readConflict(v, id, place)
			return err
		})
		if err != nil {
			return err
		}
		j, err := decide(c, at, id, decision)
		if err != nil {
			return err
		}
		if _, _, err := t.edit(ctx, j, r.by(user), chunk.OriginDecision); err != nil {
			if errors.Is(err, crdt.ErrNoConflict) {
				return &api.Error{Code: api.CodeNotFound, Message: "the conflict is settled already", Err: err}
			}
			return err
		}
		ref, _ := parseRef(c.Resource)
		w, err = t.written(at.doc, ref, "resolved", 0)
		return err
	})
	return w, err
}

// decide turns a person's decision into a job: one of the sides, or the whole resource with another value in its place.
func decide(c api.Conflict, at located, id [16]byte, d api.Decision) (job, error) {
	j := job{scope: at.Scope, doc: at.doc}
	choose := func(side int) (job, error) {
		j.decide, j.id, j.choice = c.Resource, id, crdt.ChooseSide(side)
		return j, nil
	}
	switch {
	case d.Choose != nil && d.Value != nil, d.Choose == nil && d.Value == nil:
		return j, &api.Error{Code: api.CodeInvalid, Message: "decide by one of the values or by another, not both"}
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
	obj, err := substitute(at.JSON, c.Path, value)
	if err != nil {
		return j, &api.Error{Code: api.CodeInvalid, Message: "the value does not fit there: " + err.Error(), Err: err,
			Hint: "choose one of the values, then edit the resource"}
	}
	return j, j.setWant(c.Resource, obj)
}

// substitute puts a value into a resource at a conflict's path, as "name[0].family".
func substitute(stored json.RawMessage, path string, value any) (fhir.Object, error) {
	if path == "" {
		obj, ok := value.(fhir.Object)
		if !ok {
			return nil, errors.New("a whole resource is needed")
		}
		return obj, nil
	}
	obj, err := fhir.Parse(stored)
	if err != nil {
		return nil, err
	}
	var at any = obj
	steps := pathSteps(path)
	for i, step := range steps {
		last := i == len(steps)-1
		switch in := at.(type) {
		case fhir.Object:
			if last {
				return obj, putField(in, step, value)
			}
			at = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(in) {
				return nil, errors.New("the path leads nowhere")
			}
			if last {
				in[n] = value
				return obj, nil
			}
			at = in[n]
		default:
			return nil, errors.New("the path leads nowhere")
		}
	}
	return nil, errors.New("the path leads nowhere")
}

// putField sets a field, or the fields of a choice group: "value[x]" takes an object of the keys that it stands for.
func putField(in fhir.Object, key string, value any) error {
	group, isGroup := strings.CutSuffix(key, "[x]")
	if !isGroup {
		in[key] = value
		return nil
	}
	fields, ok := value.(fhir.Object)
	if !ok {
		return errors.New("an object with the element's name is needed")
	}
	for k := range in {
		if strings.HasPrefix(strings.TrimPrefix(k, "_"), group) {
			delete(in, k)
		}
	}
	for k, v := range fields {
		if !strings.HasPrefix(strings.TrimPrefix(k, "_"), group) {
			return errors.New("an object with the element's name is needed")
		}
		in[k] = v
	}
	return nil
}

// pathSteps splits "name[0].family" into name, 0, family; "value[x]" is one step.
func pathSteps(path string) []string {
	var steps []string
	for part := range strings.SplitSeq(path, ".") {
		name, rest, indexed := strings.Cut(part, "[")
		if indexed && strings.HasPrefix(rest, "x]") {
			name += "[x]"
			rest = strings.TrimPrefix(strings.TrimPrefix(rest, "x]"), "[")
		}
		steps = append(steps, name)
		for rest != "" {
			var n string
			n, rest, _ = strings.Cut(rest, "]")
			steps = append(steps, n)
			rest = strings.TrimPrefix(rest, "[")
		}
	}
	return steps
}
