package replica_test

import (
	"bytes"
	"math/rand/v2"
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
