package replica

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
)

// located is a resource as it stands in one document.
type located struct {
	doc crdt.DocumentID
	*view
}

func locateView(v storage.Reader, ref fhirRef) (located, error) {
	docs, err := readDocumentsOf(v, ref)
	if err != nil {
		return located{}, err
	}
	var views []located
	for _, doc := range docs {
		w, err := readView(v, doc, ref.key())
		if err != nil {
			return located{}, err
		}
		if w != nil {
			views = append(views, located{doc, w})
		}
	}
	if len(views) == 0 {
		return located{}, notFound(ref)
	}
	inOrder(views)
	return views[shownOf(views)], nil
}

// Get returns a resource as it stands, or as it was in one of its versions.
func (r *Replica) Get(ctx context.Context, at api.Ref, version string) (api.Resource, error) {
	ref := fhirRef{at.Type, at.ID}
	var found located
	var pending bool
	err := r.store.View(func(v storage.Reader) (err error) {
		if found, err = locateView(v, ref); err != nil {
			return err
		}
		pending, err = uncommitted(v, found.Scope, found.doc, ref.key())
		return err
	})
	if err != nil {
		return api.Resource{}, err
	}
	current := crdt.Version(found.Heads)
	if version != "" && version != current {
		return r.getVersion(ctx, found, ref, version)
	}
	if found.Removed {
		return api.Resource{}, &api.Error{Code: api.CodeDeleted, Message: ref.key() + " was deleted",
			Hint: "`chartmesh history " + ref.key() + "` shows its versions"}
	}
	res := api.Resource{Ref: at, Version: current, Updated: time.UnixMilli(found.UpdatedMillis).UTC(), Conflicts: len(found.Conflicts), Uncommitted: pending}
	if res.Newer, err = r.newerNow(ctx, found.doc, ref.key()); err != nil {
		return api.Resource{}, err
	}
	res.JSON, err = withMeta(found.JSON, current, res.Updated)
	return res, err
}

func withMeta(json []byte, version string, updated time.Time) ([]byte, error) {
	obj, err := fhir.Parse(json)
	if err != nil {
		return nil, fmt.Errorf("read stored resource: %w", err)
	}
	return fhir.AppendCanonical(nil, fhir.SetMeta(obj, version, updated)), nil
}

func (r *Replica) getVersion(ctx context.Context, found located, ref fhirRef, version string) (api.Resource, error) {
	r.write.Lock()
	defer r.write.Unlock()
	defer r.evict(ctx)
	d, err := r.document(found.Scope, found.doc)
	if err != nil {
		return api.Resource{}, err
	}
	heads, ok := d.index.ResolveVersion(ref.key(), version)
	if !ok {
		return api.Resource{}, &api.Error{Code: api.CodeNotFound, Message: ref.key() + " has no such version here",
			Hint: "`chartmesh history " + ref.key() + "` lists them"}
	}
	content, err := r.contentAt(ctx, d, ref.key(), heads)
	if err != nil {
		return api.Resource{}, err
	}
	if content == nil {
		return api.Resource{}, &api.Error{Code: api.CodeDeleted, Message: ref.key() + " was deleted in this version"}
	}
	updated := authored(d.changes[d.byHash[heads[0]]].timeMillis)
	res := api.Resource{Ref: api.Ref{Type: ref.typ, ID: ref.id}, Version: version, Updated: updated}
	res.JSON, err = withMeta(content, version, updated)
	return res, err
}

// historyAtOnce is how many revisions are read before edits get their turn: each makes the engine look back.
const historyAtOnce = 16

// History returns every change of a resource, oldest first, each with the resource as its author left it, which the older
// ones lack where that is more than MaxHistory.
func (r *Replica) History(ctx context.Context, at api.Ref) ([]api.Revision, error) {
	ref := fhirRef{at.Type, at.ID}
	places, err := r.touches(ref)
	if err != nil {
		return nil, err
	}
	var revisions []api.Revision
	holders := r.holders()
	size, whole := 0, 0 // of the resources from revisions[whole] on
	for _, p := range places {
		for part := range slices.Chunk(p.changes, historyAtOnce) {
			known := len(revisions)
			if revisions, err = r.appendRevisions(ctx, revisions, p, ref, part, holders); err != nil {
				return nil, err
			}
			for _, rev := range revisions[known:] {
				size += len(rev.JSON)
			}
			// Whoever writes a large resource often must not have a look at it take all memory.
			for ; size > api.MaxHistory; whole++ {
				old := &revisions[whole]
				size -= len(old.JSON)
				old.JSON, old.Omitted = nil, old.JSON != nil
			}
		}
	}
	return revisions, nil
}

