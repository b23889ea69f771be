package replica_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/internal/hostile"
)

// hostileDevice opens a device over the real engine process.
func (d *device) hostileDevice(log *bytes.Buffer) *engine.Supervisor {
	d.t.Helper()
	e, err := engine.Start(engine.Config{})
	must(d.t, err)
	d.t.Cleanup(func() { _ = e.Close() })
	d.Replica, err = replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	must(d.t, err)
	return e
}

// TestHostileMember gives three devices with real engines everything on the list, in different orders and between records
// of honest members: each chunk is held alike everywhere, or applied, and everything else goes on. Bounds are counted:
// engines that ended, and bytes allocated for each chunk.
func TestHostileMember(t *testing.T) {
	p := practice(t, "surgery", "branch", "home", "forger")
	f := forge(p[3])
	for _, d := range p[1:3] {
		sync(t, p[0], d)
	}
	var sent [][]byte
	last := map[string]string{}
	for _, h := range hostile.List {
		f.Pending = nil
		b := h.Make(f.Forger)
		s, err := chunk.Parse(b)
		must(t, err)
		id := s.ID()
		last[h.Name] = fmt.Sprintf("%x", id[:8])
		sent = append(append(sent, f.Pending...), b)
	}
	orders := uint64(1)
	if os.Getenv("HEAVY") != "" {
		orders = 6
	}
	for seed := range orders {
		t.Run(fmt.Sprint("order ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			var log bytes.Buffer
			var devices []*device
			var engines []*engine.Supervisor
			for _, d := range p[:3] {
				c := &device{t: t, keys: d.keys, twin: d.twin.Crash(), name: d.name}
				engines = append(engines, c.hostileDevice(&log))
				devices = append(devices, c)
			}
			a, b, c := devices[0], devices[1], devices[2]
			var before, after runtime.MemStats
			most := uint64(0)
			for i, at := range sent {
				runtime.ReadMemStats(&before)
				a.take(f.device, at)
				runtime.ReadMemStats(&after)
				most = max(most, after.TotalAlloc-before.TotalAlloc)
				if i%10 == 0 {
					a.put(strings.ReplaceAll(bernd, "bernd", fmt.Sprint("honest", i)), false)
				}
				if rng.IntN(12) == 0 {
					sync(t, a, b)
				}
				if rng.IntN(12) == 0 {
					sync(t, b, c)
				}
			}
			for range 2 {
				for _, i := range rng.Perm(3) {
					sa, sb := sync(t, devices[i], devices[(i+1)%3])
					if !sa.Agreed || !sb.Agreed {
						t.Fatalf("the devices do not agree: %+v\n%+v", sa, sb)
					}
				}
			}
			held := map[string]api.Held{}
			for _, h := range a.heldList(true) {
				held[h.Chunk] = h
			}
			wanted := 0
			for _, h := range hostile.List {
				got, isHeld := held[last[h.Name]]
				if isHeld != (h.State != "") || isHeld && (got.State != h.State || !strings.Contains(got.Reason, h.Reason)) {
					t.Errorf("%s: %q, %q; want %q, %q", h.Name, got.State, got.Reason, h.State, h.Reason)
				}
				if h.State != "" {
					wanted++
				}
			}
			if len(held) != wanted {
				t.Errorf("%d chunks are held, want %d", len(held), wanted)
			}
			for i, d := range devices {
				if d.heldTable() != a.heldTable() {
					t.Errorf("%s holds otherwise:\n%s\n%s", d.name, d.heldTable(), a.heldTable())
				}
				alike(t, a, d)
				s := d.Status()
				if s.Unapplied != 0 || !s.AtEnd || s.Parked+s.Quarantined != wanted {
					t.Errorf("%s: status %+v", d.name, s)
				}
				if got := d.get("Patient/honest0"); !strings.Contains(got, "Kraus") {
					t.Errorf("%s: an honest record is missing", d.name)
				}
				if n := engines[i].Restarts(); n != 0 {
					t.Errorf("%s: the engine ended %d times", d.name, n)
				}
				for _, h := range d.heldList(true) { // what is shown of them can be said in JSON, and steers nothing
					detail, err := d.ShowHeld(t.Context(), h.Chunk)
					must(t, err)
					if detail.Content == nil && detail.Hidden == "" {
						t.Errorf("%s shows nothing and no reason", h.Chunk)
					}
				}
			}
			for _, ref := range []string{"Patient/many", "Patient/steers"} {
				if _, err := a.History(t.Context(), parseRef(t, ref)); err != nil {
					t.Errorf("history of %s: %v", ref, err)
				}
			}
			if strings.Contains(log.String(), hostile.Canary) {
				t.Errorf("a log holds what a chunk says:\n%s", log.String())
			}
			t.Logf("%d chunks, at most %d MB allocated for one", len(sent), most>>20)
			if most > 1<<30 {
				t.Errorf("%d MB were allocated for one chunk", most>>20)
			}
		})
	}
}

