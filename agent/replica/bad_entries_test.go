package replica_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/trust/keyring"
)

// TestManyBadEntries sends membership entries that no device accepts: all of a frame make one line of log, which counts them.
func TestManyBadEntries(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a := p[0]
	var lines bytes.Buffer
	e := engine.NewLocal()
	defer func() { _ = e.Close() }()
	var err error
	a.Replica, err = replica.Open(replica.Config{Store: a.twin, Keyring: a.keys, Engine: e, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	must(t, err)
	var entries [][]byte
	for range 20 {
		keys, err := keyring.Create("", nil)
		must(t, err)
		other, _, err := keys.Found(keyring.FoundOptions{Practice: "Another", Site: "site", Device: "device", Now: time.Now()})
		must(t, err)
		entries = append(entries, other.Bytes())
	}
	before := len(a.EntriesSince(nil))
	lines.Reset()
	must(t, a.AddEntries(t.Context(), p[1].Device(), entries))
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), "count=20") {
		t.Errorf("%d lines of log:\n%.500s", n, lines.String())
	}
	if n := len(a.EntriesSince(nil)); n != before {
		t.Errorf("%d entries of %d", n, before)
	}
}
