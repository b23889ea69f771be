package logs

import (
	"errors"
	"fmt"
	"log/slog"

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
