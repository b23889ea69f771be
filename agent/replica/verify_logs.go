package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// logs checks every chunk of every log: that it reads, that its hash and links fit, that its author signed it and might,
// and that it opens; and that the log ends where its head says.
func (c *verification) logs(ctx context.Context) error {
	type logAt struct {
		ref  logs.Name
		head logs.End
	}
	var list []logAt
	var of uint64
	err := c.v.Scan(storage.LogHead.All(), nil, func(key, value []byte) error {
		scope, log, err := storage.LogHead.Parse(key)
		if err != nil {
			return err
		}
		head, err := logs.ParseEnd(value)
		if err != nil {
			c.find("log", short(log[:]), "its head is malformed")
			return nil
		}
		list = append(list, logAt{logs.Name{Scope: scope, Log: log}, head})
		c.heads[logs.Name{Scope: scope, Log: log}] = head.Counter
		of += head.Counter
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrDamaged) {
		return err // one that does not read is found among the rest
	}
	for _, l := range list {
		c.report.Logs++
		applied, err := c.cursor(l.ref)
		if err != nil {
			return err
		}
		c.cursors[l.ref] = applied
		head := logs.End{}
		for n := uint64(1); n <= l.head.Counter; n++ {
			c.report.Chunks++
			if err := c.tell(ctx, "logs", c.report.Chunks, of); err != nil {
				return err
			}
			if head, err = c.chunk(l.ref, n, head, n <= applied); err != nil {
				return err
			}
			n = max(n, head.Counter) // a skip is many
		}
		if head.Counter == l.head.Counter && head != l.head {
			c.damaged = append(c.damaged, logs.Ref{Scope: l.ref.Scope, Log: l.ref.Log, Counter: l.head.Counter}.Main())
			c.find("log", short(l.ref.Log[:]), "its head names another chunk")
		}
	}
	return nil
}

func (c *verification) cursor(l logs.Name) (uint64, error) {
	b, err := c.v.Get(storage.Cursor.Key(l.Scope, l.Log))
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		p, perr := logs.ParsePosition(b)
		if perr == nil {
			return p.Counter, nil
		}
		err = fmt.Errorf("%w: %w", storage.ErrDamaged, perr)
	}
	if errors.Is(err, storage.ErrDamaged) {
		c.findDerived("log", short(l.Log[:]), "how far it is applied does not read")
		return 0, nil
	}
	return 0, err
}

// chunk checks one chunk that shall follow head, and returns the head after it.
func (c *verification) chunk(l logs.Name, counter uint64, head logs.End, applied bool) (logs.End, error) {
	at := logs.Ref{Scope: l.Scope, Log: l.Log, Counter: counter}
	id := fmt.Sprintf("%s/%d", short(l.Log[:]), counter)
	bad := func(what string) {
		c.damaged = append(c.damaged, at.Main())
		c.find("chunk", id, what)
	}
	h, err := logs.HeldBy(c.v, l.Scope, l.Log, counter)
	if err != nil {
		if !logs.IsUnreadable(logs.UnreadableAs(at.Main(), err)) {
			return head, err
		}
		bad(whatIs(err))
		return head, nil
	}
	// Behind a damaged chunk the link is not known; the next one that reads begins anew.
	if head.Counter+1 == counter && !h.Follows(head) {
		bad("it does not follow the one before")
		return h.End, nil
	}
	if h.Skip != nil {
		return h.End, nil // its checkpoint is checked in its own log
	}
	if err := h.Sealed.Verify(c.st); errors.Is(err, chunk.ErrBadSignature) {
		bad(whatIs(err))
		return h.End, nil
	} else if err != nil {
		c.find("chunk", id, notNow)
	}
	if applied {
		c.applied(at, h.Sealed)
	}
	return h.End, nil
}

// notNow is what is found of a chunk that is whole, and that was taken when the membership log said something else. It is
// not damaged: no other device would send it again, so a repair leaves it where it is.
const notNow = "as the membership log is now, its author may not write it; it is kept"

