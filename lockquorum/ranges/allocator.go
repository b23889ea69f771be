// Package ranges gives numbers from the parts of ranges that a quorum granted to this device, without asking.
//
// Nouns: an Allocator is the one writer of a device's parts. A part is of one log of the device. A mark says outside of the folder how far a part
// was used.
//
// Guarantees: a number is durable before it is told, and is given once; an item has one number. A folder that is a copy, was moved or put back gives
// none from the parts that it had, and gives back what is left of them. Nothing is given from a part of which it is not known how far it was used.
// docs/spec/ranges.md is normative.
//
// Left to others: what ranges and items are called; who may give numbers; noticing that a folder went back (Log).
package ranges

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
)

// MaxItem is the length of what an item is called.
const MaxItem = 200

// Config says whose numbers they are. Store, Log and Quorum are needed.
type Config struct {
	Store  storage.Store
	Device lockquorum.DeviceID
	Log    Log
	Quorum Quorum
	Marks  Marks        // nil: nothing is kept outside of the folder
	Logger *slog.Logger // nil: none
}

// Log is the log that the device writes.
type Log struct {
	Current func() [32]byte
	// Continues reports whether the folder is still the one that it was when its log was another, or the current one; false while a new one is to begin.
	Continues func(since [32]byte) bool
	// All lists the logs that the folder writes and ever wrote.
	All func() [][32]byte
	// Replaced reports whether the folder was put back in the place of the one that wrote a log, which so is gone.
	Replaced func(since [32]byte) bool
}

// Quorum is what is asked of it. Errors are those of package lockquorum/client.
type Quorum interface {
	Read(ctx context.Context) (*lockquorum.View, error)
	Take(ctx context.Context, id lockquorum.RangeID, log [32]byte, have int) error
	GiveBack(ctx context.Context, id lockquorum.RangeID, lo, from int64) error
}

var (
	// ErrNone says that this device has no number left to give.
	ErrNone = errors.New("this device has no number left")
	// ErrNotReady says that the folder is to begin a new log, and gives no number before it has.
	ErrNotReady = errors.New("this device is to begin a new log first")
	// ErrMark says that a number was given, and is not told, since it cannot be kept outside of the folder how far the part was used.
	ErrMark = errors.New("it cannot be kept outside of the folder how far numbers were given")
)

// Allocator is the writer of a device's parts. It is safe for concurrent use.
type Allocator struct {
	cfg Config
	log *slog.Logger

	ask    sync.Mutex      // one question to the quorum at a time; locked before write
	write  sync.Mutex      // one change of what is stored at a time
	marks  map[Place]int64 // what the marks say that were looked at, 0: nothing; guarded by write
	failed bool            // the last try to write a mark; guarded by write
}

// New returns an Allocator. It keeps nothing but what is stored.
func New(cfg Config) *Allocator {
	a := &Allocator{cfg: cfg, log: cfg.Logger, marks: map[Place]int64{}}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.cfg.Marks == nil {
		a.cfg.Marks = noMarks{}
	}
	return a
}

// noMarks keeps nothing.
type noMarks struct{}

func (noMarks) Read(Place) (int64, bool, error) { return 0, false, nil }
func (noMarks) Write(Place, int64) error        { return nil }
func (noMarks) Remove(Place) error              { return nil }

// Given is a number that was given.
type Given struct {
	Number int64
	At     time.Time
	Again  bool  // the item had it
	Left   int64 // how many this device may still give
	Low    bool  // that is a tenth of a part or less
}

// Next gives the next number. With a name of what it is given to, which item stands for, it is the one that this item has, if it has one. It is durable
// when Next returns. Errors are ErrNone, ErrNotReady, ErrMark and those of the store.
func (a *Allocator) Next(ctx context.Context, id lockquorum.RangeID, item lockquorum.ItemID, name string) (Given, error) {
	a.write.Lock()
	defer a.write.Unlock()
	var g Given
	err := a.next(ctx, id, item, name, &g)
	if err != nil {
		return Given{}, fmt.Errorf("give a number: %w", err)
	}
	return g, nil
}

