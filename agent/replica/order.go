package replica

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
)

// How a person orders an erasure, agrees to one, and sees what came of it.

// OrderErasure orders an erasure; root is the root key's agreement to an order, nil where another administrator is to agree.
func (r *Replica) OrderErasure(ctx context.Context, user string, req api.ErasureRequest, root func(chunk.ID) chunk.RootWord) (api.Erasure, error) {
	if err := r.mayErase(); err != nil {
		return api.Erasure{}, err
	}
	// All chunks are looked through, which no edit waits for: what is written meanwhile is not named, and late.
	var x *erasable
	if err := r.store.View(func(v storage.Reader) (err error) {
		x, err = r.erasable(v, req)
		return err
	}); err != nil {
		return api.Erasure{}, err
	}
	if len(x.Against) > 0 {
		return api.Erasure{}, &api.Error{Code: api.CodeInvalid, Message: "it cannot be erased: " + x.Against[0].Note, Hint: "`chartmesh erase plan` lists all that stands against it"}
	}
	first := ""
	err := r.transact(ctx, func(t *transaction) error {
		by := r.by(user)
		for _, doc := range sortedKeys(x.docs) {
			body := &chunk.Erasure{Document: doc, Covers: x.docs[doc].links.covers(), TimeMillis: by.timeMillis, User: by.name, Reason: req.Reason}
			_, sealed, err := t.seal(x.docs[doc].scope, body)
			if err != nil {
				return fmt.Errorf("order an erasure: %w", err)
			}
			first = cmp.Or(first, orderName(sealed.ID()))
			if h, err := t.takeErasure(ctx, sealed, body); err != nil || h != nil {
				return cmp.Or(err, errors.New("this device's own order does not count"))
			}
		}
		return nil
	})
	if err != nil {
		return api.Erasure{}, err
	}
	if root != nil {
		return r.AgreeErasure(ctx, user, first, root)
	}
	return r.showErasure(first)
}

// mayErase refuses unless this device is an administrator's.
func (r *Replica) mayErase() error {
	if m, ok := r.State().Member(r.Device()); !ok || m.Role != trust.RoleAdmin {
		return &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device may do that", Hint: "see chartmesh peer list for one"}
	}
	return nil
}

// AgreeErasure agrees to an order, a document in each commit, so that it can be gone on with where it was cut short. It returns when what it erases is not shown any more, and what of
// it is here is deleted.
func (r *Replica) AgreeErasure(ctx context.Context, user, id string, root func(chunk.ID) chunk.RootWord) (api.Erasure, error) {
	if err := r.mayErase(); err != nil {
		return api.Erasure{}, err
	}
	var group []*erasure
	if err := r.store.View(func(v storage.Reader) (err error) {
		if group, err = findErasure(v, id); err == nil {
			err = r.mayAgree(v, group, root != nil)
		}
		return err
	}); err != nil {
		return api.Erasure{}, err
	}
	by := r.by(user)
	for _, e := range group {
		if e.state != erasureOrdered {
			continue
		}
		if err := r.transact(ctx, func(t *transaction) error {
			body := &chunk.Assent{Document: e.document, Erasure: e.place, TimeMillis: by.timeMillis, User: by.name}
			if root != nil {
				body.Root = root(e.place.ID)
			}
			_, sealed, err := t.seal(e.scope, body)
			if err != nil {
				return fmt.Errorf("agree to an erasure: %w", err)
			}
			_, err = t.takeAssent(ctx, sealed, body)
			return err
		}); err != nil {
			return api.Erasure{}, err
		}
	}
	if err := r.settle(ctx); err != nil {
		return api.Erasure{}, err
	}
	return r.showErasure(id)
}

