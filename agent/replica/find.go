package replica

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/wire"
)

// A search term's entry holds how the resource is sorted, so that the few that are shown of many thousands are known before
// any of them is read. What is shown is always read from the view: an entry only says where to look, and in which order.

// sortName is how many bytes of a name an entry holds. A longer one is sorted by its beginning until it is read.
const sortName = 64

func marshalTerm(name string) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Blob([]byte(name[:min(len(name), sortName)]))
	return w.Bytes()
}

// parseTerm returns a beginning of the resource's name. Entries of older versions are empty, and say nothing.
func parseTerm(b []byte) (string, error) {
	if len(b) == 0 {
		return "", nil
	}
	r := open(b)
	name := r.Blob(sortName)
	return string(name), r.Close()
}

// few is how many resources are rather read than narrowed down by another word.
const few = 200

// Find returns the resources that every word of text finds, by name, birth date or identifier, sorted by name.
func (r *Replica) Find(ctx context.Context, text string, limit int) ([]api.Match, error) {
	words := fhir.Query(text)
	if len(words) == 0 {
		return nil, &api.Error{Code: api.CodeInvalid, Message: "there is nothing to search for"}
	}
	if limit <= 0 {
		limit = 100
	}
	var matches []api.Match
	err := r.store.View(func(v storage.Reader) error {
		hits, err := findHits(ctx, v, words)
		if err != nil {
			return err
		}
		for len(hits) > 0 && len(matches) < limit {
			h := heap.Pop(&hits).(hit)
			if h.match != nil {
				matches = append(matches, *h.match)
				continue
			}
			// Its entry holds at most a beginning of its name: what it is sorted by in truth is no less.
			if h.match, err = readMatch(v, h.ref, words); err != nil {
				return err
			}
			if h.match != nil {
				h.name = h.match.Name
				heap.Push(&hits, h)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find: %w", err)
	}
	return matches, nil
}

// findHits returns the resources that may have every word among their terms, as a heap.
func findHits(ctx context.Context, v storage.Reader, words []string) (hits, error) {
	// The longest word is likely the rarest.
	slices.SortStableFunc(words, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var found map[fhirRef]string
	for i, word := range words {
		if i > 0 && len(found) <= few {
			break
		}
		now := map[fhirRef]string{}
		err := v.Scan(storage.Term.Beginning(word), nil, func(key, value []byte) error {
			_, typ, id, err := storage.Term.Parse(key)
			if err != nil {
				return err
			}
			ref := fhirRef{typ, id}
			if _, again := now[ref]; again {
				return nil
			}
			if _, before := found[ref]; i > 0 && !before {
				return nil
			}
			if now[ref], err = parseTerm(value); err != nil {
				return fmt.Errorf("read search term: %w", err)
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
		found = now
	}
	all := make(hits, 0, len(found))
	for ref, name := range found {
		all = append(all, hit{name: name, key: ref.key(), ref: ref})
	}
	heap.Init(&all)
	return all, nil
}

// readMatch returns what is shown of a resource; nil if not every word finds it.
func readMatch(v storage.Reader, ref fhirRef, words []string) (*api.Match, error) {
	w, err := locateView(v, ref)
	if err != nil || w.Removed {
		return nil, err
	}
	obj, err := fhir.Parse(w.JSON)
	if err != nil {
		return nil, err
	}
	if !matchesAll(fhir.Terms(obj), words) {
		return nil, nil
	}
	name, born, ids := fhir.Summary(obj)
	return &api.Match{Ref: ref.key(), Name: name, BirthDate: born, Identifier: ids}, nil
}

func matchesAll(have, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h string) bool { return len(h) >= len(w) && h[:len(w)] == w }) {
			return false
		}
	}
	return true
}

// hit is a resource that may match, or, with match, does.
type hit struct {
	name  string // a beginning of match.Name, or match.Name
	key   string
	ref   fhirRef
	match *api.Match
}

// hits is a heap of them by name, and by Type/id where names are alike.
type hits []hit

func (h hits) Len() int { return len(h) }
func (h hits) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].name, h[j].name), cmp.Compare(h[i].key, h[j].key)) < 0
}
func (h hits) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *hits) Push(x any)   { *h = append(*h, x.(hit)) }
func (h *hits) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// termsAtOnce bounds one commit of nameTerms.
const termsAtOnce = 10_000

// nameTerms gives the entries of a folder that an older version wrote their names. The first of all is done last, so that it
// tells of a folder whether there is anything left to do.
func (r *Replica) nameTerms(ctx context.Context) error {
	first, err := r.unnamedTerms(nil, 1)
	if err != nil || len(first) == 0 {
		return err
	}
	began, total := time.Now(), 0
	names := map[fhirRef]string{}
	name := func(keys [][]byte) error {
		var b storage.Batch
		err := r.store.View(func(v storage.Reader) error {
			for _, key := range keys {
				_, typ, id, err := storage.Term.Parse(key)
				if err != nil {
					return err
				}
				ref := fhirRef{typ, id}
				if _, known := names[ref]; !known {
					names[ref] = nameOf(v, ref)
				}
				b.Put(key, marshalTerm(names[ref]))
			}
			return nil
		})
		if err != nil {
			return err
		}
		total += len(keys)
		return r.store.Commit(ctx, &b)
	}
	for from := append(slices.Clone(first[0]), 0); ; {
		keys, err := r.unnamedTerms(from, termsAtOnce)
		if err == nil && len(keys) > 0 {
			err = name(keys)
		}
		if err != nil {
			return fmt.Errorf("name search terms: %w", err)
		}
		if len(keys) < termsAtOnce {
			break
		}
		from = append(slices.Clone(keys[len(keys)-1]), 0)
	}
	if err := name(first); err != nil {
		return fmt.Errorf("name search terms: %w", err)
	}
	r.log.Info("named the search terms of an older version", "terms", total, "took", time.Since(began))
	return nil
}

// unnamedTerms returns the keys of entries without a name, ascending, at most so many. From nil it looks at the first alone.
func (r *Replica) unnamedTerms(from []byte, most int) (keys [][]byte, err error) {
	err = r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Term.All(), from, func(key, value []byte) error {
			if len(value) == 0 {
				keys = append(keys, slices.Clone(key))
			}
			if from == nil || len(keys) == most {
				return storage.ErrStop
			}
			return nil
		})
	})
	return keys, err
}

// nameOf returns a resource's name, or nothing, which is a beginning of every name, where it cannot be read: who reads the
// resource hears why.
func nameOf(v storage.Reader, ref fhirRef) string {
	w, err := locateView(v, ref)
	if err != nil || w.Removed {
		return ""
	}
	obj, err := fhir.Parse(w.JSON)
	if err != nil {
		return ""
	}
	name, _, _ := fhir.Summary(obj)
	return name
}
