package main

import (
	"context"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

// scriptForge appends a chunk that no honest agent writes to the log of a data folder that no agent has open. Its devices
// take it for what it is: a chunk of that member's.
func scriptForge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: forge DATA-FOLDER")
	}
	dir := ts.MkAbs(args[0])
	keys, err := keyring.Open(dir, nil)
	ts.Check(err)
	store, err := storage.Open(filepath.Join(dir, "records"), keys.StoreKey(), storage.Options{})
	ts.Check(err)
	var entries []trust.Entry
	log, counter, previous := chunk.CurrentLog(keys), uint64(0), chunk.ID{}
	var scope trust.ScopeID
	ts.Check(store.View(func(v storage.Reader) error {
		if err := v.Scan(storage.Member.All(), nil, func(_, value []byte) error {
			e, err := trust.ParseEntry(append([]byte(nil), value...))
			entries = append(entries, e)
			return err
		}); err != nil {
			return err
		}
		st, _ := trust.Replay(entries)
		scope, _ = st.ScopeNamed(trust.ScopeClinical)
		head, err := v.Get(storage.LogHead.Key(scope, log))
		if err != nil {
			return nil // its log is empty
		}
		r := wire.NewReader(head[1:])
		counter = r.Uvarint(1 << 62)
		r.Fixed(previous[:])
		return r.Close()
	}))
	st, _ := trust.Replay(entries)
	ts.Check(keys.Learn(st))
	doc, err := keys.DocumentID(scope, "section", "mallory", "core")
	ts.Check(err)
	s, err := chunk.Seal(keys, chunk.Params{Membership: st, Scope: scope, Log: log, Counter: counter + 1, Previous: previous}, &chunk.Changes{
		Document: doc, TimeMillis: 1_790_000_000_000, Author: "Mallory \x1b[2J", Origin: chunk.OriginEdit,
		Changes: []chunk.Change{{Raw: []byte("no change at all")}}, Authorship: []chunk.Authorship{{Seq: 1}},
	})
	ts.Check(err)
	var head wire.Writer
	id := s.ID()
	head.Byte(1)
	head.Uvarint(counter + 1)
	head.Raw(id[:])
	var b storage.Batch
	b.Put(storage.Chunk.Key(scope, log, counter+1), s.Bytes())
	b.Put(storage.LogHead.Key(scope, log), head.Bytes())
	ts.Check(store.Commit(context.Background(), &b))
	ts.Check(store.Close())
}
