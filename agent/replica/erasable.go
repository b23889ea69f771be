package replica

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
)

// What an order to erase would name, before anybody gives it.

// maxNotes bounds what is listed as staying, or as standing against an order.
const maxNotes = 50

// An order names so many runs, and so many chunks, at most: as a checkpoint does. Variables for tests.
var (
	maxOrderedRuns   = chunk.MaxRuns
	maxOrderedChunks = chunk.MaxParts
)

// erasable is what an order would name: documents of which chunks are here.
type erasable struct {
	r       *Replica
	patient string // whose chart it is; "": one resource's document, or what came late
	docs    map[crdt.DocumentID]*ordered
	tags    map[chunk.Tag]crdt.DocumentID
	api.ErasurePlan
}

// ordered is one document of them.
type ordered struct {
	scope  trust.ScopeID
	links  links
	packs  map[spot]*packedAt
	words  map[spot]chunk.Sealed // on checkpoints, which need not be among them
	chunks uint64                // that no agreed order names
}

// PlanErasure says what an order would name, and what stands against it.
func (r *Replica) PlanErasure(_ context.Context, req api.ErasureRequest) (api.ErasurePlan, error) {
	var x *erasable
	err := r.store.View(func(v storage.Reader) (err error) {
		x, err = r.erasable(v, req)
		return err
	})
	if err != nil {
		return api.ErasurePlan{}, err
	}
	return x.ErasurePlan, nil
}

// erasable gathers what an order would name.
func (r *Replica) erasable(v storage.Reader, req api.ErasureRequest) (*erasable, error) {
	x := &erasable{r: r, docs: map[crdt.DocumentID]*ordered{}, tags: map[chunk.Tag]crdt.DocumentID{}}
	x.Alone = !slices.ContainsFunc(r.State().Members(), func(m trust.Member) bool { return m.Role == trust.RoleAdmin && m.Device != r.Device() })
	var err error
	switch ref := (fhirRef{req.Resource.Type, req.Resource.ID}); {
	case req.Again != "":
		err = x.again(v, req.Again)
	case ref.typ == "Patient":
		x.patient = ref.id
		err = x.chart(v, ref)
	default:
		err = x.resource(v, ref)
	}
	if err == nil {
		err = x.scan(v)
	}
	if err == nil {
		err = x.look(v)
	}
	if err != nil {
		return nil, err
	}
	if x.Chunks == 0 {
		if req.Again != "" {
			return nil, &api.Error{Code: api.CodeNotFound, Message: "nothing has come of it since it was erased"}
		}
		return nil, notFound(fhirRef{req.Resource.Type, req.Resource.ID})
	}
	return x, nil
}

// add names a document that is to be erased.
func (x *erasable) add(scope trust.ScopeID, doc crdt.DocumentID) error {
	if x.docs[doc] != nil {
		return nil
	}
	tag, err := x.r.keys.Tag(scope, doc)
	if err != nil {
		return fmt.Errorf("name a document to erase: %w", err)
	}
	x.docs[doc], x.tags[tag] = &ordered{scope: scope, links: links{}, packs: map[spot]*packedAt{}, words: map[spot]chunk.Sealed{}}, doc
	return nil
}

// chart names every document of a patient's chart that there can be, and those of resources that are shown as theirs and stand alone.
func (x *erasable) chart(v storage.Reader, ref fhirRef) error {
	reads := map[string]trust.ScopeID{}
	for _, name := range []string{fhir.Clinical, fhir.Billing} {
		scope, err := x.r.scope(name)
		if err != nil {
			return err
		}
		if !x.r.State().MayRead(x.r.Device(), scope) {
			x.stays("", "what the scope "+name+" has of it, which this device does not read; an administrator whose device does can erase that")
			continue
		}
		reads[name] = scope
	}
	for _, p := range fhir.Chart(ref.id) {
		scope, ok := reads[p.Scope]
		if !ok {
			continue
		}
		doc, err := x.r.keys.DocumentID(scope, "section", p.Patient, p.Section)
		if err == nil {
			err = x.add(scope, doc)
		}
		if err != nil {
			return err
		}
	}
	return v.Keys(storage.OfPatient.With(ref.id), nil, func(key []byte) error {
		_, typ, id, err := storage.OfPatient.Parse(key)
		if err != nil {
			return err
		}
		return x.holders(v, fhirRef{typ, id})
	})
}

