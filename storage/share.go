package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chartmesh/wire"
)

// ErrUsedUp says that a share takes no more than it holds, so that nothing is stored beside it. It is an ErrNoRoom.
var ErrUsedUp = usedUp{}

type usedUp struct{}

func (usedUp) Error() string        { return "the share is used up" }
func (usedUp) Is(target error) bool { return target == ErrNoRoom }

// errEnded says that nothing is committed to a share any more.
var errEnded = errors.New("the share has ended")

// entriesReserve is what membership entries may take beyond a share's bytes: that a device was removed must be learnt in any case.
const entriesReserve = 16 << 20

// Amount is what a share holds.
type Amount struct {
	Bytes  uint64    // of keys and values
	Chunks uint64    // sealed ones, in every place
	Stored time.Time // when something was last committed; zero: never, or before that was noted
}

// Limits bound what a share holds. 0 bounds nothing.
type Limits struct{ Bytes, Chunks uint64 }

// Share is a Part that knows how much it holds and takes no more than it may. What takes nothing away from the others is committed in
// any case: notes, and what makes it smaller.
//
// What it holds stands beside it under Taken, and changes with each commit. Where that is missing it is counted.
type Share struct {
	partStore
	number uint64

	commit sync.Mutex // one commit at a time, so that what it replaces is known

	mu struct {
		sync.Mutex
		held   Amount
		limits Limits
		wanted Amount // what was last refused; zero: nothing since there was more room
		ended  bool
		vague  bool // what was replaced did not read: it is counted anew by the next OpenShare
	}
}

// OpenShare opens a share, which holds nothing if it is new.
func OpenShare(whole Store, number uint64) (*Share, error) {
	s := &Share{partStore: partStore{whole, Within.Key(number)}, number: number}
	err := whole.View(func(r Reader) error {
		b, err := r.Get(Taken.Key(number))
		if err == nil {
			if s.mu.held, err = parseAmount(b); err == nil {
				return nil
			}
		}
		s.mu.held, err = s.count(r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count what a share holds: %w", err)
	}
	return s, nil
}

// count reads everything. What does not read counts with its key alone.
func (s *Share) count(r Reader) (a Amount, err error) {
	part := partReader{s.partStore, r}
	err = part.Keys(nil, nil, func(key []byte) error {
		value, err := part.Get(key)
		if IgnoreDamaged(err) != nil {
			return err
		}
		a.Bytes += uint64(len(key) + len(value))
		if kindIn(key, sealedKinds) {
			a.Chunks++
		}
		return nil
	})
	return a, err
}

var (
	sealedKinds = []byte{Chunk.number, Branch.number, Loose.number}
	loadKinds   = append([]byte{Skip.number}, sealedKinds...)
	entryKinds  = []byte{Member.number, Quorum.number, QuorumEntry.number, QuorumPiece.number}
)

func kindIn(key, kinds []byte) bool { return slices.Contains(kinds, key[0]) }

// Held returns what the share holds.
func (s *Share) Held() Amount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.held
}

// Limit sets what the share may hold. What it holds already it keeps.
func (s *Share) Limit(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.limits, s.mu.wanted = l, Amount{}
}

// UsedUp reports whether the share takes no more chunks.
func (s *Share) UsedUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return over(s.mu.held.Bytes, max(s.mu.wanted.Bytes, 1), s.mu.limits.Bytes) || over(s.mu.held.Chunks, max(s.mu.wanted.Chunks, 1), s.mu.limits.Chunks)
}

func over(held, more, limit uint64) bool { return limit > 0 && held+more > limit }

// End has every later commit fail, and waits for one that is under way.
func (s *Share) End() {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.ended = true
}

// change is what a batch makes of a share.
type change struct {
	bytes, chunks int64
	load, entries bool // it brings chunks or skips, membership entries
	vague         bool
}