// branches checks what stands beside the logs' main histories. What lies behind a gap is kept, and is none of them.
func (c *verification) branches(ctx context.Context) error {
	return c.v.Keys(storage.Branch.All(), nil, func(key []byte) error {
		scope, log, counter, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		c.report.Chunks++
		if err := c.tell(ctx, "logs", c.report.Chunks, 0); err != nil {
			return err
		}
		at := storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}
		sealed, err := logs.ReadBranch(c.v, at)
		if err == nil {
			if err = sealed.Verify(c.st); err != nil && !errors.Is(err, chunk.ErrBadSignature) {
				c.find("chunk", fmt.Sprintf("%s/%d", short(log[:]), counter), notNow)
				err = nil
			}
		} else if !logs.IsUnreadable(logs.UnreadableAs(at, err)) {
			return err
		}
		if err != nil {
			c.damaged = append(c.damaged, at)
			c.find("chunk", fmt.Sprintf("%s/%d", short(log[:]), counter), whatIs(err))
			return nil
		}
		switch _, err := c.v.Get(storage.Parked.Key(missingTurn, [32]byte{}, at)); {
		case errors.Is(err, storage.ErrNotFound):
			ref := logs.Ref{Scope: scope, Log: log, Counter: counter}
			c.beside[ref] = true
			c.applied(ref, sealed)
		case err == nil:
			c.expect[storage.Parked.Number()].add(storage.Parked.Key(missingTurn, [32]byte{}, at))
		case errors.Is(err, storage.ErrDamaged): // found with its kind
		default:
			return err
		}
		return nil
	})
}

// applied notes the changes in a chunk that had its turn and is not held.
func (c *verification) applied(at logs.Ref, sealed chunk.Sealed) {
	if c.isHeld(at, sealed.ID()) {
		return
	}
	body, err := chunk.Open(c.r.keys, sealed)
	if errors.Is(err, chunk.ErrDamaged) {
		c.findDerived("chunk", fmt.Sprintf("%s/%d", short(at.Log[:]), at.Counter), "it does not open and counts as applied")
	}
	if changes, ok := body.(*chunk.Changes); err == nil && ok {
		for _, ch := range changes.Changes {
			if hash, ok := hashOf(ch.Raw); ok {
				c.carried[changes.Document] = append(c.carried[changes.Document], changeMark(hash[:8]))
			}
		}
	}
}

func (c *verification) isHeld(at logs.Ref, id chunk.ID) bool {
	_, err := c.v.Get(storage.Held.Key(storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: id}))
	return err == nil
}

// held checks that every held chunk is there, and found by what it waits for.
func (c *verification) held(context.Context) error {
	err := c.v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
		at, err := storage.Held.Parse(key)
		if err != nil {
			return err
		}
		id := fmt.Sprintf("%s/%d", short(at.Log[:]), at.Counter)
		h, err := parseHeld(value)
		if err != nil {
			c.findDerived("held", id, "why it is held is malformed")
			return nil
		}
		if n := c.counts.of(h.State); n != nil {
			*n++
		}
		if h.Missing.Kind != missingNothing {
			c.expect[storage.Parked.Number()].add(storage.Parked.Key(h.Missing.Kind, h.Missing.What, at))
		}
		return nil
	})
	if errors.Is(err, storage.ErrDamaged) {
		c.findDerived("held", "", whatIs(err))
		return nil
	}
	return err
}

// indexes compares what is stored of the kinds that follow from the views, the counts and the applied sets with what
// follows.
func (c *verification) indexes(ctx context.Context) error {
	if err := c.duplicates(ctx); err != nil {
		return err
	}
	for _, k := range tallied() {
		var have tally
		err := c.v.Scan(k.All(), nil, func(key, _ []byte) error {
			have.add(key)
			c.report.Values++
			return c.tell(ctx, "indexes", c.report.Values, 0)
		})
		if errors.Is(err, storage.ErrDamaged) {
			c.findDerived("index", k.String(), whatIs(err))
			continue
		}
		if err != nil {
			return err
		}
		if want := c.expect[k.Number()]; have != *want {
			c.findDerived("index", k.String(), fmt.Sprintf("%d entries follow from the documents, %d are stored", want.n, have.n))
		}
	}
	b, err := c.v.Get(storage.Meta.Key(metaCounts))
	if err == nil {
		var have counts
		if have, err = parseCounts(b); err == nil && have != c.counts {
			err = storage.ErrDamaged
		}
	}
	if err != nil && (!errors.Is(err, storage.ErrNotFound) || c.counts != (counts{})) {
		c.findDerived("count", "", "the counts are not those of what is stored")
	}
	b, err = c.v.Get(storage.Meta.Key(metaApplied))
	if errors.Is(err, storage.ErrNotFound) && len(c.sets) == 0 {
		return nil
	}
	var sets map[trust.ScopeID]chunk.SetHash
	if err == nil {
		sets, err = parseSets(b)
	}
	// A scope of which nothing is applied any more may be there or not.
	none := func(_ trust.ScopeID, s chunk.SetHash) bool { return s.Sum() == (&chunk.SetHash{}).Sum() }
	maps.DeleteFunc(sets, none)
	maps.DeleteFunc(c.sets, none)
	if err != nil || !bytes.Equal(marshalSets(sets), marshalSets(c.sets)) {
		c.findDerived("count", "", "the sums of what is applied are not those of the documents")
	}
	return nil
}

