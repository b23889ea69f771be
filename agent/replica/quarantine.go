package replica

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
)

// What a person sees of held chunks, and does about them.

const (
	heldPage      = 100
	waitingShown  = 100
	decidedShown  = 100
	lookBytes     = 32 << 20 // of chunks that one call opens to tell which waits for which
	dependantsMax = 256      // chunks that are discarded together
	standingMax   = 4096     // decisions that are looked at to find those that stand
	settleBatches = 64       // of the applier, until a decision's outcome is told
)

func heldName(id chunk.ID) string { return hex.EncodeToString(id[:8]) }

// ListHeld lists held chunks, by scope, log and counter.
func (r *Replica) ListHeld(_ context.Context, ask api.HeldQuery) (page api.HeldPage, err error) {
	after, err := hex.DecodeString(ask.After)
	if err != nil {
		return page, &api.Error{Code: api.CodeInvalid, Message: "after is what the page before gave as next"}
	}
	limit := cmp.Or(ask.Limit, heldPage)
	err = r.store.View(func(v storage.Reader) error {
		look := look{r: r, v: v, left: lookBytes}
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil {
				return err
			}
			h, err := parseHeld(value)
			if err != nil {
				return err
			}
			if !h.asked(ask) {
				return nil
			}
			page.Total++
			switch {
			case bytes.Compare(key, after) <= 0:
			case len(page.Chunks) == limit:
				page.Next = cmp.Or(page.Next, look.last)
			default:
				look.last = hex.EncodeToString(key)
				page.Chunks = append(page.Chunks, look.held(at, h))
			}
			return nil
		})
	})
	if err != nil {
		return page, fmt.Errorf("list held chunks: %w", err)
	}
	return page, nil
}

func (h *held) asked(ask api.HeldQuery) bool {
	if ask.State != "" {
		return h.State.String() == ask.State
	}
	return ask.Discarded || h.State != Discarded
}

// look reads what stands around held chunks, within a bound.
type look struct {
	r    *Replica
	v    storage.Reader
	left int    // bytes of chunks that may still be opened
	last string // key of the last chunk of a page
}

// sealed returns a held chunk: in its place, or of another history of its log, or a checkpoint that is not in its place yet.
func (l *look) sealed(at storage.Ref) (chunk.Sealed, error) {
	for _, key := range [][]byte{
		storage.Chunk.Key(at.Scope, at.Log, at.Counter), storage.Branch.Key(at.Scope, at.Log, at.Counter, at.ID),
		storage.Loose.Key(at.Scope, at.Log, at.Counter, at.ID),
	} {
		b, err := l.v.Get(key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return chunk.Sealed{}, fmt.Errorf("read held chunk: %w", err)
		}
		s, err := chunk.Parse(b)
		if err != nil {
			return chunk.Sealed{}, fmt.Errorf("read held chunk: %w", err)
		}
		if s.ID() == at.ID {
			return s, nil
		}
	}
	return chunk.Sealed{}, fmt.Errorf("read held chunk: %w", storage.ErrNotFound)
}

// brings returns the hashes of the changes that a held chunk would bring; none if it does not open or the bound is met.
func (l *look) brings(at storage.Ref) []crdt.ChangeHash {
	s, err := l.sealed(at)
	if err != nil || s.Header().Kind != chunk.KindChanges || l.left < len(s.Bytes()) {
		return nil
	}
	l.left -= len(s.Bytes())
	body, err := chunk.Open(l.r.keys, s)
	if err != nil {
		return nil
	}
	return bringsOf(body)
}

func bringsOf(body chunk.Body) (hashes []crdt.ChangeHash) {
	c, ok := body.(*chunk.Changes)
	if !ok {
		return nil
	}
	for _, ch := range c.Changes {
		if len(ch.Raw) > 8 {
			hashes = append(hashes, sha256.Sum256(ch.Raw[8:]))
		}
	}
	return hashes
}