// mayAgree holds an order against what this device has of its documents: who agrees vouches for it.
func (r *Replica) mayAgree(v storage.Reader, group []*erasure, rooted bool) error {
	refuse := func(message, hint string) error {
		return &api.Error{Code: api.CodeInvalid, Message: message, Hint: hint}
	}
	open := slices.DeleteFunc(slices.Clone(group), func(e *erasure) bool { return e.state != erasureOrdered })
	if len(open) == 0 {
		return refuse("somebody has agreed to it already", "see chartmesh erase list")
	}
	patients := map[string]bool{}
	for _, e := range open {
		if err := patientsIn(v, e.document, patients); err != nil {
			return err
		}
		if len(patients) > 1 {
			return refuse("what was ordered is not of one patient alone; do not agree to it", "ask who gave it: chartmesh erase list")
		}
		if !r.State().WasAdministrator(e.by.device) {
			return refuse("who ordered it is no administrator, so that it never counts", "somebody who is has to order it: chartmesh erase order")
		}
		if e.by.device == r.Device() && !rooted {
			return refuse("who ordered an erasure cannot agree to it", "another administrator agrees on their device, or you with the recovery code: --recovery")
		}
		order, err := logs.ReadAt(v, e.scope, e.place)
		if err != nil {
			return fmt.Errorf("read order to erase: %w", err)
		}
		covers, err := order.Covers()
		if err != nil {
			return err
		}
		for _, run := range covers {
			if !r.reached(e.scope, run.Log, run.To) {
				return refuse("this device does not have all that the order names, and cannot vouch for it yet", "wait until it is in sync: chartmesh status")
			}
		}
		switch err := logs.FitsErasure(v, order); {
		case errors.Is(err, logs.ErrCoversWrongly), errors.Is(err, logs.ErrOtherHistory):
			return refuse("the order names what is not of its document; do not agree to it", "ask who gave it: chartmesh erase list")
		case errors.Is(err, storage.ErrNotFound), errors.Is(err, logs.ErrNotHeld):
			return refuse("this device does not have all that the order names, and cannot vouch for it yet", "wait until it is in sync: chartmesh status")
		case err != nil:
			return err
		}
	}
	return nil
}

// patientsIn adds whose the live resources of a document are; "": nobody's alone.
func patientsIn(v storage.Reader, doc crdt.DocumentID, patients map[string]bool) error {
	return v.Scan(storage.ResourceIn.With(doc), nil, func(_, value []byte) error {
		w, err := parseView(value)
		if err != nil || w.Removed {
			return err
		}
		obj, err := fhir.Parse(w.JSON)
		if err == nil {
			patients[fhir.Place(obj).Patient] = true
		}
		return err
	})
}

func orderName(id chunk.ID) string { return hex.EncodeToString(id[:]) }

// findErasure returns the orders that were given together, by the beginning of the ID of one of them.
func findErasure(v storage.Reader, id string) ([]*erasure, error) {
	groups, err := readErasures(v)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(groups, func(g []*erasure) bool {
		return id == "" || !slices.ContainsFunc(g, func(e *erasure) bool { return strings.HasPrefix(orderName(e.place.ID), id) })
	})
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no erasure has this id", Hint: "see chartmesh erase list"}
	}
	return nil, &api.Error{Code: api.CodeInvalid, Message: "several erasures begin so", Hint: "give more of the id"}
}

