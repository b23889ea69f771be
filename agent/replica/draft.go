package replica

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A draft becomes final by being made anew in a protected document (docs/spec/protected-documents.md). Who does that notes, by the change that does
// it, which version of the draft that was; once that change is certified, whoever says so first, the draft is removed if that is still its version.

// draft is a resource of an ordinary document that was made anew in a protected one.
type draft struct {
	key   string
	scope trust.ScopeID
	doc   crdt.DocumentID
	heads []crdt.ChangeHash // its version then
}

func marshalDrafts(list []draft) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(len(list)))
	for _, d := range list {
		w.String(d.key)
		w.Raw(d.scope[:])
		w.Raw(d.doc[:])
		putHashes(&w, d.heads)
	}
	return w.Bytes()
}

func parseDrafts(b []byte) (list []draft, err error) {
	r := open(b)
	n := r.Uvarint(crdt.MaxChangeOps)
	if n > uint64(r.Len()) {
		r.Fail("drafts")
		n = 0
	}
	for range n {
		d := draft{key: r.String(maxText)}
		r.Fixed(d.scope[:])
		r.Fixed(d.doc[:])
		d.heads = getHashes(r)
		if r.Err() != nil {
			break
		}
		list = append(list, d)
	}
	return list, r.Close()
}

// loadDrafts reads which drafts are to be removed.
func (d *document) loadDrafts(v storage.Reader) error {
	return v.Scan(storage.Draft.With(d.id), nil, func(key, value []byte) error {
		_, hash, err := storage.Draft.Parse(key)
		if err != nil {
			return err
		}
		d.drafts[hash], err = parseDrafts(value)
		return err
	})
}

// loadDrafts finds the documents for which drafts may have to be removed.
func (r *Replica) loadDrafts(v storage.Reader) error {
	r.drafts = map[crdt.DocumentID]trust.ScopeID{}
	return v.Keys(storage.Draft.All(), nil, func(key []byte) error {
		doc, _, err := storage.Draft.Parse(key)
		for _, s := range r.State().Scopes() {
			if _, protected := LockOf(s.ID, doc); protected {
				r.drafts[doc] = s.ID
			}
		}
		return err
	})
}

// noteDrafts notes what a change makes anew, and what the one did that it writes anew.
func (t *transaction) noteDrafts(d *document, hash crdt.ChangeHash, j job) {
	list := slices.Clone(d.drafts[j.replaces])
	for _, x := range j.drafts {
		if _, in := j.want[x.key]; in {
			list = append(list, x)
		}
	}
	if len(list) > 0 {
		d.drafts[hash] = list
		t.batch.Put(storage.Draft.Key(d.id, hash), marshalDrafts(list))
	}
}

// certifiedDrafts returns the changes that are certified and made drafts final, ascending.
func (d *document) certifiedDrafts() []crdt.ChangeHash {
	return slices.DeleteFunc(slices.SortedFunc(maps.Keys(d.drafts), func(a, b crdt.ChangeHash) int { return bytes.Compare(a[:], b[:]) }), func(h crdt.ChangeHash) bool {
		_, overlaid := d.overlay[h]
		return overlaid || !d.index.Has(h)
	})
}

// removeDrafts removes the drafts of what is certified, unless they are another version by now: then a person sees both.
func (t *transaction) removeDrafts(ctx context.Context, d *document) error {
	for _, hash := range d.certifiedDrafts() {
		m := d.changes[d.byHash[hash]]
		for _, x := range d.drafts[hash] {
			v, err := t.view(x.doc, x.key)
			if err != nil {
				return err
			}
			if v == nil || v.Removed || !slices.Equal(v.Heads, x.heads) {
				continue
			}
			if _, _, err := t.edit(ctx, job{scope: x.scope, doc: x.doc, remove: x.key}, author{m.author, m.timeMillis}, chunk.OriginDelete); err != nil {
				return fmt.Errorf("remove a draft that was made final: %w", err)
			}
		}
		t.docs[d.id] = d
		delete(d.drafts, hash)
		t.batch.Delete(storage.Draft.Key(d.id, hash))
	}
	return nil
}

// removeCertified removes the drafts of what others said to be certified. It is called when everything that arrived has been looked at.
func (r *Replica) removeCertified(ctx context.Context) error {
	for _, doc := range slices.SortedFunc(maps.Keys(r.drafts), func(a, b crdt.DocumentID) int { return bytes.Compare(a[:], b[:]) }) {
		d, err := r.document(r.drafts[doc], doc)
		if err != nil {
			return err
		}
		t := r.begin(ctx)
		if err := t.removeDrafts(ctx, d); err != nil {
			t.abort(ctx)
			if ctx.Err() != nil || t.noLog != nil {
				return err
			}
			r.log.Error("a draft that was made final could not be removed; it is tried again after a restart", "document", doc, "error", err)
		} else if err := t.commit(ctx); err != nil {
			return fmt.Errorf("commit that drafts are removed: %w", err)
		}
		delete(r.drafts, doc)
	}
	return nil
}
