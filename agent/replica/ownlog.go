package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A device writes one log at a time. It begins a new one, durably and before the next edit, when it learns that its log
// has, or may have, another history than the one it holds: then it no longer knows which counters are free. The old log is
// never written again, and is taken from peers like anybody else's.

// LogReason says why a log was begun. The numbers are stored.
type LogReason byte

const (
	LogFirst    LogReason = 1 // the first of the folder
	LogMoved    LogReason = 2 // the folder was copied, moved or restored
	LogRestored LogReason = 3 // the folder is older than what is known of it outside
	LogPeer     LogReason = 4 // another device holds of the log before what this one does not
	LogDamaged  LogReason = 5 // a chunk of the log before cannot be read any more
	LogRebuilt  LogReason = 6 // documents are made anew, and what of them is in the log before is not in them yet
)

func (r LogReason) String() string {
	switch r {
	case LogFirst:
		return "the first log of this folder"
	case LogMoved:
		return "the folder was copied, moved or restored"
	case LogRestored:
		return "the folder is older than it was; what others hold of it comes back, what it alone held is gone"
	case LogPeer:
		return "another device holds changes of this one that are not here"
	case LogDamaged:
		return "part of the log before is damaged"
	case LogRebuilt:
		return "the records were made anew from the log before"
	}
	return "unknown"
}

// OwnLog is a log that this device writes or wrote.
type OwnLog struct {
	ID     chunk.LogID
	Began  time.Time // zero: before this was noted
	Reason LogReason
}

const maxOwnLogs = chunk.MaxLogs

func marshalOwnLogs(list []OwnLog) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(len(list)))
	for _, l := range list {
		w.Raw(l.ID[:])
		w.Byte(byte(l.Reason))
		millis := int64(0)
		if !l.Began.IsZero() {
			millis = l.Began.UnixMilli()
		}
		w.Varint(millis)
	}
	return w.Bytes()
}