// waiting returns the chunks that wait for a change that at would bring.
func (l *look) waiting(at storage.Ref, most int) (refs []storage.Ref, err error) {
	for _, hash := range l.brings(at) {
		err := l.v.Scan(storage.Parked.With2(missingChange, hash), nil, func(key, _ []byte) error {
			if len(refs) == most {
				return storage.ErrStop
			}
			_, _, ref, err := storage.Parked.Parse(key)
			if err == nil && !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// held says what a held chunk is.
func (l *look) held(at storage.Ref, h *held) api.Held {
	r := l.r
	out := api.Held{
		Chunk: heldName(at.ID), State: h.State.String(), Reason: h.Reason, Log: chunk.LogID(at.Log).String(), Counter: at.Counter,
		Resources: strings.Fields(h.About), Releasable: h.Class == classPolicy,
	}
	out.Device, out.Site = r.names(h.Device)
	if s, ok := r.State().Scope(at.Scope); ok {
		out.Scope = s.Name
	}
	if h.Kind != 0 {
		out.Kind = h.Kind.String()
	}
	if h.Document != (crdt.DocumentID{}) {
		out.Document = h.Document.String()
	}
	out.Written, out.Since = shownTime(h.WrittenMillis), shownTime(h.HeldMillis)
	out.WaitsFor = h.Missing.shown()
	if h.Class == classMachine {
		out.Tries, out.NextTry = int(h.Tries), shownTime(h.NextMillis)
	}
	refs, err := l.waiting(at, waitingShown)
	if err != nil {
		r.log.Warn("what waits for a held chunk was not read", "chunk", chunk.ID(at.ID), "error", err)
	}
	for _, ref := range refs {
		out.Waiting = append(out.Waiting, heldName(ref.ID))
	}
	return out
}

// shownTime returns a time; nil if it is not known.
func shownTime(millis int64) *time.Time {
	if millis == 0 {
		return nil
	}
	t := authored(millis)
	return &t
}

// ShowHeld shows one held chunk in full.
func (r *Replica) ShowHeld(_ context.Context, name string) (out api.HeldDetail, err error) {
	err = r.store.View(func(v storage.Reader) error {
		at, h, err := findHeld(v, name)
		if err != nil {
			return err
		}
		l := look{r: r, v: v, left: lookBytes}
		sealed, err := l.sealed(at)
		if err != nil {
			return err
		}
		out.Held, out.ID, out.Bytes = l.held(at, h), hex.EncodeToString(at.ID[:]), len(sealed.Bytes())
		if err := l.find(out.WaitsFor, h); err != nil {
			return err
		}
		if out.Decisions, err = l.decisions(at); err != nil {
			return err
		}
		if !r.State().MayRead(r.Device(), at.Scope) {
			out.Hidden = "this device may not read in this scope"
			return nil
		}
		body, err := chunk.Open(r.keys, sealed)
		if err != nil {
			out.Hidden = "it does not open"
			return nil
		}
		if out.Content = contentOf(body); out.Content == nil {
			out.Hidden = "this version cannot read chunks of this kind"
		}
		return nil
	})
	return out, err
}

// find looks among the held chunks of a document for the one that would bring what another waits for.
func (l *look) find(need *api.Need, h *held) error {
	if need == nil || h.Missing.Kind != missingChange || h.Document == (crdt.DocumentID{}) {
		return nil
	}
	return l.v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
		at, err := storage.Held.Parse(key)
		if err != nil {
			return err
		}
		other, err := parseHeld(value)
		if err != nil || other.Document != h.Document {
			return err
		}
		if slices.Contains(l.brings(at), crdt.ChangeHash(h.Missing.What)) {
			need.Chunk = heldName(at.ID)
			return storage.ErrStop
		}
		return nil
	})
}

func (l *look) decisions(at storage.Ref) (list []api.HeldDecided, err error) {
	err = l.v.Scan(storage.Decision.With(at), nil, func(_, value []byte) error {
		d, err := parseDecisionRecord(value)
		if err != nil || d.Verdict == 0 {
			return err
		}
		out := api.HeldDecided{Verdict: d.Verdict.String(), Replaced: d.Replaced, User: d.User, Reason: d.Reason, Time: authored(d.TimeMillis)}
		out.Device, out.Site = l.r.names(d.Device)
		if list = append(list, out); len(list) == decidedShown {
			return storage.ErrStop
		}
		return nil
	})
	slices.SortStableFunc(list, func(a, b api.HeldDecided) int { return a.Time.Compare(b.Time) })
	return list, err
}

// findHeld finds a held chunk by the beginning of its ID.
func findHeld(v storage.Reader, name string) (at storage.Ref, h *held, err error) {
	none := &api.Error{Code: api.CodeNotFound, Message: "no chunk that is held back begins so",
		Hint: "`chartmesh quarantine list` shows them; what is not there is applied by now"}
	if _, err := hex.DecodeString(name[:len(name)&^1]); err != nil || len(name) < 4 || len(name) > 64 {
		return at, nil, none
	}
	n := 0
	err = v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
		ref, err := storage.Held.Parse(key)
		if err != nil || hex.EncodeToString(ref.ID[:])[:len(name)] != name {
			return err
		}
		n++
		at = ref
		h, err = parseHeld(value)
		return err
	})
	switch {
	case err != nil:
		return at, nil, fmt.Errorf("find held chunk: %w", err)
	case n == 0:
		return at, nil, none
	case n > 1:
		return at, nil, &api.Error{Code: api.CodeInvalid, Message: "several chunks begin so", Hint: "give more of the id"}
	}
	return at, h, nil
}

