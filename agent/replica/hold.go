package replica

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
)

// What keeps a chunk out, and what becomes of it: the verdicts of the applier.

func park(reason string, m missing) *held {
	return &held{State: Parked, Class: classWaits, Reason: reason, Missing: m}
}

func newer() *held { return park("it was written by a newer version", missing{Kind: missingSchema}) }

func quarantine(reason string) *held {
	return &held{State: Quarantined, Class: classRule, Reason: reason}
}

// keptOut quarantines what would apply: a person may release it.
func keptOut(reason string) *held {
	return &held{State: Quarantined, Class: classPolicy, Reason: reason}
}

func unapplied(reason string) *held {
	return &held{State: Unapplied, Class: classMachine, Reason: reason}
}

// verdict tries to apply a chunk, and says why it is held if it is.
func (t *transaction) verdict(ctx context.Context, at logs.Ref, place storage.Ref, sealed chunk.Sealed) (verdict *held, err error) {
	if why, failing := t.r.failing[place]; failing {
		verdict = unapplied(why)
		if body, err := chunk.Open(t.r.keys, sealed); err == nil {
			t.describe(verdict, body)
		}
	} else if verdict, err = t.tryApply(ctx, at, sealed); verdict == nil || err != nil {
		return nil, err
	}
	verdict.Device, verdict.Kind = sealed.Header().Device, sealed.Header().Kind
	return verdict, nil
}

// complete fills in what is kept of a held chunk: since when it is, what it is about, how often it was tried, and what stands
// decided about it. before is what was kept, nil if it was not held.
func (h *held) complete(before *held, decided chunk.Verdict, build string, now time.Time) {
	if h.Class == classUnknown && h.State == Parked {
		h.Class = classWaits
	}
	h.Decided, h.HeldMillis = decided, now.UnixMilli()
	if before != nil {
		if before.HeldMillis != 0 {
			h.HeldMillis = before.HeldMillis
		}
		if h.Kind == 0 {
			h.Kind = before.Kind
		}
		if h.Document == (crdt.DocumentID{}) {
			h.Document, h.About, h.WrittenMillis = before.Document, before.About, before.WrittenMillis
		}
	}
	if decided == chunk.VerdictDiscard && h.mayDiscard() {
		h.State = Discarded
	}
	if decided == chunk.VerdictRelease && h.onRelease != (crdt.ChangeHash{}) {
		h.settle(h.onRelease)
	}
	if h.State == Unapplied {
		h.countTry(before, build, now)
	}
}

// mayDiscard reports whether a chunk can be left aside: what is malformed or kept out, and what waits for a change that
// may never come. What waits for a key or an upgrade, or for this machine to manage, is somebody's record.
func (h *held) mayDiscard() bool {
	return h.Class == classRule || h.Class == classPolicy || h.State == Quarantined || h.Missing.Kind == missingChange
}

// An engine that failed on a chunk is tried again at the next starts of the program, and then ever more rarely: a chunk
// that kills it must not kill it at every start for ever. Another build begins to count anew.
const (
	eagerTries   = 3
	firstRetry   = time.Hour
	longestRetry = 24 * time.Hour
	retriesAtOne = 32 // of one start
)

func (h *held) countTry(before *held, build string, now time.Time) {
	h.Tries, h.Build = 1, build
	if before != nil && before.State == Unapplied && before.Build == build {
		h.Tries = before.Tries + 1
	}
	if h.Tries >= eagerTries {
		h.NextMillis = now.Add(min(firstRetry<<min(h.Tries-eagerTries, 16), longestRetry)).UnixMilli()
	}
}

// due reports whether an unapplied chunk is to be tried again by itself.
func (h *held) due(build string, now time.Time) bool {
	return h.Build != build || h.Tries < eagerTries || now.UnixMilli() >= h.NextMillis ||
		now.UnixMilli() < h.NextMillis-longestRetry.Milliseconds() // the clock was set back
}

