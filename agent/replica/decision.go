package replica

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// decisions is what a transaction read and changed of people's decisions on chunks.
type decisions struct {
	before  map[storage.Ref]*held // what was kept of chunks that were released
	broken  error                 // fails the commit: what is decided about a chunk could not be read
	taken   map[decisionKey]*decisionRecord
	decided map[storage.Ref]standing
}

func newDecisions() decisions {
	return decisions{before: map[storage.Ref]*held{}, taken: map[decisionKey]*decisionRecord{}, decided: map[storage.Ref]standing{}}
}

// decisionKey names a decision by what it is about and the chunk that carries it.
type decisionKey struct {
	on storage.Ref
	by chunk.ID
}

// decisionRecord is what is kept of a decision, so that what stands is found without opening chunks. One that has not
// arrived and is replaced already has no verdict.
type decisionRecord struct {
	Verdict    chunk.Verdict
	Replaced   bool
	Device     trust.DeviceID
	TimeMillis int64
	User       string
	Reason     string
}

func (d *decisionRecord) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Byte(byte(d.Verdict))
	w.Bool(d.Replaced)
	w.Raw(d.Device[:])
	w.Varint(d.TimeMillis)
	w.String(d.User)
	w.String(d.Reason)
	return w.Bytes()
}

func parseDecisionRecord(b []byte) (*decisionRecord, error) {
	d := new(decisionRecord)
	r := open(b)
	d.Verdict = chunk.Verdict(r.Byte())
	d.Replaced = r.Bool()
	r.Fixed(d.Device[:])
	d.TimeMillis = r.Varint()
	d.User = r.String(maxText)
	d.Reason = r.String(maxText)
	return d, r.Close()
}

// standing counts the decisions on one chunk that no other replaces. It follows from the set of decisions that are held,
// so the order in which they arrive makes no difference.
type standing struct{ Releases, Discards uint64 }

func (s standing) verdict() chunk.Verdict {
	switch {
	case s.Releases > 0:
		return chunk.VerdictRelease
	case s.Discards > 0:
		return chunk.VerdictDiscard
	}
	return 0
}

func (s *standing) of(v chunk.Verdict) *uint64 {
	if v == chunk.VerdictRelease {
		return &s.Releases
	}
	return &s.Discards
}

func (s standing) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(s.Releases)
	w.Uvarint(s.Discards)
	return w.Bytes()
}

func readStanding(v storage.Reader, on storage.Ref) (s standing, err error) {
	b, err := v.Get(storage.Decided.Key(on))
	if err != nil {
		return s, storage.IgnoreNotFound(err)
	}
	return parseStanding(b)
}

func parseStanding(b []byte) (s standing, err error) {
	r := open(b)
	s.Releases = r.Uvarint(1<<64 - 1)
	s.Discards = r.Uvarint(1<<64 - 1)
	return s, r.Close()
}

// decidedOn returns what stands decided about a chunk as of this transaction: release, discard, or 0 for nothing. A chunk
// is named by its place and ID, and need not have arrived.
func (t *transaction) decidedOn(at storage.Ref) (chunk.Verdict, error) {
	s, err := t.standing(at)
	return s.verdict(), err
}

func (t *transaction) standing(at storage.Ref) (s standing, err error) {
	if s, ok := t.decided[at]; ok {
		return s, nil
	}
	err = t.r.store.View(func(v storage.Reader) (err error) {
		s, err = readStanding(v, at)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read what was decided: %w", err)
	}
	return s, nil
}

// decision returns the record of a decision as of this transaction; an empty one if there is none.
func (t *transaction) decision(key decisionKey) (*decisionRecord, error) {
	if d := t.taken[key]; d != nil {
		return d, nil
	}
	d := new(decisionRecord)
	err := t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Decision.Key(key.on, key.by))
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err == nil {
			d, err = parseDecisionRecord(b)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read decision: %w", err)
	}
	t.taken[key] = d
	return d, nil
}

// takeDecision notes a decision, and wakes the chunk that it is about if what stands has changed. That chunk may come
// later: then it is judged under what stands when its turn comes. Taking the same decision twice changes nothing.
func (t *transaction) takeDecision(scope trust.ScopeID, id chunk.ID, by trust.DeviceID, body *chunk.Decision) error {
	on := storage.Ref{Scope: scope, Log: body.Log, Counter: body.Counter, ID: body.Chunk}
	key := decisionKey{on, id}
	d, err := t.decision(key)
	if err != nil || d.Verdict != 0 {
		return err
	}
	s, err := t.standing(on)
	if err != nil {
		return err
	}
	was := s.verdict()
	d.Verdict, d.Device, d.TimeMillis, d.User, d.Reason = body.Verdict, by, body.TimeMillis, body.User, body.Reason
	if !d.Replaced {
		*s.of(d.Verdict)++
	}
	t.batch.Put(storage.Decision.Key(key.on, key.by), d.marshal())
	for _, id := range body.Replaces {
		key := decisionKey{on, id}
		old, err := t.decision(key)
		if err != nil {
			return err
		}
		if old.Replaced {
			continue
		}
		old.Replaced = true
		if old.Verdict != 0 {
			*s.of(old.Verdict)--
		}
		t.batch.Put(storage.Decision.Key(key.on, key.by), old.marshal())
	}
	t.decided[on] = s
	t.batch.Put(storage.Decided.Key(on), s.marshal())
	if s.verdict() == was {
		return nil
	}
	t.events = append(t.events, Event{Kind: "chunk-decided"})
	h, err := t.heldAt(on)
	if err != nil || h == nil {
		return err // what has not had its turn is judged under what stands then
	}
	if h.Class != classRule {
		t.woken = append(t.woken, on)
		return nil
	}
	// What breaks a rule does so whatever is decided; only whether it is listed changes.
	again := *h
	again.State = Quarantined
	if err := t.release(on); err != nil {
		return err
	}
	t.hold(on, &again)
	return nil
}