func parseOwnLogs(b []byte) (list []OwnLog, err error) {
	r := open(b)
	for range r.Uvarint(maxOwnLogs) {
		var l OwnLog
		r.Fixed(l.ID[:])
		l.Reason = LogReason(r.Byte())
		if at := r.Varint(); at != 0 {
			l.Began = time.UnixMilli(at).UTC()
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
		list = append(list, l)
	}
	return list, r.Close()
}

// loadOwnLogs reads which logs are this device's. In a folder from before this was noted the chunks say it.
func (r *Replica) loadOwnLogs(v storage.Reader) error {
	b, err := v.Get(storage.Meta.Key(metaOwnLogs))
	if err == nil {
		r.mu.own, err = parseOwnLogs(b)
		return err
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	for scope, byLog := range r.mu.Ends {
		for log, end := range byLog {
			if r.isOwnLocked(log) {
				continue
			}
			sealed, err := logs.ReadChunk(v, scope, log, end.Counter)
			if errors.Is(err, storage.ErrNotFound) {
				continue // packed; a log before this was noted had no checkpoints
			}
			if err != nil {
				return err
			}
			if sealed.Header().Device == r.Device() {
				r.mu.own = append(r.mu.own, OwnLog{ID: log, Reason: LogFirst})
			}
		}
	}
	current := chunk.CurrentLog(r.keys)
	slices.SortFunc(r.mu.own, func(a, b OwnLog) int {
		switch current { // which is the last if it is one of them
		case a.ID:
			return 1
		case b.ID:
			return -1
		}
		return a.ID.Compare(b.ID)
	})
	return nil
}

func (r *Replica) isOwnLocked(log chunk.LogID) bool {
	return slices.ContainsFunc(r.mu.own, func(l OwnLog) bool { return l.ID == log })
}

// dueLog is what is left to do before this device may write.
type dueLog struct {
	why    LogReason // 0: nothing is
	minted bool      // the keyring has the new log, and the store does not say yet that it is this device's
}

// openLog has the keyring's log noted as this device's if it is not. In a store that knows of another one, it may have
// been written in what the store lacks, unless it was begun since the keyring was opened: then another begins. So it does
// while documents are made anew, see rebuild, and where the keyring is older than the store (put back from a copy, or read
// before another process began a log): the log that it names was ended, and counters beyond its end may be in use.
func (r *Replica) openLog(ctx context.Context) error {
	log := chunk.CurrentLog(r.keys)
	used, err := r.usedBeyond(log)
	if err != nil {
		return err
	}
	r.mu.Lock()
	known, first, behind := r.isOwnLocked(log), len(r.mu.own) == 0, false
	ended := known && r.mu.own[len(r.mu.own)-1].ID != log
	for scope, byLog := range r.mu.Vectors {
		behind = behind || r.mu.applied[scope][log].Counter < byLog[log].Counter
	}
	r.mu.Unlock()
	if known && !behind && !ended && !used {
		return nil
	}
	due := dueLog{why: LogRestored, minted: first || !known && r.keys.Fresh()}
	if used {
		due.why, due.minted = LogDamaged, false
	} else if ended {
		due.why = LogMoved
	} else if known {
		due.why = LogRebuilt
	} else if first {
		due.why = LogFirst
	} else if r.keys.Moved() {
		due.why = LogMoved
	} else if rep, _, _, err := r.Repair(); err == nil && !rep.Since.IsZero() && rep.Done.IsZero() {
		due.why = LogDamaged
	}
	r.mu.Lock()
	r.mu.due = due
	r.mu.Unlock()
	return r.renewLog(ctx)
}

// usedBeyond reports whether chunks of a log are stored beyond where it ends: counters that an edit would use again.
func (r *Replica) usedBeyond(log chunk.LogID) (used bool, err error) {
	err = r.store.View(func(v storage.Reader) error {
		for _, s := range r.State().Scopes() {
			is, err := logs.BehindGap(v, logs.Name{Scope: s.ID, Log: log}, r.logs.End(s.ID, log))
			if used = used || is; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look beyond the end of a log: %w", err)
	}
	return used, nil
}

// noteLog makes durable that the keyring's log is this device's.
func (r *Replica) noteLog(ctx context.Context, why LogReason) error {
	log := chunk.CurrentLog(r.keys)
	r.mu.Lock()
	own := slices.Clone(r.mu.own)
	r.mu.Unlock()
	own = append(own, OwnLog{ID: log, Began: r.now().UTC().Truncate(time.Millisecond), Reason: why})
	t := r.beginPlain()
	t.batch.Put(storage.Meta.Key(metaOwnLogs), marshalOwnLogs(own))
	if why != LogFirst {
		t.events = append(t.events, Event{Kind: "log-begun", Local: true})
	}
	if why == LogMoved || why == LogRestored || why == LogPeer {
		r.mu.Lock()
		r.mu.event += eventsApart
		r.mu.Unlock()
	}
	if err := t.commit(ctx); err != nil {
		return fmt.Errorf("note a new log: %w", err)
	}
	if why != LogFirst {
		r.log.Warn("this device goes on under a new log; what other devices hold of the old one comes from them", "reason", why.String(), "log", log)
	}
	r.mu.Lock()
	r.mu.own = own
	r.mu.Unlock()
	return nil
}

// BeginLog goes on under a new log. After an error nothing is written under the old one either: it is tried again before
// the next edit.
func (r *Replica) BeginLog(ctx context.Context, why LogReason) error {
	r.write.Lock()
	defer r.write.Unlock()
	return r.beginLog(ctx, why)
}

// beginLog is BeginLog for the holder of Replica.write: no edit is under way, and the next one finds the new log. When it
// returns nil the keyring has the new log; where the store has no room for the note, nothing is written until it has.
func (r *Replica) beginLog(ctx context.Context, why LogReason) error {
	r.mu.Lock()
	if r.mu.due.why == 0 { // else one is under way, or was begun and nothing is written in it
		r.mu.due.why = why
	}
	r.mu.Unlock()
	err := r.renewLog(ctx)
	r.mu.Lock()
	minted := r.mu.due.minted
	r.mu.Unlock()
	if err != nil && minted {
		r.log.Warn("a new log is not noted yet; nothing is written until it is", "error", err)
		return nil
	}
	return err
}

// renewLog does what is left to do before this device may write: begin a log if there is reason for a new one, and note
// that it is this device's. What fails is gone on with before the next edit. The caller holds Replica.write.
func (r *Replica) renewLog(ctx context.Context) error {
	r.mu.Lock()
	due := r.mu.due
	r.mu.Unlock()
	if due.why == 0 {
		return nil
	}
	if !due.minted {
		if err := r.keys.MintLog(); err != nil {
			return err
		}
		r.mu.Lock()
		r.mu.due.minted = true
		r.mu.Unlock()
	}
	if err := r.noteLog(ctx, due.why); err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.due = dueLog{}
	r.mu.Unlock()
	return nil
}

// judgeOwn looks at what arrives of the log that this device writes, before any of it is taken: a new log is begun under
// Replica.write, which is never waited for under Replica.arrive.
func (r *Replica) judgeOwn(ctx context.Context, from trust.DeviceID, chunks [][]byte) error {
	for _, b := range chunks {
		if chunk.IsSkip(b) {
			continue
		}
		sealed, err := chunk.Parse(b)
		if err != nil || sealed.Log() != r.logID(sealed.Header().Scope) || sealed.Verify(r.State()) != nil {
			continue // Arrive says what is wrong with it
		}
		if err := r.ownArrived(ctx, from, sealed); err != nil {
			return err
		}
	}
	return nil
}

// ownArrived looks at a chunk of the log that this device writes: one that it does not hold proves another history.
func (r *Replica) ownArrived(ctx context.Context, from trust.DeviceID, sealed chunk.Sealed) error {
	at := storage.Ref{Scope: sealed.Header().Scope, Log: sealed.Log(), Counter: sealed.Header().Counter}
	if at.Log != r.logID(at.Scope) {
		return nil
	}
	if known, err := r.wrote(at, sealed.ID()); err != nil || known {
		return err
	}
	r.write.Lock()
	defer r.write.Unlock()
	if at.Log != r.logID(at.Scope) {
		return nil
	}
	if known, err := r.wrote(at, sealed.ID()); err != nil || known { // an edit may have come to its end since
		return err
	}
	r.log.Warn("another device holds a chunk of this device's log that is not here", "from", from, "counter", at.Counter)
	return r.beginLog(ctx, LogPeer)
}

// wrote reports whether a chunk of this device's log is here, or was and a checkpoint stands for it. What cannot be told is
// not known: a log more costs little.
func (r *Replica) wrote(at storage.Ref, id chunk.ID) (known bool, err error) {
	if at.Counter > r.logs.End(at.Scope, at.Log).Counter {
		return false, nil
	}
	have, err := r.Stood(at.Scope, at.Log, at.Counter)
	return err == nil && have == chunk.At(at.Counter, id), err
}

// claimEvery is how often one peer's word alone, without a chunk that proves it, makes this device begin a new log.
const claimEvery = 24 * time.Hour

// heed looks at what a peer says that it holds of the log that this device writes. What it holds beyond, or in another
// history, this device wrote and no longer knows of. The peer's word is enough, since a log more costs little; but not
// again and again, since a peer can lie.
func (r *Replica) heed(from trust.DeviceID, ack session.Ack) error {
	log := r.logID(ack.Scope)
	p, ok := ack.Stored[log]
	if !ok || p.Counter == 0 {
		return nil
	}
	have := r.logs.Position(ack.Scope, log)
	if p == have || ack.Message != nil && p.Counter < have.Counter {
		return nil // an ACK that lags; what it names was compared when its sender told its vector
	}
	if p.Counter < have.Counter {
		at, err := r.Stood(ack.Scope, log, p.Counter)
		if err != nil {
			return err
		}
		if at == p || at == (chunk.Position{}) {
			return nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); now.Sub(r.mu.claims[from]) >= claimEvery && log == chunk.CurrentLog(r.keys) {
		r.mu.claims[from] = now
		if r.mu.due.why == 0 {
			r.mu.due.why = LogPeer
		}
		r.log.Warn("another device says that it holds of this device's log what is not here", "from", from, "counter", p.Counter)
		close(r.mu.changed) // for the applier, which begins the new log if no edit comes first
		r.mu.changed = make(chan struct{})
	}
	return nil
}

// OwnLogs lists the logs of this device, oldest first; the last is the one that it writes.
func (r *Replica) OwnLogs() []OwnLog {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mu.own)
}

// Branches counts, by device, the histories of its logs beside the first.
func (r *Replica) Branches() map[trust.DeviceID]int {
	r.mu.Lock()
	type place struct {
		scope trust.ScopeID
		log   chunk.LogID
	}
	more := map[place]storage.Ref{}
	counts := map[place]int{}
	for scope, byLog := range r.mu.Forks {
		for log, f := range byLog {
			at := place{scope, log}
			counts[at] = len(f.Leaves(r.mu.Ends[scope][log])) - 1
			for id, counter := range f.All() {
				more[at] = storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}
			}
		}
	}
	r.mu.Unlock()
	out := map[trust.DeviceID]int{}
	for at, ref := range more {
		if sealed, err := r.logs.Sealed(ref); err == nil {
			out[sealed.Header().Device] += counts[at]
		}
	}
	return out
}

// Written says how far this device has written its logs: a count that no honest restart makes smaller, and the log that it
// stands at. Package agent keeps it outside the folder, to notice a folder that went back. It is not known, and nothing
// is written, while a new log is to begin.
func (r *Replica) Written() (log chunk.LogID, chunks uint64, known bool) {
	r.mu.Lock()
	known = r.mu.due.why == 0
	r.mu.Unlock()
	log = chunk.CurrentLog(r.keys)
	return log, r.WrittenIn(log), known
}

// WrittenIn says how many chunks of a log are held, over all scopes.
func (r *Replica) WrittenIn(log chunk.LogID) (chunks uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.mu.Vectors {
		chunks += v[log].Counter
	}
	return chunks
}
