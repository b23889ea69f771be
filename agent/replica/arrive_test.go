package replica_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// blob is a chunk of a given size whose body no chunk of this version has.
func (f *forger) blob(size int) []byte {
	f.t.Helper()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(f.counter)})
	_, _ = r.Read(data)
	return f.seal(&chunk.Opaque{Type: chunk.KindBlobManifest, Document: f.document("blob"), Content: data})
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
		got, err := d.Chunks(f.scope, chunk.CurrentLog(f.keys), 5, 1)
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
	f.counter, f.last = 0, chunk.ID{}
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
		f.counter, f.last = 0, chunk.ID{}
		chunks = append(chunks, f.seal(&chunk.Opaque{Type: chunk.KindBlobManifest}))
	}
	must(t, a.Arrive(t.Context(), f.Device(), chunks[:600]))
	a.crash()
	must(t, a.Arrive(t.Context(), f.Device(), chunks[300:])) // half of them again
	held := len(a.Vector(f.scope))
	if held != 1024 {
		t.Errorf("%d logs of one device are held", held)
	}
	b.put(bernd, false)
	sync(t, a, b)
	if got := a.get("Patient/bernd"); !strings.Contains(got, "Kraus") {
		t.Error("what another device writes does not arrive")
	}
	if n := len(a.Vector(f.scope)); n != held+1 {
		t.Errorf("%d logs are held after another device's first", n)
	}
}