// touched is what touched a resource in one document.
type touched struct {
	located
	changes []crdt.ChangeHash
	chunks  []logs.Ref // that each came in
}

func (r *Replica) touches(ref fhirRef) (places []touched, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	err = r.store.View(func(v storage.Reader) error {
		docs, err := readDocumentsOf(v, ref)
		if err != nil {
			return err
		}
		for _, doc := range docs {
			w, err := readView(v, doc, ref.key())
			if err != nil {
				return err
			}
			if w != nil {
				places = append(places, touched{located: located{doc, w}})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		return nil, notFound(ref)
	}
	for i, p := range places {
		d, err := r.document(p.Scope, p.doc)
		if err != nil {
			return nil, err
		}
		places[i].changes = d.index.Touched(ref.key())
		for _, hash := range places[i].changes {
			places[i].chunks = append(places[i].chunks, d.changes[d.byHash[hash]].chunk)
		}
	}
	return places, nil
}

func (r *Replica) appendRevisions(
	ctx context.Context, to []api.Revision, p touched, ref fhirRef, changes []crdt.ChangeHash, holders func(logs.Ref) api.Stored,
) ([]api.Revision, error) {
	r.write.Lock()
	defer r.write.Unlock()
	defer r.evict(ctx)
	d, err := r.document(p.Scope, p.doc)
	if err != nil {
		return nil, err
	}
	for _, hash := range changes {
		content, err := r.contentAt(ctx, d, ref.key(), []crdt.ChangeHash{hash})
		if err != nil {
			return nil, err
		}
		m := d.changes[d.byHash[hash]]
		device, site := r.names(m.device)
		rev := api.Revision{
			Version: crdt.Version([]crdt.ChangeHash{hash}), Time: authored(m.timeMillis), Author: m.author,
			Device: device, Site: site, Origin: originName(m.origin), Deleted: content == nil,
			Anew: d.replacedIn(hash), Stored: holders(m.chunk),
		}
		if content != nil {
			if rev.JSON, err = withMeta(content, rev.Version, rev.Time); err != nil {
				return nil, err
			}
		}
		to = append(to, rev)
	}
	return to, nil
}

func originName(o chunk.Origin) string {
	switch o {
	case chunk.OriginImport:
		return "import"
	case chunk.OriginDecision:
		return "decision"
	case chunk.OriginDelete:
		return "delete"
	}
	return "edit"
}

// Export writes resources as canonical JSON, sorted by type and id.
func (r *Replica) Export(ctx context.Context, out io.Writer, opts api.ExportOptions) error {
	w := bufio.NewWriterSize(out, 1<<16)
	bundle := opts.Format == "bundle"
	if bundle {
		w.WriteString(`{"entry":[`)
	}
	first := true
	err := r.store.View(func(v storage.Reader) error {
		return eachResource(v, opts.Patient, func(ref fhirRef) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			found, err := locateView(v, ref)
			if err != nil || found.Removed {
				return err
			}
			json := found.JSON
			if opts.Meta {
				if json, err = withMeta(json, crdt.Version(found.Heads), time.UnixMilli(found.UpdatedMillis).UTC()); err != nil {
					return err
				}
			}
			switch {
			case bundle && first:
				w.WriteString(`{"resource":`)
			case bundle:
				w.WriteString(`,{"resource":`)
			}
			first = false
			w.Write(json)
			if bundle {
				w.WriteByte('}')
			} else {
				w.WriteByte('\n')
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if bundle {
		w.WriteString(`],"resourceType":"Bundle","type":"collection"}` + "\n")
	}
	return w.Flush()
}

// eachResource calls fn for every resource, or those of a patient's chart, sorted by type and id.
func eachResource(v storage.Reader, patient string, fn func(fhirRef) error) error {
	if patient != "" {
		n := 0
		err := v.Scan(storage.OfPatient.With(patient), nil, func(key, _ []byte) error {
			_, typ, id, err := storage.OfPatient.Parse(key)
			if err != nil {
				return err
			}
			n++
			return fn(fhirRef{typ, id})
		})
		if err == nil && n == 0 {
			return notFound(fhirRef{"Patient", patient})
		}
		return err
	}
	var last fhirRef
	return v.Scan(storage.DocumentsOf.All(), nil, func(key, _ []byte) error {
		typ, id, _, err := storage.DocumentsOf.Parse(key)
		if err != nil {
			return err
		}
		ref := fhirRef{typ, id}
		if ref == last { // one of several documents
			return nil
		}
		last = ref
		return fn(ref)
	})
}

// authored is an author's time as JSON can say it: years 1 to 9999. An author may claim any.
func authored(millis int64) time.Time {
	const first, last = -62135596800_000, 253402300799_999
	return time.UnixMilli(min(max(millis, first), last)).UTC()
}

func conflictName(id [16]byte) string { return hex.EncodeToString(id[:]) }

// Conflicts lists every open conflict, by resource.
func (r *Replica) Conflicts(ctx context.Context) ([]api.Conflict, error) {
	type place struct {
		doc crdt.DocumentID
		key string
	}
	var list []api.Conflict
	err := r.store.View(func(v storage.Reader) error {
		// A resource may have very many: what is shown of it, which holds them all, is read once and not for each.
		places := map[place][][16]byte{}
		err := v.Scan(storage.Conflict.All(), nil, func(key, value []byte) error {
			id, err := storage.Conflict.Parse(key)
			if err != nil {
				return err
			}
			doc, of, err := parseConflictPlace(value)
			places[place{doc, of}] = append(places[place{doc, of}], id)
			return err
		})
		if err != nil {
			return err
		}
		for at, ids := range places {
			if err := ctx.Err(); err != nil {
				return err
			}
			if at.doc == (crdt.DocumentID{}) {
				for _, id := range ids {
					c, _, err := r.readDuplicate(v, id, at.key)
					if err != nil {
						return err
					}
					list = append(list, c)
				}
				continue
			}
			w, err := readView(v, at.doc, at.key)
			if err != nil {
				return err
			}
			open := map[[16]byte]openConflict{}
			if w != nil {
				for _, c := range w.Conflicts {
					open[c.ID] = c
				}
			}
			for _, id := range ids {
				c, ok := open[id]
				if !ok {
					return errNoSuchConflict
				}
				list = append(list, r.apiConflict(at.key, c))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list conflicts: %w", err)
	}
	slices.SortFunc(list, func(a, b api.Conflict) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Path, b.Path), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

var errNoSuchConflict = fmt.Errorf("%w: a conflict that its resource does not have", storage.ErrDamaged)

func (r *Replica) readConflict(v storage.Reader, id [16]byte, value []byte) (api.Conflict, located, error) {
	doc, key, err := parseConflictPlace(value)
	if err != nil {
		return api.Conflict{}, located{}, err
	}
	if doc == (crdt.DocumentID{}) {
		return r.readDuplicate(v, id, key)
	}
	w, err := readView(v, doc, key)
	if err != nil {
		return api.Conflict{}, located{}, err
	}
	if w != nil {
		for _, c := range w.Conflicts {
			if c.ID == id {
				return r.apiConflict(key, c), located{doc, w}, nil
			}
		}
	}
	return api.Conflict{}, located{}, errNoSuchConflict
}

func (r *Replica) apiConflict(key string, c openConflict) api.Conflict {
	out := api.Conflict{ID: conflictName(c.ID), Resource: key, Path: c.Path, Shown: c.Shown}
	for _, s := range c.Sides {
		device, site := r.names(s.Device)
		out.Values = append(out.Values, api.ConflictValue{
			Value: s.JSON, Removed: s.Removed, Author: s.Author, Device: device, Site: site, Time: authored(s.TimeMillis),
		})
	}
	return out
}

// Conflict returns one open conflict by its ID or an unambiguous beginning of it.
func (r *Replica) Conflict(_ context.Context, name string) (api.Conflict, error) {
	var c api.Conflict
	err := r.store.View(func(v storage.Reader) error {
		id, value, err := findConflict(v, name)
		if err != nil {
			return err
		}
		c, _, err = r.readConflict(v, id, value)
		return err
	})
	return c, err
}

func findConflict(v storage.Reader, name string) (id [16]byte, place []byte, err error) {
	none := &api.Error{Code: api.CodeNotFound, Message: "there is no such open conflict", Hint: "`chartmesh conflict list` shows them"}
	prefix, err := hex.DecodeString(name[:len(name)&^1])
	if err != nil || len(name) < 4 || len(name) > 32 {
		return id, nil, none
	}
	n := 0
	err = v.Scan(append(storage.Conflict.All(), prefix...), nil, func(key, value []byte) error {
		found, err := storage.Conflict.Parse(key)
		if err != nil || conflictName(found)[:len(name)] != name {
			return err
		}
		n++
		id, place = found, bytes.Clone(value)
		return nil
	})
	switch {
	case err != nil:
		return id, nil, err
	case n == 0:
		return id, nil, none
	case n > 1:
		return id, nil, &api.Error{Code: api.CodeInvalid, Message: "several conflicts begin so", Hint: "give more of the id"}
	}
	return id, place, nil
}
