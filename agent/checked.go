package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/storage"
	"chartmesh/wire"
)

// What the last verification and the last scrub found is kept in the store, so that a report tells of it after a restart and
// whoever ran it: kinds and counts alone.

const (
	checksFormat = 1
	maxKinds     = 64
	maxKind      = 24
)

// checks keeps the last of each. Without room on the disk it is known until the agent ends.
type checks struct {
	mu struct {
		sync.Mutex
		last api.Checks
	}
}

func (a *Agent) loadChecks() error {
	b, err := a.records.Small(storage.Meta.Key(replica.MetaChecks))
	if err != nil || b == nil {
		return err
	}
	last, err := parseChecks(b)
	if err != nil {
		return fmt.Errorf("read the last checks: %w", err)
	}
	a.checks.mu.Lock()
	defer a.checks.mu.Unlock()
	a.checks.mu.last = last
	return nil
}

func (a *Agent) lastChecks() api.Checks {
	a.checks.mu.Lock()
	defer a.checks.mu.Unlock()
	return a.checks.mu.last
}

// noteCheck keeps what a check found. That it is not kept makes no check fail.
func (a *Agent) noteCheck(ctx context.Context, set func(*api.Checks)) {
	a.checks.mu.Lock()
	set(&a.checks.mu.last)
	b := marshalChecks(a.checks.mu.last)
	a.checks.mu.Unlock()
	err := a.records.PutSmall(ctx, storage.Meta.Key(replica.MetaChecks), b)
	if err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNoRoom) {
		a.log.Warn("what a check found was not kept", "error", err)
	}
}

func (a *Agent) noteVerified(ctx context.Context, began time.Time, r api.VerifyReport) {
	a.noteCheck(ctx, func(c *api.Checks) {
		c.Verify = &api.Verified{Began: wholeMillis(began), Took: wholeTook(r.Took), Logs: r.Logs, Chunks: r.Chunks, Documents: r.Documents,
			Resources: r.Resources, Values: r.Values, Clean: r.Clean, Found: r.Found, Kinds: maps.Clone(r.Kinds), Repaired: r.Repaired,
			Wanted: r.Wanted}
	})
}

func (a *Agent) noteScrubbed(ctx context.Context, began time.Time, s replica.Scrubbed, whole bool) {
	a.noteCheck(ctx, func(c *api.Checks) {
		c.Scrub = &api.Scrubbed{Began: wholeMillis(began), Took: wholeTook(time.Since(began)), Chunks: s.Chunks, Damaged: s.Damaged, Whole: whole}
	})
}

// Times are kept in milliseconds, and are no finer before they are stored.
func wholeMillis(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }

func wholeTook(d time.Duration) time.Duration { return d.Truncate(time.Millisecond) }

func marshalChecks(c api.Checks) []byte {
	var w wire.Writer
	w.Byte(checksFormat)
	w.Bool(c.Verify != nil)
	if v := c.Verify; v != nil {
		w.Varint(v.Began.UnixMilli())
		w.Uvarint(uint64(v.Took.Milliseconds()))
		for _, n := range []uint64{uint64(v.Logs), v.Chunks, v.Documents, v.Resources, v.Values, v.Found, v.Wanted} {
			w.Uvarint(n)
		}
		w.Bool(v.Clean)
		w.Bool(v.Repaired)
		kinds := slices.Sorted(maps.Keys(v.Kinds))
		kinds = kinds[:min(len(kinds), maxKinds)]
		w.Uvarint(uint64(len(kinds)))
		for _, k := range kinds {
			w.String(k)
			w.Uvarint(v.Kinds[k])
		}
	}
	w.Bool(c.Scrub != nil)
	if s := c.Scrub; s != nil {
		w.Varint(s.Began.UnixMilli())
		w.Uvarint(uint64(s.Took.Milliseconds()))
		w.Uvarint(s.Chunks)
		w.Uvarint(s.Damaged)
		w.Bool(s.Whole)
	}
	return w.Bytes()
}

func parseChecks(b []byte) (c api.Checks, err error) {
	r := wire.NewReader(b)
	flag := func() bool {
		v := r.Byte()
		if v > 1 {
			r.Fail("flag")
		}
		return v == 1
	}
	count := func() uint64 { return r.Uvarint(1<<63 - 1) }
	took := func() time.Duration {
		return time.Duration(r.Uvarint(uint64(1<<63-1)/uint64(time.Millisecond))) * time.Millisecond
	}
	if r.Byte() != checksFormat {
		r.Fail("version")
	}
	if flag() {
		v := &api.Verified{Began: time.UnixMilli(r.Varint()).UTC(), Took: took(), Logs: int(count()), Chunks: count(), Documents: count(),
			Resources: count(), Values: count(), Found: count(), Wanted: count(), Clean: flag(), Repaired: flag()}
		last := ""
		for range r.Uvarint(maxKinds) {
			kind := r.String(maxKind)
			if kind <= last || strings.ContainsFunc(kind, notOfKind) {
				r.Fail("kind")
				break
			}
			if last = kind; v.Kinds == nil {
				v.Kinds = map[string]uint64{}
			}
			v.Kinds[kind] = count()
		}
		c.Verify = v
	}
	if flag() {
		c.Scrub = &api.Scrubbed{Began: time.UnixMilli(r.Varint()).UTC(), Took: took(), Chunks: count(), Damaged: count(), Whole: flag()}
	}
	if err := r.Close(); err != nil {
		return api.Checks{}, err
	}
	return c, nil
}

// notOfKind reports whether the name of a kind does not have a rune.
func notOfKind(c rune) bool { return (c < 'a' || c > 'z') && c != ' ' && c != '-' }
