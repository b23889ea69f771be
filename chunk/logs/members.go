package logs

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"chartmesh/storage"
	"chartmesh/trust"
)

// ReadMembers returns what the stored membership log comes to; storage.ErrNotFound if there is none.
func ReadMembers(v storage.Reader) (*trust.State, error) {
	var entries []trust.Entry
	if err := v.Scan(storage.Member.All(), nil, func(_, value []byte) error {
		e, err := trust.ParseEntry(append([]byte(nil), value...))
		if err != nil {
			return fmt.Errorf("read membership entry: %w", err)
		}
		entries = append(entries, e)
		return nil
	}); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("membership log: %w", storage.ErrNotFound)
	}
	st, rejected := trust.Replay(entries)
	if len(rejected) > 0 {
		return nil, fmt.Errorf("replay membership log: %w", rejected[0].Err)
	}
	return st, nil
}

// ParseEntries reads the membership entries that a device sent.
func ParseEntries(from trust.DeviceID, entries [][]byte) ([]trust.Entry, error) {
	list := make([]trust.Entry, len(entries))
	for i, b := range entries {
		var err error
		if list[i], err = trust.ParseEntry(b); err != nil {
			return nil, fmt.Errorf("membership entry from %v: %w", from, err)
		}
	}
	return list, nil
}

// maxBrought is how many entries, unknown here, a device that was removed may bring. A removal and the new keys after it are three, a
// device that joins is one: so many are years of a practice that has come apart, and judged in some tenths of a second.
const maxBrought = 1024

// WithBrought judges the membership entries that a device brings which does not belong, on top of those that are known. If with them it
// belongs it returns what they amount to, and of those that were unknown what became of each; else a nil State: none is to be taken, since
// who was removed must not fill the log of those who know it.
func WithBrought(st *trust.State, from trust.DeviceID, list []trust.Entry) (with *trust.State, unknown []trust.Entry, errs []error, err error) {
	unknown = slices.DeleteFunc(list, func(e trust.Entry) bool { return st.Contains(e.ID()) })
	if len(unknown) > maxBrought {
		return nil, nil, nil, fmt.Errorf("membership entries from %v: %d are unknown, more than %d", from, len(unknown), maxBrought)
	}
	with, errs = st.WithAll(unknown)
	if _, belongs := with.Member(from); !belongs {
		return nil, nil, nil, nil
	}
	return with, unknown, errs, nil
}

// PutEntries adds to a batch those entries of a device that trust.State.WithAll took. What is refused makes one line of log.
func PutEntries(b *storage.Batch, from trust.DeviceID, list []trust.Entry, errs []error, log *slog.Logger) {
	refused, first, why := 0, trust.EntryID{}, error(nil)
	for i, err := range errs {
		var parent *trust.MissingParent
		switch e := list[i]; {
		case err == nil:
			b.Put(storage.Member.Key(e.ID()), e.Bytes())
		case errors.Is(err, trust.ErrKnown), errors.As(err, &parent):
		default:
			// Whoever relays it may be honest; what else it sends is welcome.
			if refused++; refused == 1 {
				first, why = e.ID(), err
			}
		}
	}
	if refused > 0 {
		log.Warn("membership entries are not accepted", "from", from, "count", refused, "first", first, "error", why)
	}
}
