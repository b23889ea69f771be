package replica_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// TestNewLogCutShort fills the disk at every commit of a device that was rolled back, learns of it and begins a new log,
// and restarts it or goes on when there is room again. It writes nothing under a log that is not noted as its own, and
// has one log more in the end.
func TestNewLogCutShort(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			for cut := range 100 {
				if beginCutShort(t, cut, restart) {
					if cut < 2 {
						t.Errorf("it took %d commits", cut)
					}
					return
				}
			}
			t.Fatal("it never came to its end")
		})
	}
}

// beginCutShort reports whether everything was written before the disk was full.
func beginCutShort(t *testing.T, cut int, restart bool) (done bool) {
	dir := filepath.Join(t.TempDir(), "keys")
	keys, err := keyring.Create(dir, nil)
	must(t, err)
	e, _, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "surgery", Device: "surgery", Now: time.Now()})
	must(t, err)
	a := start(t, keys, "surgery", []trust.Entry{e})
	b := admit(t, a, "branch")
	patient := func(id string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, id))
	}
	a.put(string(patient("p1")), false)
	sync(t, a, b)
	was := a.twin.Copy()
	a.put(string(patient("p2")), false)
	sync(t, a, b)

	disk := &cutShort{was, 1 << 30}
	open := func() {
		t.Helper()
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		r, err := replica.Open(replica.Config{Store: disk, Keyring: keys, Engine: e})
		must(t, err)
		a = &device{Replica: r, t: t, keys: keys, twin: was, name: "surgery"}
	}
	open()
	a.put(string(patient("p3")), false)
	old, scope := chunk.CurrentLog(keys), clinical(t, a)
	items, err := b.Chunks(scope, old, 0, 1<<20)
	must(t, err)
	var raw [][]byte
	for _, it := range items {
		raw = append(raw, it.Bytes)
	}
	disk.left = cut
	must(t, a.Arrive(t.Context(), b.Device(), raw))
	if chunk.CurrentLog(keys) == old {
		t.Fatalf("cut at commit %d: it goes on under a log that another history is known of", cut)
	}
	_, err = a.Put(t.Context(), "user", patient("p4"), false)
	if err != nil && !errors.Is(err, storage.ErrNoRoom) {
		t.Fatalf("cut at commit %d: %v", cut, err)
	}
	done = err == nil
	if _, _, known := a.Written(); known != (len(a.OwnLogs()) == 2) {
		t.Errorf("cut at commit %d: how far it has written is known: %v", cut, known)
	}
	if restart {
		disk.left = 0
		keys, err = keyring.Open(dir, nil)
		must(t, err)
		open()
		if _, err := a.Put(t.Context(), "user", patient("p5"), false); !errors.Is(err, storage.ErrNoRoom) {
			t.Fatalf("cut at commit %d: with a full disk: %v", cut, err)
		}
	}
	disk.left = 1 << 30
	a.put(string(patient("p5")), false)
	logs := a.OwnLogs()
	log, chunks, known := a.Written()
	if len(logs) != 2 || logs[1].ID != chunk.CurrentLog(keys) || log != logs[1].ID || chunks == 0 || !known {
		t.Errorf("cut at commit %d: its logs are %+v, it has written %d of %v", cut, logs, chunks, log)
	}
	settleAll(t, a, b)
	sameEverywhere(t, a, b)
	for _, id := range []string{"p1", "p2", "p3", "p5"} {
		b.get("Patient/" + id)
	}
	if done {
		b.get("Patient/p4")
	}
	return done
}
