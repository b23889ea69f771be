package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/trust"
)

// author is who writes, and when by this device's clock.
type author struct {
	name       string
	timeMillis int64
}

// job is what one change of one document shall do.
type job struct {
	scope  trust.ScopeID
	doc    crdt.DocumentID
	base   []crdt.ChangeHash     // nil: on top of all that is applied
	want   map[string]crdt.Value // root key to what it shall be
	json   map[string][]byte     // the same in canonical JSON, to compare with what is read back
	remove string                // root key to remove
	touch  string                // root key to mark as edited
	decide string                // root key whose conflict to decide
	say    string                // root key at a place of which to say value, as a decision
	place  crdt.Place
	value  crdt.Value
	id     [16]byte // which conflict
	choice crdt.Choice
	again  bool    // it did not read back equal once
	over   bool    // it makes anew in a protected document what an ordinary one holds
	drafts []draft // what that is
	// restate holds the root keys of which everything is said again; see crdt.Restate.
	restate map[string]bool
	// replaces is the lost change that this one writes anew; zero: none.
	replaces crdt.ChangeHash
}

func (j *job) keys() []string {
	keys := slices.Collect(maps.Keys(j.want))
	for _, k := range []string{j.remove, j.touch, j.decide, j.say} {
		if k != "" {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// edit is the local trip: engine, validator, seal, and everything that follows from it into the transaction. It reports
// whether there was anything to change, and how many conflicts that opened. The caller holds Replica.write and commits;
// after an error it must abort.
func (t *transaction) edit(ctx context.Context, j job, by author, origin chunk.Origin) (changed bool, opened int, err error) {
	r := t.r
	if !r.State().MayWrite(r.keys.Device(), j.scope) {
		return false, 0, &api.Error{Code: api.CodeForbidden, Message: "this device may not write in this scope"}
	}
	d, err := r.document(j.scope, j.doc)
	if err != nil {
		return false, 0, err
	}
	if len(d.erased) > 0 {
		return false, 0, errErased
	}
	var fence chunk.Fence
	if d.lock != "" {
		if fence, err = t.fence(ctx, d); err != nil {
			return false, 0, err
		}
	}
	instructions, err := t.plan(ctx, d, j)
	if err != nil || len(instructions) == 0 {
		return false, 0, err
	}
	if !fitsChange(instructions) {
		return false, 0, errTooLarge
	}
	actor, branch, err := t.actor(d, j.base)
	if err != nil {
		return false, 0, err
	}
	t.docs[d.id] = d // from here on the engine may be ahead of the store
	var raw []byte
	var st crdt.State
	err = r.engineCall(ctx, d, func() (err error) {
		raw, st, err = r.engine.Edit(ctx, d.id, crdt.Edit{
			Actor: actor, TimeMillis: by.timeMillis, Base: j.base, Instructions: instructions,
		})
		return err
	})
	if err != nil {
		return false, 0, fmt.Errorf("edit document %v: %w", d.id, err)
	}
	c, err := crdt.Decode(raw)
	if err != nil {
		return false, 0, fmt.Errorf("own change does not validate: %w", err)
	}
	rec, err := d.index.Judge(c)
	if err != nil {
		return false, 0, fmt.Errorf("own change is not acceptable: %w", err)
	}
	at, sealed := t.sealing(j.scope, &chunk.Changes{
		Document: d.id, Schema: fhir.Schema, TimeMillis: by.timeMillis, Author: by.name, Origin: origin,
		Replaces:   j.replaces,
		Changes:    []chunk.Change{{Branch: branch, Raw: raw}},
		Authorship: []chunk.Authorship{{Branch: branch, Seq: c.Seq, Newest: c.Hash}},
	}, fence)
	err = t.record(d, appliedChange{
		Record: rec, Chunk: at, Device: r.keys.Device(), Schema: fhir.Schema, TimeMillis: by.timeMillis, Author: by.name,
		Origin: origin, ArrivedMillis: t.now.UnixMilli(), Replaces: j.replaces, Fence: fence, overlay: d.lock != "",
	}, raw)
	if err == nil {
		t.noteDrafts(d, c.Hash, j)
		err = d.agrees(st)
	}
	if err == nil {
		opened, err = t.refresh(ctx, d, []crdt.Record{rec}, true)
	}
	if _, notSealed := sealed(); err == nil {
		err = notSealed
	}
	if err != nil {
		return false, 0, err
	}
	if l, ok := ctx.Value(leaseKey{d.lock}).(Noting); ok {
		l.Wrote(Change{j.scope, d.id, c.Hash})
	}
	if j.base == nil {
		err := t.verify(d, j)
		if errors.Is(err, errReadBack) && !j.again {
			return t.writeAnew(ctx, d, j, by, origin)
		}
		if err != nil {
			return false, 0, err
		}
	}
	return true, opened, nil
}

// errTooLarge says that a job does not fit one change; nothing of it has been done.
var errTooLarge = errors.New("too large or too deep for one change")

// fitsChange reports whether instructions stay well below the caps that every device holds a change to.
func fitsChange(instructions []crdt.Instruction) bool {
	ops, size := 0, 0
	for _, in := range instructions {
		ops += 2 // the engine may need two to write a value over an equal one
		if in.Do == crdt.Splice {
			ops += in.Delete + utf8.RuneCountInString(in.Value.Str)
		}
		if len(in.Key) > crdt.MaxKeyBytes || len(in.Value.Str) > crdt.MaxValueBytes {
			return false
		}
		size += len(in.Key) + len(in.Value.Str) + 16
	}
	return ops <= crdt.MaxChangeOps && size <= crdt.MaxChangeBytes/2
}

// plan reads what is there (as of the base) and finds the smallest instructions that make it what is wanted.
func (t *transaction) plan(ctx context.Context, d *document, j job) ([]crdt.Instruction, error) {
	var fields []crdt.Field
	err := t.r.engineCall(ctx, d, func() (err error) {
		fields, err = t.r.engine.Read(ctx, d.id, j.keys(), j.base)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read document %v: %w", d.id, err)
	}
	have := make(map[string]crdt.Register, len(fields))
	for _, f := range fields {
		have[f.Key] = f.Values
	}
	switch {
	case j.remove != "":
		instructions, err := crdt.Remove(j.remove, have[j.remove])
		if err == nil && len(instructions) == 0 && j.replaces != (crdt.ChangeHash{}) {
			// It is removed where this is written anew, by somebody else: said again it meets what others make of that, and
			// everybody learns that it is settled.
			instructions = touch(j.remove, have[j.remove], false)
		}
		return instructions, err
	case j.touch != "":
		return touch(j.touch, have[j.touch], true), nil
	case j.decide != "":
		return crdt.Decide(j.decide, have[j.decide], j.id, j.choice)
	case j.say != "":
		return crdt.Say(j.say, have[j.say], j.place, j.value)
	}
	instructions, err := crdt.Restate(have, j.want, j.restate)
	if errors.Is(err, crdt.ErrValue) {
		return nil, errTooLarge
	}
	return instructions, err
}

var errReadBack = errors.New("what was written does not read back equal; nothing was kept")

// writeAnew writes what did not read back equal in two changes more: the fields that differ are removed, and then written.
// So a list with a past of concurrent additions and removals, which one change did not settle, is made anew; whoever edits
// the old one meanwhile meets the removal as a conflict.
func (t *transaction) writeAnew(ctx context.Context, d *document, j job, by author, origin chunk.Origin) (bool, int, error) {
	less := j
	less.again, less.want, less.json = true, map[string]crdt.Value{}, map[string][]byte{}
	for key, json := range j.json {
		v, err := t.view(d.id, key)
		if err != nil {
			return false, 0, err
		}
		obj, err := fhir.Parse(json)
		if err != nil {
			return false, 0, err
		}
		if v != nil && !v.Removed {
			got, err := fhir.Parse(v.JSON)
			if err != nil {
				return false, 0, err
			}
			maps.DeleteFunc(obj, func(field string, value any) bool { return !fhir.Equal(value, got[field]) })
		}
		if less.want[key], err = fhir.ToValue(obj); err != nil {
			return false, 0, err
		}
		less.json[key] = fhir.AppendCanonical(nil, obj)
	}
	if _, _, err := t.edit(ctx, less, by, origin); err != nil {
		return false, 0, err
	}
	j.again = true
	return t.edit(ctx, j, by, origin)
}

// verify compares what reads show now with what was to be written.
func (t *transaction) verify(d *document, j job) error {
	for key, want := range j.json {
		v, err := t.view(d.id, key)
		if err != nil {
			return err
		}
		if v == nil || v.Removed || !bytes.Equal(v.JSON, want) {
			return errReadBack
		}
	}
	return nil
}

// actor chooses under which actor a change on top of base is made: the lowest branch whose last change is an ancestor of
// base, so that no actor ever writes two changes that do not follow each other. Of a protected document it is none that wrote something late.
func (t *transaction) actor(d *document, base []crdt.ChangeHash) (crdt.Actor, byte, error) {
	log := t.r.logID(d.scope)
	late, err := t.lateActors(d)
	if err != nil {
		return crdt.Actor{}, 0, err
	}
	for branch := range 256 {
		actor := crdt.Actor(chunk.ActorOf(log, d.id, byte(branch)))
		if late[actor] {
			continue
		}
		if base == nil {
			return actor, byte(branch), nil
		}
		if _, outside := d.index.LastSeqIn(actor, base); !outside {
			return actor, byte(branch), nil
		}
	}
	return crdt.Actor{}, 0, errors.New("too many concurrent versions of one document by one device")
}

func (r *Replica) by(user string) author { return author{name: user, timeMillis: r.now().UnixMilli()} }

// Put writes one resource: the difference from the version that it names, or, if it is new or force is set, from what is
// there.
func (r *Replica) Put(ctx context.Context, user string, body json.RawMessage, force bool) (api.Written, error) {
	obj, ref, err := parseResource(body)
	if err != nil {
		return api.Written{}, err
	}
	var w api.Written
	err = r.transact(ctx, func(t *transaction) (err error) {
		w, err = t.put(ctx, r.by(user), obj, ref, force)
		return err
	})
	return w, err
}

// transact runs fn in a transaction and commits what it gathered.
func (r *Replica) transact(ctx context.Context, fn func(*transaction) error) error {
	r.write.Lock()
	defer r.write.Unlock()
	t := r.begin(ctx)
	if err := fn(t); err != nil {
		t.abort(ctx)
		return errors.Join(err, r.takeBackBy(ctx, err))
	}
	if err := t.commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	r.evict(ctx)
	return nil
}

func parseResource(body []byte) (fhir.Object, fhirRef, error) {
	obj, err := fhir.Parse(body)
	if err != nil {
		return nil, fhirRef{}, &api.Error{Code: api.CodeInvalid, Message: "not a FHIR JSON resource: " + err.Error(), Err: err}
	}
	typ, id, err := fhir.Name(obj)
	if err != nil {
		return nil, fhirRef{}, &api.Error{Code: api.CodeInvalid, Message: err.Error(),
			Hint: `a resource needs "resourceType" and "id"`, Err: err}
	}
	return obj, fhirRef{typ, id}, nil
}

func (t *transaction) put(ctx context.Context, by author, obj fhir.Object, ref fhirRef, force bool) (api.Written, error) {
	j, v, err := t.locate(obj, ref)
	if err != nil {
		return api.Written{}, err
	}
	outcome := "created"
	blind := v != nil && !v.Removed && fhir.Version(obj) == "" && !force // of somebody who does not say what they saw
	if j.over {
		if obj, err = takeOver(v, obj, ref, force || v.Removed); err != nil {
			return api.Written{}, err
		}
		if !v.Removed {
			outcome = "changed"
		}
	} else if v != nil && !blind && (!v.Removed || fhir.Version(obj) != "") {
		// A version of a removed resource too: the removal came after what the file says, unless it is the removal's own.
		if j.base, obj, err = t.baseOf(ctx, j, v, obj, ref, force); err != nil {
			return api.Written{}, err
		}
		if !v.Removed || j.base != nil {
			outcome = "changed"
		}
	}
	if err := j.setWant(ref.key(), obj); err != nil {
		return api.Written{}, err
	}
	if err := t.writable(j.doc, ref.key()); err != nil {
		return api.Written{}, err
	}
	switch {
	case (blind || j.base != nil) && !v.Removed && !j.over && bytes.Equal(v.JSON, j.json[ref.key()]):
		if err := t.again(ctx, j, ref.key()); err != nil {
			return api.Written{}, err
		}
		return t.written(j.doc, ref, "unchanged", 0)
	case blind:
		return api.Written{}, &api.Error{Code: api.CodeConflict, Message: ref.key() + " exists and the file names no version",
			Hint: "start from `chartmesh get " + ref.key() + "`, or use --force to set it against what is there now"}
	case j.base != nil:
		again, err := t.r.writtenBefore(ctx, j, ref.key(), by.name)
		if err != nil {
			return api.Written{}, err
		}
		if again {
			stands, err := t.r.stillStands(ctx, j, v, ref.key())
			if err != nil {
				return api.Written{}, err
			}
			if !stands {
				return api.Written{}, &api.Error{Code: api.CodeConflict,
					Message: "this was written on that version of " + ref.key() + " before, and was changed since; nothing was written",
					Hint:    "see `chartmesh history " + ref.key() + "`; to write it on purpose start from `chartmesh get " + ref.key() + "`"}
			}
			if err := t.again(ctx, j, ref.key()); err != nil {
				return api.Written{}, err
			}
			return t.written(j.doc, ref, "repeated", 0)
		}
	}
	changed, opened, err := t.edit(ctx, j, by, chunk.OriginEdit)
	if errors.Is(err, errTooLarge) {
		return api.Written{}, &api.Error{Code: api.CodeInvalid, Message: ref.key() + " is too large or too deep for one record", Err: err,
			Hint: "documents and images belong in attachments"}
	}
	if err != nil {
		return api.Written{}, err
	}
	if !changed {
		outcome = "unchanged"
		if err := t.again(ctx, j, ref.key()); err != nil {
			return api.Written{}, err
		}
	}
	return t.written(j.doc, ref, outcome, opened)
}

func (j *job) setWant(key string, obj fhir.Object) error {
	value, err := fhir.ToValue(obj)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: err.Error(), Err: err}
	}
	j.want = map[string]crdt.Value{key: value}
	j.json = map[string][]byte{key: fhir.AppendCanonical(nil, obj)}
	return nil
}

func (t *transaction) written(doc crdt.DocumentID, ref fhirRef, outcome string, opened int) (api.Written, error) {
	v, err := t.view(doc, ref.key())
	if err != nil {
		return api.Written{}, err
	}
	w := api.Written{Ref: ref.key(), Outcome: outcome, Conflicts: opened}
	if v != nil {
		w.Version, w.Conflicts = crdt.Version(v.Heads), len(v.Conflicts)
	}
	return w, nil
}

// locate finds the document of a resource: the one that holds it, else the one where it belongs.
func (t *transaction) locate(obj fhir.Object, ref fhirRef) (job, *view, error) {
	docs, err := t.documentsOf(ref)
	if err != nil {
		return job{}, nil, err
	}
	if len(docs) > 0 {
		views, err := t.viewsOf(ref)
		if err != nil {
			return job{}, nil, err
		}
		shown := views[shownOf(views)]
		j := job{scope: shown.Scope, doc: shown.doc}
		if _, protected := LockOf(shown.Scope, shown.doc); !protected && t.r.guards(obj) != "" {
			j, err = t.placeOf(obj, ref)
			if j.over = true; !shown.Removed {
				j.drafts = []draft{{ref.key(), shown.Scope, shown.doc, shown.Heads}}
			}
		}
		return j, shown.view, err
	}
	j, err := t.placeOf(obj, ref)
	if err == nil {
		err = t.mayBegin(obj)
	}
	return j, nil, err
}

// takeOver returns what a resource is made anew as in a protected document, from one that an ordinary document holds.
func takeOver(v *view, obj fhir.Object, ref fhirRef, force bool) (fhir.Object, error) {
	if named := fhir.Version(obj); !force && named != "" && named != crdt.Version(v.Heads) {
		return nil, &api.Error{Code: api.CodeConflict, Message: ref.key() + " was changed since the version that the file names",
			Hint: "start from `chartmesh get " + ref.key() + "`, or use --force to set it against what is there now"}
	}
	if len(v.JSON) == 0 {
		return obj, nil
	}
	was, err := fhir.Parse(v.JSON)
	if err != nil {
		return nil, fmt.Errorf("read stored resource: %w", err)
	}
	return fhir.RestoreMeta(obj, was), nil
}

// placeOf names the document where a resource belongs.
func (t *transaction) placeOf(obj fhir.Object, ref fhirRef) (job, error) {
	if lock := t.r.guards(obj); lock != "" {
		scope, doc, err := t.r.ProtectedDocument(lock, ref.key())
		return job{scope: scope, doc: doc}, err
	}
	p := fhir.Place(obj)
	scope, err := t.r.scope(p.Scope)
	if err != nil {
		return job{}, err
	}
	parts := []string{"section", p.Patient, p.Section}
	if p.Patient == "" {
		parts = []string{"resource", ref.typ, ref.id}
	}
	doc, err := t.r.keys.DocumentID(scope, parts...)
	if err != nil {
		return job{}, fmt.Errorf("place resource: %w", err)
	}
	return job{scope: scope, doc: doc}, nil
}

// baseOf finds the version that a resource names, and gives the resource its own metadata back where it carries the
// agent's. The base is nil when that version is the current one.
func (t *transaction) baseOf(ctx context.Context, j job, v *view, obj fhir.Object, ref fhirRef, force bool) (
	[]crdt.ChangeHash, fhir.Object, error) {
	named := fhir.Version(obj)
	d, err := t.r.document(j.scope, j.doc)
	if err != nil {
		return nil, nil, err
	}
	heads, known := d.index.ResolveVersion(ref.key(), named)
	switch {
	case !known && !force:
		return nil, nil, &api.Error{Code: api.CodeConflict, Message: "the version that the file names is not known here",
			Hint: "start from `chartmesh get " + ref.key() + "`, or use --force to set it against what is there now"}
	case !known:
		return nil, obj, nil
	}
	stored := v.JSON
	if !slices.Equal(heads, v.Heads) {
		if stored, err = t.r.contentAt(ctx, d, ref.key(), heads); err != nil {
			return nil, nil, err
		}
	}
	if len(stored) > 0 {
		was, err := fhir.Parse(stored)
		if err != nil {
			return nil, nil, fmt.Errorf("read stored resource: %w", err)
		}
		obj = fhir.RestoreMeta(obj, was)
	}
	if force || slices.Equal(heads, v.Heads) {
		return nil, obj, nil
	}
	return heads, obj, nil
}

// contentAt returns a resource's canonical JSON as of some changes; nil if it was not there or removed.
func (r *Replica) contentAt(ctx context.Context, d *document, key string, heads []crdt.ChangeHash) ([]byte, error) {
	var fields []crdt.Field
	err := r.engineCall(ctx, d, func() (err error) {
		fields, err = r.engine.Read(ctx, d.id, []string{key}, heads)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read an earlier version: %w", err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	shown := crdt.Show(key, fields[0].Values)
	if !shown.Exists || shown.Removed {
		return nil, nil
	}
	return fhir.AppendCanonical(nil, resourceOf(shown.Value)), nil
}

// Delete writes a resource's tombstone.
func (r *Replica) Delete(ctx context.Context, user string, at api.Ref) (api.Written, error) {
	ref := fhirRef{at.Type, at.ID}
	var w api.Written
	err := r.transact(ctx, func(t *transaction) error {
		docs, err := t.documentsOf(ref)
		if err != nil {
			return err
		}
		live := 0
		for _, doc := range docs {
			v, err := t.view(doc, ref.key())
			if err != nil {
				return err
			}
			if v == nil || v.Removed {
				continue
			}
			live++
			if err := t.writable(doc, ref.key()); err != nil {
				return err
			}
			if _, _, err := t.edit(ctx, job{scope: v.Scope, doc: doc, remove: ref.key()}, r.by(user), chunk.OriginDelete); err != nil {
				return err
			}
			if w, err = t.written(doc, ref, "deleted", 0); err != nil {
				return err
			}
		}
		switch {
		case live > 0:
			return nil
		case len(docs) > 0:
			return &api.Error{Code: api.CodeDeleted, Message: ref.key() + " is deleted already"}
		}
		return notFound(ref)
	})
	return w, err
}

func notFound(ref fhirRef) error {
	return &api.Error{Code: api.CodeNotFound, Message: "there is no " + ref.key(), Hint: "`chartmesh find` searches by name, birth date or identifier"}
}
