package anchor

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"chartmesh/internal/compat"
)

const compatDir = "../testdata/compat/anchor"

// compatState is what a folder must still say when a later build opens it.
type compatState struct {
	PeerID    string
	Practices []compatPractice
}

type compatPractice struct {
	ID, Admitted string
	Number       uint64
	Devices      int
	Chunks       uint64
	Bytes        int // of the chunks that it sends
}

func stateOf(t *testing.T, a *Anchor) (c compatState) {
	t.Helper()
	s, err := a.Status()
	must(t, err)
	c.PeerID = s.PeerID
	for _, p := range a.mu.practices {
		s := p.status()
		one := compatPractice{ID: s.ID, Admitted: s.Admitted.String(), Number: p.Number, Devices: s.Devices, Chunks: s.Chunks}
		for _, scope := range p.State().Scopes() {
			for log := range p.Vector(scope.ID) {
				items, err := p.Chunks(scope.ID, log, 0, 1<<20)
				must(t, err)
				for _, it := range items {
					one.Bytes += len(it.Bytes)
				}
			}
		}
		c.Practices = append(c.Practices, one)
	}
	return c
}

// TestCompat opens every folder that earlier builds wrote: what they held must read the same.
func TestCompat(t *testing.T) {
	compat.Each(t, compatDir, func(t *testing.T, dir string, want []byte) {
		got, err := json.MarshalIndent(stateOf(t, openAnchor(t, dir)), "", "\t")
		must(t, err)
		if !bytes.Equal(append(got, '\n'), want) {
			t.Errorf("the folder says\n%s\nand said\n%s", got, want)
		}
	})
}

// TestWriteCompat writes a folder for later builds: CHARTMESH_WRITE_COMPAT names it, as "1" for testdata/compat/anchor/1.
func TestWriteCompat(t *testing.T) {
	name := os.Getenv("CHARTMESH_WRITE_COMPAT")
	if name == "" {
		t.Skip("CHARTMESH_WRITE_COMPAT names no folder")
	}
	dir := filepath.Join(t.TempDir(), "anchor")
	a := openAnchor(t, dir)
	berg := newCustomer(t, "Praxis Kompat")
	p := berg.admitted(a)
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{berg.seals("one").Bytes(), berg.seals("two").Bytes()}))
	state, err := json.MarshalIndent(stateOf(t, a), "", "\t")
	must(t, err)
	must(t, a.Close())
	compat.Keep(t, dir, append(state, '\n'), filepath.Join(compatDir, name))
}
