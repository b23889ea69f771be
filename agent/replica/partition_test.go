package replica_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"chartmesh/chunk"
)

// Twenty devices fall apart into ten and ten; on one side one is removed, which writes on with the other ten; both sides edit.
// After they meet again, nineteen agree, what the removed device wrote beyond its cut is kept aside unless somebody built on it, no
// honest edit is lost, and the removed device opens nothing that was written under the new keys.
func TestRemovedBehindAPartition(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d go test -run '^%s$' ./agent/replica", seed, t.Name())
	rng := rand.New(rand.NewPCG(seed, 1))
	names := make([]string, 20)
	for i := range names {
		names[i] = fmt.Sprintf("d%02d", i)
	}
	all := practice(t, names...)
	for i := range 5 {
		all[0].put(fmt.Sprintf(`{"resourceType":"Patient","id":"p%d","birthDate":"1970-01-01"}`, i), false)
	}
	meet(t, all...)
	near, far, gone := all[:10], all[10:], all[19]

	var honest []string // values that must be shown or listed
	edit := func(d *device, i int) {
		value := fmt.Sprintf("token-%d-%s", i, d.name)
		d.edit(fmt.Sprintf("Patient/p%d", rng.IntN(5)), func(o map[string]any) {
			names, _ := o["name"].([]any)
			o["name"] = append(names, map[string]any{"family": value})
		})
		if d != gone {
			honest = append(honest, value)
		}
	}
	near[0].remove(gone)
	for i := range 40 {
		d := all[rng.IntN(len(all))]
		edit(d, i)
		side := near
		if rng.IntN(2) == 0 {
			side = far
		}
		sync(t, side[rng.IntN(10)], side[rng.IntN(10)])
	}
	left := all[:19]
	meet(t, left...)
	agree(t, left...)
	shown := left[0].export()
	for _, c := range left[0].conflicts() {
		for _, v := range c.Values {
			shown += string(v.Value)
		}
	}
	for _, value := range honest {
		if !strings.Contains(shown, value) {
			t.Errorf("%s is neither shown nor listed", value)
		}
	}
	t.Logf("%d chunks of the removed device are kept aside", len(left[0].quarantined()))
	// With every entry and every chunk at hand.
	must(t, gone.keys.Learn(left[0].State()))
	later := 0
	for _, scope := range left[0].State().Scopes() {
		for _, log := range left[0].Vector(scope.ID).Logs() {
			items, err := left[0].Chunks(scope.ID, log, 0, 1<<30)
			must(t, err)
			for _, it := range items {
				sealed, err := chunk.Parse(it.Bytes)
				must(t, err)
				if sealed.Header().Epoch == scope.Epochs[0].ID {
					continue
				}
				later++
				if _, err := chunk.Open(gone.keys, sealed); !errors.Is(err, chunk.ErrNoKey) {
					t.Errorf("the removed device opens a chunk of a later epoch: %v", err)
				}
				if _, err := chunk.Open(left[1].keys, sealed); err != nil {
					t.Errorf("a remaining device does not: %v", err)
				}
			}
		}
	}
	if later == 0 {
		t.Error("nothing was written under a later epoch")
	}
}

// meet brings devices together at the first.
func meet(t *testing.T, devices ...*device) {
	t.Helper()
	for range 2 {
		for _, d := range devices[1:] {
			sync(t, devices[0], d)
		}
	}
}