// readErasures returns all orders, those that were given together in a group, the newest group first.
func readErasures(v storage.Reader) (groups [][]*erasure, err error) {
	type given struct {
		by     agreement
		reason string
	}
	byGiven := map[given][]*erasure{}
	if err := v.Scan(storage.Erasure.All(), nil, func(key, value []byte) error {
		document, _, err := storage.Erasure.Parse(key)
		if err != nil {
			return err
		}
		e, err := parseErasure(document, value)
		if err == nil {
			byGiven[given{e.by, e.reason}] = append(byGiven[given{e.by, e.reason}], e)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("read erasures: %w", err)
	}
	for _, g := range byGiven {
		slices.SortFunc(g, func(a, b *erasure) int { return bytes.Compare(a.place.ID[:], b.place.ID[:]) })
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b []*erasure) int {
		return cmp.Or(-cmp.Compare(a[0].by.timeMillis, b[0].by.timeMillis), bytes.Compare(a[0].place.ID[:], b[0].place.ID[:]))
	})
	return groups, nil
}

// worthlessLast puts orders last that never count, since no administrator gave them, and some of them alone: a member's bent program can give any number.
func (r *Replica) worthlessLast(groups [][]*erasure) [][]*erasure {
	st, worthless := r.State(), [][]*erasure(nil)
	groups = slices.DeleteFunc(groups, func(g []*erasure) bool {
		never := !st.WasAdministrator(g[0].by.device)
		if never && len(worthless) < maxNotes {
			worthless = append(worthless, g)
		}
		return never
	})
	return append(groups, worthless...)
}

// Erasures lists what was ordered, the newest first, and last what never counts.
func (r *Replica) Erasures(context.Context) (list []api.Erasure, err error) {
	err = r.store.View(func(v storage.Reader) error {
		groups, err := readErasures(v)
		if err != nil {
			return err
		}
		late, err := lateOf(v)
		if err != nil {
			return err
		}
		for _, g := range r.worthlessLast(groups) {
			e, err := r.shown(v, g, late)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list erasures: %w", err)
	}
	return list, nil
}

func (r *Replica) showErasure(id string) (e api.Erasure, err error) {
	err = r.store.View(func(v storage.Reader) error {
		group, err := findErasure(v, id)
		if err != nil {
			return err
		}
		late, err := lateOf(v)
		if err != nil {
			return err
		}
		e, err = r.shown(v, group, late)
		return err
	})
	return e, err
}

// lateOf lists the chunks that are held since their document was erased, by document.
func lateOf(v storage.Reader) (map[crdt.DocumentID][]string, error) {
	why, list := late().Reason, map[crdt.DocumentID][]string{}
	err := v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
		at, err := storage.Held.Parse(key)
		if err != nil {
			return err
		}
		h, err := parseHeld(value)
		if err == nil && h.Reason == why && h.State == Quarantined {
			list[h.Document] = append(list[h.Document], heldName(at.ID))
		}
		return err
	})
	return list, err
}

// shown says what came of orders that were given together.
func (r *Replica) shown(v storage.Reader, group []*erasure, late map[crdt.DocumentID][]string) (api.Erasure, error) {
	x := erasable{ErasurePlan: api.ErasurePlan{Resources: map[string]int{}}}
	out := api.Erasure{ID: heldName(group[0].place.ID), Documents: len(group), Reason: group[0].reason, Ordered: r.word(group[0].by)}
	state := erasureState(0)
	for _, e := range group {
		out.Chunks += e.chunks
		if state == 0 || e.state < state || e.state == erasureRefused {
			state = e.state
		}
		if e.state == erasureOrdered {
			if err := x.lookIn(v, e.document); err != nil {
				return out, err
			}
			if out.Patient == "" {
				if err := v.Keys(storage.ResourceIn.With(e.document), nil, func(key []byte) error {
					_, root, err := storage.ResourceIn.Parse(key)
					if strings.HasPrefix(root, "Patient/") {
						out.Patient = root
					}
					return err
				}); err != nil {
					return out, err
				}
			}
		} else if out.Agreed == nil {
			w := r.word(e.assent)
			w.Recovery = e.rooted
			out.Agreed = &w
		}
		out.Late = append(out.Late, late[e.document]...)
	}
	if out.Late = out.Late[:min(len(out.Late), api.MaxLateShown)]; len(x.Resources) > 0 {
		out.Resources = x.Resources
	}
	if state == erasureOrdered && !r.State().WasAdministrator(group[0].by.device) {
		out.State = "worthless"
		return out, nil
	}
	out.State = map[erasureState]string{erasureOrdered: "ordered", erasureAgreed: "agreed", erasureDone: "erased", erasureRefused: "refused"}[state]
	return out, nil
}

func (r *Replica) word(a agreement) api.ErasureWord {
	name, site := r.names(a.device)
	return api.ErasureWord{Device: name, Site: site, User: a.user, At: time.UnixMilli(a.timeMillis).UTC()}
}
