// Package seen keeps how far a device saw its practice's quorum come, and shows it.
//
// Nouns: a Keeper is what one device keeps: a lockquorum.Memory in its store. A position is a voter's signed word (lockquorum.Position).
//
// Guarantees: only what a device signed that may have voted is kept, shown and carried on. What a voter of another device answered is passed on once the
// position that came with it is durable: whoever got a number can show it after a crash too. Of a lease, which does not outlast the process of its holder, it is
// durable a second later. An answer that does not go on from what was shown is refused.
//
// Left to others: what a voter makes of what it is shown (package voter); how positions travel from device to device (p2p/session).
package seen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Config says whose quorum it is. Store and Members are needed.
type Config struct {
	Store   storage.Store
	Members func() *trust.State
	// Self is this device: what its own voter answers is in the same store. Zeros: it has none.
	Self   lockquorum.DeviceID
	Logger *slog.Logger // nil: none
}

// Keeper is what one device keeps. Its methods are safe for concurrent use.
type Keeper struct {
	cfg   Config
	moved chan struct{}

	writing sync.Mutex // one write at a time, which has what others wait to have written

	mu struct {
		sync.Mutex
		memory, stored lockquorum.Memory
		voters         func() []lockquorum.Voter    // nil: none are known
		good           map[lockquorum.Position]bool // signatures that verify
		due            bool                         // a write is to come, see Soon
	}
}

// item is its number under storage.Quorum. Others are the driver's and agent/quorum's.
const item = 6

// maxGood is of how many positions it is remembered that their signatures verify.
const maxGood = 256

// Open reads what is kept. Where that is damaged it begins anew, and says so in the log.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{cfg: cfg, moved: make(chan struct{}, 1)}
	k.mu.good = map[lockquorum.Position]bool{}
	err := cfg.Store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(item))
		if err == nil {
			k.mu.stored, err = parseMemory(b)
		}
		return err
	})
	if errors.Is(err, storage.ErrDamaged) || errors.Is(err, wire.ErrMalformed) {
		cfg.Logger.Warn("how far the quorum was seen to be is damaged, and forgotten", "error", err)
		err = nil
	}
	if storage.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read how far the quorum was seen to be: %w", err)
	}
	k.mu.memory = k.mu.stored
	return k, nil
}

// Know says who the voters are as this device knows them: their word counts, whatever their role.
func (k *Keeper) Know(voters func() []lockquorum.Voter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.voters = voters
}

// Moved has a value when this device has heard of something later since it was last taken.
func (k *Keeper) Moved() <-chan struct{} { return k.moved }

// Trusts reports whether a position is the word of a device that may have voted, of an epoch that there may be.
func (k *Keeper) Trusts(p lockquorum.Position) bool {
	st := k.cfg.Members()
	return p != (lockquorum.Position{}) && st != nil && k.counts(st, p) && k.verifies(st.Practice(), p)
}

func (k *Keeper) counts(st *trust.State, p lockquorum.Position) bool {
	k.mu.Lock()
	voters := k.mu.voters
	k.mu.Unlock()
	d := p.Voter
	if !lockquorum.MayBe(st, p.Epoch) {
		return false
	}
	return lockquorum.MayHaveVoted(st, d) || voters != nil && slices.ContainsFunc(voters(), func(v lockquorum.Voter) bool { return v.Device == d })
}

// verifies checks a signature once: the same position comes many times.
func (k *Keeper) verifies(practice trust.EntryID, p lockquorum.Position) bool {
	k.mu.Lock()
	good := k.mu.good[p]
	k.mu.Unlock()
	if good {
		return true
	}
	if p.Verify(practice) != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.mu.good) >= maxGood {
		clear(k.mu.good)
	}
	k.mu.good[p] = true
	return true
}

// Shows returns what is shown with a question.
func (k *Keeper) Shows() []lockquorum.Position {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.memory.Shows()
}

// Carries returns the latest of all, which is told to other devices. Nothing: nothing was seen.
func (k *Keeper) Carries() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.memory.Carries().Marshal()
}

// Carried takes what another device carries. It is durable when Carried returns; what cannot be relied on is left out of account.
func (k *Keeper) Carried(ctx context.Context, b []byte) error {
	p, err := lockquorum.ParsePosition(b)
	if err != nil {
		return err
	}
	k.mu.Lock()
	later := p.Compare(k.mu.memory.Heard.Place) > 0
	k.mu.Unlock()
	if !later || !k.Trusts(p) {
		return nil
	}
	k.mu.Lock()
	later = k.mu.memory.Hear(p)
	k.mu.Unlock()
	if !later {
		return nil
	}
	select {
	case k.moved <- struct{}{}:
	default:
	}
	return k.write(ctx)
}

// Soon is within what time it is durable what came with an answer that does not last.
const Soon = time.Second

// told keeps what came with an answer; durably at once if the answer lasts, whichever answer was the first to be told from that far.
func (k *Keeper) told(ctx context.Context, p lockquorum.Position, lasts bool) {
	k.mu.Lock()
	k.mu.memory.Told(p)
	behind := k.mu.stored.Own.Compare(p.Place) < 0 && p.Voter != k.cfg.Self
	due := k.mu.due
	k.mu.due = due || behind && !lasts
	k.mu.Unlock()
	switch {
	case !behind:
	case lasts:
		k.note(ctx)
	case !due:
		time.AfterFunc(Soon, func() { k.Flush(context.WithoutCancel(ctx)) })
	}
}

// Flush makes durable what is to be soon.
func (k *Keeper) Flush(ctx context.Context) {
	k.mu.Lock()
	due := k.mu.due
	k.mu.due = false
	k.mu.Unlock()
	if due {
		k.note(ctx)
	}
}

func (k *Keeper) note(ctx context.Context) {
	if err := k.write(ctx); err != nil && !errors.Is(err, storage.ErrClosed) {
		k.cfg.Logger.Warn("how far the quorum came is not noted; if its voter is put back from a copy, nobody may notice", "error", err)
	}
}

// write makes durable what is in memory. Who waits for another one's write shares the next.
func (k *Keeper) write(ctx context.Context) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	now, stored := k.mu.memory, k.mu.stored
	k.mu.Unlock()
	if now == stored {
		return nil
	}
	var b storage.Batch
	b.Put(storage.Quorum.Key(item), marshalMemory(now))
	if err := k.cfg.Store.Commit(context.WithoutCancel(ctx), &b); err != nil {
		return fmt.Errorf("note how far the quorum was seen to be: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.stored = now
	return nil
}

// marshalMemory writes: 1 | what was told, and what was heard, each a position behind its length.
func marshalMemory(m lockquorum.Memory) []byte {
	var w wire.Writer
	w.Byte(1)
	w.Blob(m.Own.Marshal())
	w.Blob(m.Heard.Marshal())
	return w.Bytes()
}

func parseMemory(b []byte) (m lockquorum.Memory, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	for _, p := range []*lockquorum.Position{&m.Own, &m.Heard} {
		b := r.Blob(lockquorum.MaxPosition)
		if r.Err() != nil {
			return m, r.Err()
		}
		if *p, err = lockquorum.ParsePosition(b); err != nil {
			return m, err
		}
	}
	return m, r.Close()
}