// Commit implements Store. The error is ErrUsedUp where the batch brings chunks or membership entries beyond what the share may hold.
func (s *Share) Commit(ctx context.Context, b *Batch) error {
	if b.Len() == 0 {
		return s.partStore.Commit(ctx, b)
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	whole, err := s.within(b)
	if err != nil {
		return err
	}
	c, err := s.weigh(b)
	if err != nil {
		return err
	}
	now, err := s.take(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.vague = s.mu.vague || c.vague
	vague := s.mu.vague
	s.mu.Unlock()
	if vague {
		whole.Delete(Taken.Key(s.number))
	} else {
		whole.Put(Taken.Key(s.number), now.marshal())
	}
	whole.size = b.size
	if err := s.whole.Commit(ctx, whole); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.held = now; c.bytes < 0 || c.chunks < 0 {
		s.mu.wanted = Amount{}
	}
	return nil
}

// weigh says what a batch makes of the share.
func (s *Share) weigh(b *Batch) (c change, err error) {
	last := make(map[string]int, len(b.ops))
	for i, o := range b.ops {
		last[string(o.key)] = i
	}
	err = s.View(func(r Reader) error {
		for key, i := range last {
			was, err := r.Get([]byte(key))
			there := err == nil
			if errors.Is(err, ErrDamaged) {
				there, c.vague = true, true
			} else if IgnoreNotFound(err) != nil {
				return err
			}
			n := int64(0)
			if there {
				c.bytes -= int64(len(key) + len(was))
				n--
			}
			if o := b.ops[i]; !o.delete {
				c.bytes += int64(len(key) + len(o.value))
				n++
				c.load = c.load || kindIn(o.key, loadKinds)
				c.entries = c.entries || kindIn(o.key, entryKinds)
			}
			if kindIn([]byte(key), sealedKinds) {
				c.chunks += n
			}
		}
		return nil
	})
	return c, err
}

// take returns what the share holds after a change, or refuses it.
func (s *Share) take(c change) (Amount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.ended {
		return Amount{}, errEnded
	}
	more := Amount{Bytes: uint64(max(c.bytes, 0)), Chunks: uint64(max(c.chunks, 0))}
	limits := s.mu.limits
	if !c.load && limits.Bytes > 0 {
		limits.Bytes += entriesReserve
	}
	if c.load {
		more.Bytes, more.Chunks = waits(more.Bytes, s.mu.wanted.Bytes), waits(more.Chunks, s.mu.wanted.Chunks)
	}
	if (c.load || c.entries) && (more.Bytes > 0 && over(s.mu.held.Bytes, more.Bytes, limits.Bytes) || more.Chunks > 0 && over(s.mu.held.Chunks, more.Chunks, limits.Chunks)) {
		if c.load {
			s.mu.wanted = more
		}
		return Amount{}, ErrUsedUp
	}
	return Amount{
		Bytes: add(s.mu.held.Bytes, c.bytes), Chunks: add(s.mu.held.Chunks, c.chunks), Stored: time.Now().UTC().Truncate(time.Millisecond),
	}, nil
}

// waits has what comes wait behind more that was refused, so that a share at its border is not now this, now that.
func waits(more, wanted uint64) uint64 {
	if more == 0 {
		return 0
	}
	return max(more, wanted)
}

func add(held uint64, by int64) uint64 {
	if by < 0 {
		return held - min(held, uint64(-by))
	}
	return held + uint64(by)
}

// marshal makes the value under Taken:
//
//	1 | uvarint bytes | uvarint chunks | varint milliseconds since 1970
func (a Amount) marshal() []byte {
	var w wire.Writer
	w.Byte(1)
	w.Uvarint(a.Bytes)
	w.Uvarint(a.Chunks)
	w.Varint(a.Stored.UnixMilli())
	return w.Bytes()
}

func parseAmount(b []byte) (a Amount, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	a.Bytes, a.Chunks = r.Uvarint(1<<62), r.Uvarint(1<<62)
	a.Stored = time.UnixMilli(r.Varint()).UTC()
	return a, r.Close()
}
