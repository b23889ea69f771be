package hostile

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

// Folder is the data folder of a member, which no agent has open. What is stored there under its own log, its agent hands on
// as it is.
type Folder struct {
	*Forger
	store storage.Store
}

// OpenFolder opens the data folder that chartmesh init or join made. The forger goes on where its log ends.
func OpenFolder(t testing.TB, dir string) *Folder {
	t.Helper()
	keys, err := keyring.Open(dir, nil)
	must(t, err)
	store, err := storage.Open(filepath.Join(dir, "records"), keys.StoreKey(), storage.Options{})
	must(t, err)
	var entries []trust.Entry
	must(t, store.View(func(v storage.Reader) error {
		return v.Scan(storage.Member.All(), nil, func(_, value []byte) error {
			e, err := trust.ParseEntry(append([]byte(nil), value...))
			entries = append(entries, e)
			return err
		})
	}))
	st, _ := trust.Replay(entries)
	must(t, keys.Learn(st))
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok {
		t.Fatal("the practice has no clinical records")
	}
	f := &Forger{T: t, Keys: keys, Membership: func() *trust.State { return st }, Scope: scope}
	must(t, store.View(func(v storage.Reader) error {
		head, err := v.Get(storage.LogHead.Key(scope, chunk.CurrentLog(keys)))
		if errors.Is(err, storage.ErrNotFound) {
			return nil // its log is empty
		} else if err != nil {
			return err
		}
		r := wire.NewReader(head[1:])
		f.Counter = r.Uvarint(1 << 62)
		r.Fixed(f.Last[:])
		return r.Close()
	}))
	return &Folder{f, store}
}

// Store stores chunks of its log at the places that they name, and has the log end with the last of them.
func (d *Folder) Store(sealed ...[]byte) {
	d.T.Helper()
	for _, raw := range sealed {
		s, err := chunk.Parse(raw)
		must(d.T, err)
		id := s.ID()
		var head wire.Writer
		head.Byte(1)
		head.Uvarint(s.Header().Counter)
		head.Raw(id[:])
		var b storage.Batch
		b.Put(storage.Chunk.Key(d.Scope, s.Log(), s.Header().Counter), raw)
		b.Put(storage.LogHead.Key(d.Scope, s.Log()), head.Bytes())
		must(d.T, d.store.Commit(context.Background(), &b))
	}
}

// Close ends the work on the folder, so that an agent can have it.
func (d *Folder) Close() {
	d.T.Helper()
	must(d.T, d.store.Close())
}