// wakeHeld gives held chunks another look when a replica is opened: parked ones, since a crash may have come between
// their dependency and their turn; those about which something else was decided than they were judged under; and those
// that this machine failed on, as often as that is sensible.
func (r *Replica) wakeHeld(v storage.Reader) error {
	now, retries := r.now(), 0
	var late []storage.Ref // after the others, since they may take the engine's time
	err := v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
		at, err := storage.Held.Parse(key)
		if err != nil {
			return err
		}
		h, err := parseHeld(value)
		if err != nil {
			return err
		}
		s, err := readStanding(v, at)
		if err != nil {
			return err
		}
		switch {
		case h.State == Unapplied:
			if retries < retriesAtOne && h.due(r.build, now) {
				retries++
				late = append(late, at)
			}
		case h.Missing.Kind != missingNothing, s.verdict() != h.Decided:
			r.mu.woken = append(r.mu.woken, at)
		}
		return nil
	})
	r.mu.woken = append(r.mu.woken, late...)
	return err
}

// describe notes what a held chunk is about, as far as its body says it in a form that can be trusted to be short.
func (t *transaction) describe(h *held, body chunk.Body) {
	h.Document = body.DocumentID()
	switch body := body.(type) {
	case *chunk.Decision:
		h.WrittenMillis = body.TimeMillis
	case *chunk.Changes:
		h.WrittenMillis = body.TimeMillis
		d := t.r.docs.byID[body.Document]
		for _, ch := range body.Changes {
			c, err := crdt.Decode(ch.Raw)
			if err != nil {
				return
			}
			h.addResources(c, d)
		}
	}
}

// describeAt notes what a stored chunk is about that was held for what came after it.
func (t *transaction) describeAt(h *held, at storage.Ref) {
	sealed, err := t.r.logs.Sealed(at)
	if err != nil {
		return // it is told without
	}
	h.Kind = sealed.Header().Kind
	if body, err := chunk.Open(t.r.keys, sealed); err == nil {
		t.describe(h, body)
	}
}

// maxAbout is how many bytes of names are kept of what a held chunk is about.
const maxAbout = 256

// addResources notes the resources that a change makes, and those in whose containers it writes.
func (h *held) addResources(c *crdt.Change, d *document) {
	add := func(key string) {
		ref, ok := parseRef(key)
		if !ok || !(api.Ref{Type: ref.typ, ID: ref.id}).Valid() || slices.Contains(strings.Fields(h.About), key) {
			return
		}
		if about := strings.TrimSpace(h.About + " " + key); len(about) <= maxAbout {
			h.About = about
		}
	}
	last := crdt.OpID{}
	for _, op := range c.Ops {
		if op.Obj == (crdt.OpID{}) || op.Obj != last {
			add(keyOf(op, d))
		}
		last = op.Obj
	}
}

// shown says what a chunk waits for.
func (m missing) shown() *api.Need {
	switch m.Kind {
	case missingChange:
		return &api.Need{Kind: "change", ID: crdt.ChangeHash(m.What).String()}
	case missingEpoch:
		return &api.Need{Kind: "key", ID: hex.EncodeToString(m.What[:8])}
	case missingSchema:
		return &api.Need{Kind: "newer version"}
	case missingAuthor:
		return &api.Need{Kind: "member"}
	case missingCertificate:
		return &api.Need{Kind: "certificate", ID: hex.EncodeToString(m.What[:8])}
	case missingQuorum:
		return &api.Need{Kind: "quorum"}
	}
	return nil
}

// hint says when what waits is applied.
func (m missing) hint() string {
	switch m.Kind {
	case missingEpoch:
		return "it is applied when a device that holds the key has been in contact"
	case missingSchema:
		return "it is applied when this device is updated"
	case missingAuthor:
		return "it is applied when the membership log has come"
	case missingCertificate:
		return "it is applied when its lease commits it, and listed as quarantined when the lease ends without"
	case missingQuorum:
		return "it counts when this device knows of the practice's quorum"
	}
	return "it is applied when what it builds on arrives, or is released; `chartmesh quarantine show` says what that is"
}
