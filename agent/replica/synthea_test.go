package replica_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/storage"
)

func TestMain(m *testing.M) {
	engine.ChildMain()
	os.Exit(m.Run())
}

// onDisk puts a device on a real store and the supervised engine.
func (d *device) onDisk() {
	d.t.Helper()
	s, err := storage.Open(d.t.TempDir(), d.keys.StoreKey(), storage.Options{})
	must(d.t, err)
	var b storage.Batch
	for _, e := range d.State().Entries() {
		b.Put(storage.Member.Key(e.ID()), e.Bytes())
	}
	must(d.t, s.Commit(d.t.Context(), &b))
	e, err := engine.Start(engine.Config{})
	must(d.t, err)
	d.t.Cleanup(func() { _ = e.Close(); _ = s.Close() })
	d.Replica, err = replica.Open(replica.Config{Store: s, Keyring: d.keys, Engine: e})
	must(d.t, err)
}

// TestData imports a folder of FHIR files that CHARTMESH_TESTDATA names, twice, and syncs it to an empty device.
func TestData(t *testing.T) {
	dir := os.Getenv("CHARTMESH_TESTDATA")
	if dir == "" {
		t.Skip("CHARTMESH_TESTDATA names no folder")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json.gz"))
	must(t, err)
	slices.Sort(files)
	last := map[string][2]int{}
	var bundles [][]json.RawMessage
	for _, name := range files {
		f, err := os.Open(name)
		must(t, err)
		var bundle []json.RawMessage
		must(t, fhir.ReadFile(name, f, func(it fhir.Item) error {
			must(t, it.Err)
			key := it.Resource.Type() + "/" + it.Resource.ID()
			if at, again := last[key]; again {
				if at[0] == len(bundles) {
					bundle[at[1]] = nil
				} else {
					bundles[at[0]][at[1]] = nil
				}
			}
			last[key] = [2]int{len(bundles), len(bundle)}
			bundle = append(bundle, fhir.AppendCanonical(nil, it.Resource))
			return nil
		}))
		bundles = append(bundles, bundle)
		must(t, f.Close())
	}
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.onDisk()
	b.onDisk()
	run := func() (sum api.ImportResult) {
		began := time.Now()
		for _, bundle := range bundles {
			var batch api.ImportBatch
			for _, raw := range bundle {
				if raw != nil {
					batch.Resources = append(batch.Resources, raw)
				}
			}
			res, err := a.Import(t.Context(), "importer", batch)
			must(t, err)
			sum.Created, sum.Changed, sum.Unchanged = sum.Created+res.Created, sum.Changed+res.Changed, sum.Unchanged+res.Unchanged
			for _, r := range res.Refused {
				t.Error(r.Reason)
			}
		}
		took := time.Since(began)
		t.Logf("%+v in %v: %.0f resources/s", sum, took, float64(len(last))/took.Seconds())
		return sum
	}
	if first := run(); first.Created != len(last) {
		t.Fatalf("created %d of %d", first.Created, len(last))
	}
	if again := run(); again.Unchanged != len(last) {
		t.Fatalf("importing again: %+v", again)
	}
	began := time.Now()
	sa, _ := sync(t, a, b)
	t.Logf("first sync %v, %d bytes out, %d in, %d chunks", time.Since(began), sa.BytesOut, sa.BytesIn, sa.ChunksOut)
	if a.export() != b.export() {
		t.Fatal("exports differ")
	}
}