func (a *Allocator) next(ctx context.Context, id lockquorum.RangeID, item lockquorum.ItemID, name string, g *Given) error {
	records, err := a.records(id)
	if err != nil {
		return err
	}
	if err := a.bringMarks(id, records); err != nil {
		return err
	}
	if name != "" {
		if again, err := a.had(id, item, g); again || err != nil {
			g.Left, g.Low = a.left(id, records)
			return err
		}
	}
	if !a.cfg.Log.Continues(a.cfg.Log.Current()) {
		return ErrNotReady
	}
	log, i := a.first(id, records)
	if i < 0 {
		return ErrNone
	}
	rec := records[log]
	p := &rec.parts[i]
	g.Number, g.At = p.next, time.Now().UTC().Truncate(time.Millisecond)
	p.next += p.increment
	var b storage.Batch
	b.Put(storage.Range.Key(id, log), rec.marshal())
	b.Put(storage.RangeNumber.Key(id, uint64(g.Number)), gift{g.At, name}.marshal())
	if name != "" {
		b.Put(storage.RangeItem.Key(id, item), marshalNumber(g.Number))
	}
	if err := a.cfg.Store.Commit(ctx, &b); err != nil {
		return err
	}
	if err := a.mark(Place{id, log, p.min}, p.next); err != nil {
		return err
	}
	g.Left, g.Low = a.left(id, records)
	return nil
}

// had finds the number that an item has.
func (a *Allocator) had(id lockquorum.RangeID, item lockquorum.ItemID, g *Given) (again bool, err error) {
	err = a.cfg.Store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.RangeItem.Key(id, item))
		if err != nil {
			return err
		}
		if g.Number, err = parseNumber(b); err != nil {
			return err
		}
		if b, err = r.Get(storage.RangeNumber.Key(id, uint64(g.Number))); err != nil {
			return err
		}
		was, err := parseGift(b)
		g.At, g.Again, again = was.at, true, err == nil
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return again, err
}

// usable reports whether this folder may give numbers of a log's parts.
func (a *Allocator) usable(log [32]byte) bool {
	return a.cfg.Log.Continues(a.cfg.Log.Current()) && a.cfg.Log.Continues(log)
}

// marked returns the first number of a part that was not given, as its mark says; 0: nothing says so.
func (a *Allocator) marked(at Place) int64 {
	next, known := a.marks[at]
	if !known {
		var err error
		if next, _, err = a.cfg.Marks.Read(at); err != nil {
			a.log.Warn("what is kept outside of the folder does not say how far numbers were given", "error", err)
			next = 0
		}
		a.marks[at] = next
	}
	return next
}

// isAhead reports whether a part's mark says that more of it was given than is stored: the folder went back, whatever else says.
func (a *Allocator) isAhead(at Place, p part) bool { return a.marked(at) > p.next }

