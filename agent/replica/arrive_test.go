package replica_test

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/internal/fuzzing"
	"chartmesh/storage"
)

// blob is a chunk of a given size whose body no chunk of this version has.
func (f *forger) blob(size int) []byte {
	f.t.Helper()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(f.Counter)})
	_, _ = r.Read(data)
	return f.Seal(&chunk.Opaque{Type: chunk.KindBlobManifest, Document: f.Document("blob"), Content: data})
}

// TestLargeChunksArrive brings chunks of the greatest length after others in one frame.
func TestLargeChunksArrive(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	var chunks [][]byte
	for range 3 {
		chunks = append(chunks, f.blob(3<<20), f.blob(7<<20))
	}
	a.take(f.device, chunks...)
	sync(t, a, b)
	for _, d := range []*device{a, b} {
		d.crash()
		got, err := d.Chunks(f.Scope, chunk.CurrentLog(f.keys), 5, 1)
		must(t, err)
		if len(got) != 1 || !bytes.Equal(got[0].Bytes, chunks[5]) {
			t.Fatalf("%s does not hold the last chunk", d.name)
		}
		if s := d.Status(); s.Parked != 6 {
			t.Errorf("status %+v", s)
		}
	}
}

// TestBranchInOneFrame brings both histories of a log at once: both are kept.
func TestBranchInOneFrame(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	one := f.blob(100)
	f.Counter, f.Last = 0, chunk.ID{}
	other := f.blob(200)
	a.take(f.device, one, other)
	if n := a.branches(); n != 1 {
		t.Fatalf("%d branches kept", n)
	}
}

// branches counts the chunks that are kept beside those of their log.
func (d *device) branches() (n int) {
	d.t.Helper()
	must(d.t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Branch.All(), nil, func(_, _ []byte) error {
			n++
			return nil
		})
	}))
	return n
}

// TestLogsOfOneDevice has a member begin ever new logs: what it may name in a vector ends, and what others write goes on.
func TestLogsOfOneDevice(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	var chunks [][]byte
	for range 1100 {
		must(t, f.keys.MintLog())
		f.Counter, f.Last = 0, chunk.ID{}
		chunks = append(chunks, f.Seal(&chunk.Opaque{Type: chunk.KindBlobManifest}))
	}
	must(t, a.Arrive(t.Context(), f.Device(), chunks[:600]))
	a.crash()
	must(t, a.Arrive(t.Context(), f.Device(), chunks[300:])) // half of them again
	held := len(a.Vector(f.Scope))
	if held != 1024 {
		t.Errorf("%d logs of one device are held", held)
	}
	b.put(bernd, false)
	sync(t, a, b)
	if got := a.get("Patient/bernd"); !strings.Contains(got, "Kraus") {
		t.Error("what another device writes does not arrive")
	}
	if n := len(a.Vector(f.Scope)); n != held+1 {
		t.Errorf("%d logs are held after another device's first", n)
	}
}

// TestManyBadSkips sends thousands of skips that name one large checkpoint and are not in it: not each of them costs a
// look into the checkpoint, and all of them make one line of log.
func TestManyBadSkips(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	c := &chunk.Checkpoint{Document: f.Document("section", "x", "core")}
	key := chunk.LogKey{Device: f.Device(), Nonce: f.keys.LogNonce()}
	c.Logs = []chunk.LogKey{key}
	for i := range uint64(20_000) {
		at := 1 + 2*i
		c.Covers = append(c.Covers, chunk.Covered{Run: chunk.Run{Log: key.ID(), From: at, To: at, Last: chunk.ID{1}}, Tips: make([]chunk.Tip, 1)})
		if at > 1 {
			c.Covers[i].Tips[0] = chunk.Tip{1}
		}
		c.Parts = append(c.Parts, chunk.Part{Spot: chunk.Spot{Counter: at}, Schema: fhir.Schema, Origin: chunk.OriginEdit,
			Changes: []chunk.Change{{Raw: []byte{1}}}})
	}
	c.Authorship = []chunk.Word{{Authorship: chunk.Authorship{Seq: 1}}}
	raw := f.Seal(c)
	sealed, err := chunk.Parse(raw)
	must(t, err)
	var lines bytes.Buffer
	e := engine.NewLocal()
	defer func() { _ = e.Close() }()
	a.Replica, err = replica.Open(replica.Config{Store: a.twin, Keyring: a.keys, Engine: e,
		Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	must(t, err)
	must(t, a.Arrive(t.Context(), f.Device(), [][]byte{raw}))
	var skips [][]byte
	for i := range 4000 {
		s := chunk.Skip{Scope: f.Scope, Key: chunk.LogKey{Device: f.Device(), Nonce: [16]byte{9, byte(i >> 8), byte(i)}},
			Run: chunk.Run{From: 1, To: 5}, Checkpoint: sealed.Place()}
		b, err := s.AppendBinary(nil)
		must(t, err)
		skips = append(skips, b)
	}
	lines.Reset()
	took := fuzzing.Allocated(func() { must(t, a.Arrive(t.Context(), f.Device(), skips)) })
	if limit := uint64(40 * (len(raw) + 2<<20)); took > limit {
		t.Errorf("%d bytes were allocated for %d skips, over %d", took, len(skips), limit)
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines of log:\n%.500s", n, lines.String())
	}
	if n := len(a.Vector(f.Scope)); n != 1 {
		t.Errorf("%d logs are held", n)
	}
}