// DecideHeld writes a person's decision about a held chunk, and says what became of it. A chunk that this machine failed
// on is the machine's own trouble: to release it is to try again, and nothing is written.
func (r *Replica) DecideHeld(ctx context.Context, user, name string, d api.HeldDecision) (out api.HeldOutcome, err error) {
	if err := d.Check(); err != nil {
		return out, err
	}
	verdict := chunk.VerdictDiscard
	if d.Verdict == "release" {
		verdict = chunk.VerdictRelease
	}
	var at storage.Ref
	retry := false
	err = r.transact(ctx, func(t *transaction) error {
		var h *held
		err := r.store.View(func(v storage.Reader) (err error) {
			at, h, err = findHeld(v, name)
			return err
		})
		if err != nil {
			return err
		}
		if verdict == chunk.VerdictRelease && h.State == Unapplied {
			retry = true
			return nil
		}
		if err := h.mayDecide(verdict); err != nil {
			return err
		}
		if !r.State().MayWrite(r.keys.Device(), at.Scope) {
			return &api.Error{Code: api.CodeForbidden, Message: "this device may not write in this scope, so it may not decide in it"}
		}
		about := []storage.Ref{at}
		if verdict == chunk.VerdictDiscard {
			if about, err = r.withDependants(at); err != nil {
				return err
			}
		}
		for _, ref := range about {
			if err := t.decide(ref, verdict, r.by(user), d.Reason); err != nil {
				return err
			}
		}
		out.With = len(about) - 1
		if verdict == chunk.VerdictRelease {
			return t.writeReleased(ctx, at, h)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	out.Chunk, out.Verdict = heldName(at.ID), d.Verdict
	if retry {
		out.Verdict = "retry"
		if _, err := r.retry(ctx, []storage.Ref{at}); err != nil {
			return out, err
		}
	} else if err := r.settle(ctx); err != nil {
		return out, err
	}
	out.State, out.Reason, err = r.stateOf(at)
	return out, err
}

// mayDecide says why a decision would not help.
func (h *held) mayDecide(v chunk.Verdict) error {
	refuse := func(message, hint string) error {
		return &api.Error{Code: api.CodeInvalid, Message: message, Hint: hint}
	}
	release := v == chunk.VerdictRelease
	switch {
	case release && h.State == Settled:
		return refuse("there is nothing to release: "+h.Reason, "`chartmesh history` shows it in its record")
	case release && h.Class == classRule:
		return refuse("a release cannot help: "+h.Reason+". The chunk breaks a rule that every device holds it to",
			"have what is in it written anew where it came from (`chartmesh quarantine show` shows it), then discard it")
	case release && h.State == Parked:
		return refuse("a release cannot help: "+h.Reason, h.Missing.hint())
	case !release && h.State == Unapplied:
		return refuse("it is not for discarding: this machine failed on it, and the other devices may have it",
			"try again with `chartmesh quarantine retry`, after an update at the latest")
	case !release && !h.mayDiscard():
		return refuse("it is not for discarding: "+h.Reason, h.Missing.hint())
	}
	return nil
}

// withDependants returns a chunk and those that wait for it, directly or not.
func (r *Replica) withDependants(at storage.Ref) (refs []storage.Ref, err error) {
	err = r.store.View(func(v storage.Reader) error {
		l := look{r: r, v: v, left: lookBytes}
		refs = []storage.Ref{at}
		for i := 0; i < len(refs) && len(refs) < dependantsMax; i++ {
			more, err := l.waiting(refs[i], dependantsMax-len(refs))
			if err != nil {
				return err
			}
			for _, ref := range more {
				if !slices.Contains(refs, ref) {
					refs = append(refs, ref)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find what waits for a chunk: %w", err)
	}
	return refs, nil
}

// decide writes one decision and takes it in. It replaces what stands; of very many, so many that a next one may be
// needed.
func (t *transaction) decide(on storage.Ref, verdict chunk.Verdict, by author, reason string) error {
	s, err := t.standing(on)
	if err != nil {
		return err
	}
	if s.verdict() == verdict && (verdict == chunk.VerdictDiscard || s.Discards == 0) {
		return nil
	}
	replaces, err := t.r.standingOn(on)
	if err != nil {
		return err
	}
	body := &chunk.Decision{
		Log: on.Log, Counter: on.Counter, Chunk: on.ID, Verdict: verdict, TimeMillis: by.timeMillis, User: by.name, Reason: reason,
		Replaces: replaces,
	}
	at, sealed, err := t.seal(on.Scope, body)
	if err != nil {
		return err
	}
	return t.takeDecision(at.Scope, sealed.ID(), t.r.keys.Device(), body)
}

// standingOn returns the decisions on a chunk that stand, as many as one may replace: releases before discards, since a
// discard has no effect beside a release.
func (r *Replica) standingOn(on storage.Ref) ([]chunk.ID, error) {
	var releases, discards []chunk.ID
	n := 0
	err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Decision.With(on), nil, func(key, value []byte) error {
			_, id, err := storage.Decision.Parse(key)
			if err != nil {
				return err
			}
			d, err := parseDecisionRecord(value)
			if err != nil || d.Replaced {
				return err
			}
			if d.Verdict == chunk.VerdictRelease {
				releases = append(releases, id)
			} else {
				discards = append(discards, id)
			}
			if n++; n == standingMax {
				return storage.ErrStop
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	all := slices.Concat(releases, discards)
	all = all[:min(len(all), chunk.MaxReplaces)]
	slices.SortFunc(all, func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	return all, nil
}

// settle lets the applier take in what a decision has woken, so that its outcome can be told.
func (r *Replica) settle(ctx context.Context) error {
	for range settleBatches {
		more, err := r.Apply(ctx)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// stateOf tells what has become of a chunk that was held.
func (r *Replica) stateOf(at storage.Ref) (state, reason string, err error) {
	err = r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Held.Key(at))
		if errors.Is(err, storage.ErrNotFound) {
			state = "applied"
			return nil
		}
		if err != nil {
			return err
		}
		h, err := parseHeld(b)
		if err == nil {
			state, reason = h.State.String(), h.Reason
		}
		return err
	})
	return state, reason, err
}

// RetryHeld tries unapplied chunks again: one, or with no name all.
func (r *Replica) RetryHeld(ctx context.Context, name string) (out api.HeldRetry, err error) {
	var refs []storage.Ref
	err = r.store.View(func(v storage.Reader) error {
		if name != "" {
			at, h, err := findHeld(v, name)
			if err == nil && h.State != Unapplied {
				return &api.Error{Code: api.CodeInvalid, Message: "this machine did not fail on it: it is " + h.State.String() + ", " + h.Reason,
					Hint: "`chartmesh quarantine show` says what it waits for"}
			}
			refs = []storage.Ref{at}
			return err
		}
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil {
				return err
			}
			h, err := parseHeld(value)
			if err == nil && h.State == Unapplied {
				refs = append(refs, at)
			}
			return err
		})
	})
	if err != nil {
		return out, err
	}
	out.Tried = len(refs)
	still, err := r.retry(ctx, refs)
	out.Applied = len(refs) - still
	return out, err
}

// retry gives unapplied chunks their turn, and returns how many are unapplied still.
func (r *Replica) retry(ctx context.Context, refs []storage.Ref) (still int, err error) {
	r.write.Lock()
	r.mu.Lock()
	for _, at := range refs {
		delete(r.failing, at)
		r.mu.woken = append(r.mu.woken, at)
	}
	r.mu.Unlock()
	r.write.Unlock()
	for {
		more, err := r.Apply(ctx)
		if err != nil {
			return len(refs), err
		}
		if !more {
			break
		}
	}
	for _, at := range refs {
		state, _, err := r.stateOf(at)
		if err != nil {
			return len(refs), err
		}
		if state == Unapplied.String() {
			still++
		}
	}
	return still, nil
}