// findApart finds the resources that stand in several documents; there are few.
func (c *verification) findApart(ctx context.Context) error {
	var last fhirRef
	return c.v.Keys(storage.DocumentsOf.All(), nil, func(key []byte) error {
		typ, id, _, err := storage.DocumentsOf.Parse(key)
		if err != nil {
			return err
		}
		ref := fhirRef{typ, id}
		if ref == last {
			c.apart[ref] = true
		}
		last = ref
		return ctx.Err()
	})
}

// duplicates notes what follows from the views of resources that stand in several documents.
func (c *verification) duplicates(context.Context) error {
	for ref := range c.apart {
		docs, err := readDocumentsOf(c.v, ref)
		if errors.Is(err, storage.ErrDamaged) {
			continue // found with its kind
		}
		if err != nil {
			return err
		}
		var views []located
		for _, doc := range docs {
			v, err := readView(c.v, doc, ref.key())
			if err != nil || v == nil {
				continue // found with its document
			}
			views = append(views, located{doc, v})
		}
		inOrder(views)
		if len(views) > 0 { // it is found by what is shown
			c.expectFound(ref, found(views[shownOf(views)].view))
		}
		if apart := live(views); apart != nil {
			id := duplicateID(ref, apart)
			c.counts.Conflicts++
			c.expect[storage.Conflict.Number()].add(storage.Conflict.Key(id))
			c.expect[storage.ConflictOf.Number()].add(storage.ConflictOf.Key(ref.typ, ref.id, id))
		}
	}
	return nil
}

// rest reads everything that no other step has read, so that its tags are checked, and compares the membership log.
func (c *verification) rest(ctx context.Context) error {
	read := map[byte]bool{storage.Chunk.Number(): true, storage.Branch.Number(): true}
	for _, k := range append(derivedKinds(), tallied()...) {
		read[k.Number()] = true
	}
	read[storage.Snapshot.Number()] = false // of documents that are not there any more
	read[storage.EpochKey.Number()] = false
	for _, k := range storage.Kinds() {
		if read[k.Number()] {
			continue
		}
		derived := k.Number() == storage.EpochKey.Number()
		err := c.v.Scan(k.All(), nil, func(_, value []byte) error {
			c.report.Values++
			if derived {
				if _, err := parseSaidKey(value); err != nil {
					return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
				}
			}
			return c.tell(ctx, "rest", c.report.Values, 0)
		})
		if errors.Is(err, storage.ErrDamaged) && k.Number() == storage.Erasure.Number() {
			c.unread = append(c.unread, k.Number()) // the orders that read stay; this one is judged again
			c.findDerived(k.String(), "", whatIs(err))
		} else if errors.Is(err, storage.ErrDamaged) && derived {
			c.findDerived(k.String(), "", whatIs(err))
		} else if errors.Is(err, storage.ErrDamaged) {
			c.unread = append(c.unread, k.Number())
			c.find(k.String(), "", whatIs(err))
		} else if err != nil {
			return err
		}
	}
	for _, e := range c.st.Entries() {
		id := e.ID()
		if b, err := c.v.Get(storage.Member.Key(id)); err != nil || !bytes.Equal(b, e.Bytes()) {
			c.members = true
			c.find("member", short(id[:]), "an entry of the membership log is not what this device knows")
		}
	}
	return nil
}