// resource names the document of a resource that is in no chart.
func (x *erasable) resource(v storage.Reader, ref fhirRef) error {
	if err := x.holders(v, ref); err != nil {
		return err
	}
	switch {
	case len(x.docs) > 0:
		return nil
	case len(x.Stays) > 0:
		return &api.Error{Code: api.CodeInvalid, Message: ref.key() + " cannot be erased by itself: " + x.Stays[0].Note, Hint: "`chartmesh delete` removes it from what is shown"}
	}
	return notFound(ref)
}

// holders names the document that holds a resource and nothing else, if there is one, and says what stays.
func (x *erasable) holders(v storage.Reader, ref fhirRef) error {
	docs, err := readDocumentsOf(v, ref)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		if x.docs[doc] != nil {
			continue
		}
		w, err := readView(v, doc, ref.key())
		if err != nil || w == nil {
			return cmp.Or(err, storage.ErrDamaged)
		}
		if _, protected := LockOf(w.Scope, doc); protected {
			x.stays(ref.key(), "it stands in a protected document, with those of others, and there are duties to keep it")
			continue
		}
		own, err := x.r.keys.DocumentID(w.Scope, "resource", ref.typ, ref.id)
		if err != nil {
			return fmt.Errorf("name a document to erase: %w", err)
		}
		if doc != own {
			x.stays(ref.key(), "it stands in a chart, which is erased as a whole with its patient")
			continue
		}
		if err := x.add(w.Scope, doc); err != nil {
			return err
		}
	}
	return nil
}

// again names the documents of an earlier erasure.
func (x *erasable) again(v storage.Reader, id string) error {
	group, err := findErasure(v, id)
	if err != nil {
		return err
	}
	for _, e := range group {
		if e.state == erasureOrdered {
			return &api.Error{Code: api.CodeInvalid, Message: "nobody has agreed to that erasure yet", Hint: "agree to it first: chartmesh erase agree " + heldName(group[0].place.ID)}
		}
		if err := x.add(e.scope, e.document); err != nil {
			return err
		}
	}
	return nil
}

func (x *erasable) stays(resource, note string) { note1(&x.Stays, resource, note) }

func (x *erasable) against(resource, note string) { note1(&x.Against, resource, note) }

func note1(list *[]api.ErasureNote, resource, note string) {
	if n := (api.ErasureNote{Resource: resource, Note: note}); len(*list) < maxNotes && !slices.Contains(*list, n) {
		*list = append(*list, n)
	}
}