// TestHostileLogs lies about a log: what does not continue it is not stored, and stops nothing.
func TestHostileLogs(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	b.put(bernd, false)
	sync(t, a, b)
	theirs, err := chunk.Parse(b.ownLog()[0])
	must(t, err)
	doc := f.Document("logs")
	body := func(id string) *chunk.Changes { return f.ChangesOf(doc, f.Change(doc, hostile.Person(id)...)) }
	nonce := theirs.Header().Nonce

	first := f.Lie(hostile.Liar{}, nil, body("first"))
	a.take(f.device, first)
	for name, lie := range map[string][]byte{
		"a gap":                  f.Lie(hostile.Liar{}, func(p *chunk.Params) { p.Counter, p.Previous = 9, chunk.ID{1} }, body("gap")),
		"the last counter":       f.Lie(hostile.Liar{}, func(p *chunk.Params) { p.Counter, p.Previous = 1<<63-1, chunk.ID{1} }, body("last")),
		"another's chunk before": f.Lie(hostile.Liar{}, func(p *chunk.Params) { p.Previous = theirs.ID() }, body("previous")),
	} {
		if err := a.Arrive(t.Context(), f.Device(), [][]byte{lie}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		a.applyAll()
	}
	// Two chunks at one counter: the first that came is applied, the other is kept beside it.
	f2 := *f.Forger
	second, other := f.Lie(hostile.Liar{}, nil, body("second")), f2.Lie(hostile.Liar{}, nil, body("other"))
	a.take(f.device, second, other)
	// Another's nonce under one's own name is a log of one's own.
	a.take(f.device, f.Lie(hostile.Liar{Nonce: &nonce}, func(p *chunk.Params) { p.Counter, p.Previous = 1, chunk.ID{} }, body("nonce")))
	// Another's chunk under the forger's signature.
	stolen := bytes.Clone(theirs.Bytes())
	copy(stolen[len(stolen)-64:], f.keys.Sign("chartmesh chunk 1", []byte("x")))
	if err := a.Arrive(t.Context(), f.Device(), [][]byte{stolen}); err != nil {
		t.Errorf("a stolen chunk: %v", err)
	}
	for name, junk := range map[string][]byte{"nothing": nil, "text": []byte(hostile.Canary), "a torn chunk": first[:100]} {
		if err := a.Arrive(t.Context(), f.Device(), [][]byte{junk}); err == nil {
			t.Errorf("%s was taken for a chunk", name)
		}
	}
	scope := f.Scope
	if v := a.Vector(scope); v[chunk.CurrentLog(f.keys)].Counter != 2 || len(v) != 3 {
		t.Errorf("the vector says %v", v)
	}
	sync(t, a, b)
	alike(t, a, b)
	if s := a.Status(); s.Unapplied != 0 || !s.AtEnd {
		t.Errorf("status %+v", s)
	}
	a.put(anna, false)
	sync(t, a, b)
	if got := b.get("Patient/anna"); !strings.Contains(got, "Anna") {
		t.Error("records do not go on")
	}
}