// bringMarks brings marks up to date that are behind, since the process ended or the file could not be written.
func (a *Allocator) bringMarks(id lockquorum.RangeID, records map[[32]byte]record) error {
	for log, rec := range records {
		if !a.usable(log) {
			continue
		}
		for _, p := range rec.parts {
			if at := (Place{id, log, p.min}); !p.void && a.marked(at) < p.next {
				if err := a.mark(at, p.next); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// first finds the lowest number that may be given: its part's log and place; -1: there is none.
func (a *Allocator) first(id lockquorum.RangeID, records map[[32]byte]record) (log [32]byte, at int) {
	at = -1
	var lowest int64
	for of, rec := range records {
		if !a.usable(of) {
			continue
		}
		for i, p := range rec.parts {
			if p.left() > 0 && (at < 0 || p.next < lowest) && !a.isAhead(Place{id, of, p.min}, p) {
				log, at, lowest = of, i, p.next
			}
		}
	}
	return log, at
}

// left counts what may still be given, and reports whether it is a tenth or less of the largest part.
func (a *Allocator) left(id lockquorum.RangeID, records map[[32]byte]record) (left int64, low bool) {
	var largest int64
	for log, rec := range records {
		if !a.usable(log) {
			continue
		}
		for _, p := range rec.parts {
			if !p.void && !a.isAhead(Place{id, log, p.min}, p) {
				left += p.left()
				largest = max(largest, p.size())
			}
		}
	}
	return left, left*10 <= largest
}

// mark keeps outside of the folder how far a part was used. A mark that is behind would be believed, so one that cannot be written goes.
func (a *Allocator) mark(at Place, next int64) error {
	err := a.cfg.Marks.Write(at, next)
	if err == nil {
		a.marks[at], a.failed = next, false
		return nil
	}
	if e := a.cfg.Marks.Remove(at); e != nil {
		return fmt.Errorf("%w: %w", ErrMark, err)
	}
	if a.marks[at] = 0; !a.failed {
		a.log.Warn("how far numbers were given is not kept outside of the folder; if that is put back from a copy, perhaps only other devices notice",
			"error", err)
	}
	a.failed = true
	return nil
}

// records reads what is stored of a range, by log.
func (a *Allocator) records(id lockquorum.RangeID) (map[[32]byte]record, error) {
	all := map[[32]byte]record{}
	err := a.cfg.Store.View(func(r storage.Reader) error {
		return r.Scan(storage.Range.With(id), nil, func(key, value []byte) error {
			_, log, err := storage.Range.Parse(key)
			if err == nil {
				all[log], err = parseRecord(value)
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read parts of a range: %w", err)
	}
	return all, nil
}

// Held is a part of a range that this device has, or had under a log that it wrote before.
type Held struct {
	Range lockquorum.RangeID
	lockquorum.Part
	Next   int64 // the first number that was not given, as far as this folder knows; beyond Max: all were
	Usable bool  // this device gives numbers from it
}

// Left returns how many numbers of a part may still be given.
func (h Held) Left() int64 {
	if !h.Usable || h.Next > h.Max {
		return 0
	}
	return (h.Max-h.Next)/h.Increment + 1
}

// Parts lists every part that this folder knows of as its device's, ascending. A part of a log that the folder does not go on with is void from where on
// nothing can have been given. It is ErrNotReady while that is not known.
func (a *Allocator) Parts() ([]Held, error) {
	a.write.Lock()
	defer a.write.Unlock()
	if !a.usable(a.cfg.Log.Current()) {
		return nil, fmt.Errorf("list parts of ranges: %w", ErrNotReady)
	}
	var list []Held
	ids, err := a.ranges()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		records, err := a.records(id)
		if err != nil {
			return nil, err
		}
		for log, rec := range records {
			for _, p := range rec.parts {
				h := Held{Range: id, Next: p.next, Part: lockquorum.Part{Min: p.min, Max: p.max, Increment: p.increment, Owner: a.cfg.Device, Log: log,
					Void: p.void, From: p.from}}
				if ahead := a.isAhead(Place{id, log, p.min}, p); !p.void && (ahead || !a.cfg.Log.Continues(log)) {
					h.Void, h.From = true, a.notGiven(Place{id, log, p.min}, h.Part, p)
				}
				h.Usable = !h.Void && a.usable(log)
				list = append(list, h)
			}
		}
	}
	slices.SortFunc(list, func(a, b Held) int {
		if c := slices.Compare(a.Range[:], b.Range[:]); c != 0 {
			return c
		}
		return int(max(-1, min(1, a.Min-b.Min)))
	})
	return list, nil
}

// ranges lists the ranges of which something is stored, ascending.
func (a *Allocator) ranges() (ids []lockquorum.RangeID, err error) {
	err = a.cfg.Store.View(func(r storage.Reader) error {
		return r.Keys(storage.Range.All(), nil, func(key []byte) error {
			id, _, err := storage.Range.Parse(key)
			if n := len(ids); err == nil && (n == 0 || ids[n-1] != lockquorum.RangeID(id)) {
				ids = append(ids, id)
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read ranges: %w", err)
	}
	return ids, nil
}

// Number is what is known of a number that this device gave.
type Number struct {
	Number int64
	At     time.Time
	Item   string // empty: it was not said
}

// Numbers lists the numbers of a range that this device gave, ascending.
func (a *Allocator) Numbers(id lockquorum.RangeID) (list []Number, err error) {
	err = a.cfg.Store.View(func(r storage.Reader) error {
		return r.Scan(storage.RangeNumber.With(id), nil, func(key, value []byte) error {
			_, n, err := storage.RangeNumber.Parse(key)
			if err != nil {
				return err
			}
			g, err := parseGift(value)
			list = append(list, Number{int64(n), g.at, g.item})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read numbers that were given: %w", err)
	}
	return list, nil
}

// rateOver is for how long it is looked back to tell how many numbers are given in a day.
const rateOver = 30 * 24 * time.Hour

// PerDay returns how many numbers were given in a day, over the last 30 days or since the first one; 0: none was.
func PerDay(list []Number, now time.Time) float64 {
	var count int
	first := now
	for _, n := range list {
		if n.At.Before(first) {
			first = n.At
		}
		if now.Sub(n.At) < rateOver {
			count++
		}
	}
	days := min(rateOver, max(now.Sub(first), 24*time.Hour)).Hours() / 24
	return float64(count) / days
}