// scan finds the chunks of the documents, by their tags: also those that nobody could open or apply.
func (x *erasable) scan(v storage.Reader) error {
	if err := v.Scan(storage.Branch.All(), nil, func(_, value []byte) error {
		if sealed, err := chunk.Parse(value); err == nil && x.docs[x.tags[sealed.Header().Tag]] != nil {
			x.against("", "chunks of it stand in a log with several histories, of a folder that was copied or put back: such cannot be erased yet")
		}
		return nil
	}); err != nil {
		return fmt.Errorf("look for what is to be erased: %w", err)
	}
	if err := v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
		sealed, err := chunk.Parse(bytes.Clone(value))
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
		}
		h := sealed.Header()
		d := x.docs[x.tags[h.Tag]]
		if d == nil || d.scope != h.Scope {
			return nil
		}
		if h.Counter > x.r.logs.Position(h.Scope, sealed.Log()).Counter {
			x.against("", "chunks of it are here that their log does not reach yet: wait until this device is in sync")
			return nil
		}
		switch at := (spot{sealed.Log(), h.Counter}); h.Kind {
		case chunk.KindCover:
			d.words[at] = sealed
		case chunk.KindCheckpoint:
			d.packs[at] = &packedAt{sealed: sealed}
		case chunk.KindChanges:
			d.links[at] = linkOf(sealed)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("look for what is to be erased: %w", err)
	}
	for _, doc := range sortedKeys(x.docs) {
		d := x.docs[doc]
		changes := maps.Clone(d.links)
		if err := d.addPacks(v); err != nil {
			return fmt.Errorf("look for what is to be erased: %w", err)
		}
		for at, w := range d.words {
			on, _, err := w.Verdict()
			if l, ok := d.links[spot{on.Log, on.Counter}]; err == nil && ok && l.tip == chunk.At(on.Counter, on.ID).Tip {
				d.links[at] = linkOf(w)
			}
		}
		if len(d.links) > maxOrderedChunks || len(d.links.covers()) > maxOrderedRuns {
			d.shorten(changes)
			x.stays("", "what is more of a document than one order names; it is late once this is agreed, and ordered with --again")
		}
		if len(d.links) == 0 {
			delete(x.docs, doc)
		}
	}
	return nil
}

// shorten leaves as many as an order names of some chunks with changes, the first of them, and nothing else: no order names a checkpoint without all that it stands for.
func (d *ordered) shorten(changes links) {
	runs, last := 0, spot{}
	d.links = links{}
	for _, at := range changes.spots() {
		if last.log != at.log || last.counter+1 != at.counter {
			runs++
		}
		if last = at; runs > maxOrderedRuns || len(d.links) == maxOrderedChunks {
			return
		}
		d.links[at] = changes[at]
	}
}

func sortedKeys(docs map[crdt.DocumentID]*ordered) []crdt.DocumentID {
	list := make([]crdt.DocumentID, 0, len(docs))
	for doc := range docs {
		list = append(list, doc)
	}
	slices.SortFunc(list, func(a, b crdt.DocumentID) int { return bytes.Compare(a[:], b[:]) })
	return list
}

// look counts what would go, and finds what stands against it: what is somebody else's.
func (x *erasable) look(v storage.Reader) error {
	x.Resources = map[string]int{}
	for _, doc := range sortedKeys(x.docs) {
		o := x.docs[doc]
		d := document{id: doc}
		if err := d.loadErased(v); err != nil {
			return err
		}
		for at, l := range o.links {
			if !slices.ContainsFunc(d.erased, func(covers chunk.Covers) bool {
				run, ok := covers.Find(at.log, at.counter)
				tip, within := run.TipAt(at.counter)
				return ok && within && tip == l.tip
			}) {
				o.chunks++
			}
		}
		if o.chunks == 0 {
			delete(x.docs, doc)
			continue
		}
		x.Documents, x.Chunks = x.Documents+1, x.Chunks+o.chunks
		if err := x.lookIn(v, doc); err != nil {
			return err
		}
	}
	return nil
}

func (x *erasable) lookIn(v storage.Reader, doc crdt.DocumentID) error {
	return v.Scan(storage.ResourceIn.With(doc), nil, func(key, value []byte) error {
		_, root, err := storage.ResourceIn.Parse(key)
		if err != nil {
			return err
		}
		w, err := parseView(value)
		if err != nil || w.Removed {
			return err
		}
		typ, _, _ := strings.Cut(root, "/")
		x.Resources[typ]++
		if x.patient == "" {
			return nil
		}
		if obj, err := fhir.Parse(w.JSON); err == nil && fhir.Place(obj).Patient != x.patient {
			x.against(root, "it stands in this chart and is not, or not only, this patient's: write it anew under another id, and delete it here")
		}
		return nil
	})
}
