package anchor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"testing"
	"time"

	"chartmesh/anchor/kept"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// retained is a practice of several devices, and an anchor's part of it over a store in memory.
type retained struct {
	*customer
	t       *testing.T
	self    *identity
	twin    *storage.Twin
	p       *part
	writers []*writer
}

// writer is a device with its log.
type writer struct {
	*keyring.Keyring
	r    *retained
	logs []chunk.Sealed
	from int // before the last MintLog
}

// part is what an anchor holds of the practice.
type part struct {
	*kept.Practice
	store storage.Store
	hours time.Duration // that have gone by
}

// newRetained founds a practice of as many devices, the first an administrator's.
func newRetained(t *testing.T, devices int) *retained {
	t.Helper()
	self, err := openIdentity(t.TempDir())
	must(t, err)
	r := &retained{customer: newCustomer(t, "Berg"), t: t, self: self, twin: storage.NewTwin()}
	r.enter(r.keys.AddAnchor(r.state, self.Device(), []string{"/ip4/127.0.0.1/tcp/1"}, "anchor", time.Now()))
	r.writers = append(r.writers, &writer{Keyring: r.keys, r: r})
	for range devices - 1 {
		r.joins(trust.RoleMember)
	}
	r.p = r.open(r.twin)
	r.brings(r.p)
	return r
}

// joins admits a device.
func (r *retained) joins(role trust.Role) *writer {
	r.t.Helper()
	keys, err := keyring.Create("", nil)
	must(r.t, err)
	r.enter(r.keys.Admit(r.state, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Role: role, DeviceName: "d", SiteName: "s", Now: time.Now()}))
	must(r.t, keys.Learn(r.state))
	w := &writer{Keyring: keys, r: r}
	r.writers = append(r.writers, w)
	return w
}

// open holds the practice over a store, as a start of the anchor does.
func (r *retained) open(store storage.Store) *part {
	r.t.Helper()
	p := &part{store: storage.Part(store, 7)}
	p.Practice = kept.New(kept.Config{ID: r.state.Practice(), Self: r.self, Store: p.store})
	must(r.t, p.Open(r.t.Context()))
	return p
}

// crash loses what was not durable and starts anew.
func (r *retained) crash() {
	r.t.Helper()
	r.twin = r.twin.Crash()
	r.p = r.open(r.twin)
}

func (r *retained) takes(chunks ...chunk.Sealed) {
	r.t.Helper()
	var list [][]byte
	for _, s := range chunks {
		list = append(list, s.Bytes())
	}
	must(r.t, r.p.Arrive(r.t.Context(), r.keys.Device(), list))
}

// settles gives a practice its turns, with no grace, until there are none.
func settles(ctx context.Context, p *part) error {
	p.hours += kept.JudgeEvery
	for more := true; more; {
		var err error
		if more, err = p.Settle(ctx, time.Now().Add(p.hours), 0); err != nil {
			return err
		}
	}
	return nil
}

// stored counts chunks and skips.
func stored(t testing.TB, p *part) (chunks, skips int) {
	t.Helper()
	must(t, p.store.View(func(v storage.Reader) error {
		if err := v.Keys(storage.Chunk.All(), nil, func([]byte) error { chunks++; return nil }); err != nil {
			return err
		}
		return v.Keys(storage.Skip.All(), nil, func([]byte) error { skips++; return nil })
	}))
	return chunks, skips
}

// notes counts the checkpoints that are not settled.
func notes(t testing.TB, p *part) (n int) {
	t.Helper()
	must(t, p.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Unsettled.All(), nil, func([]byte) error { n++; return nil })
	}))
	return n
}

// keeps settles, and holds that so many chunks and skips are stored then.
func (r *retained) keeps(what string, chunks, skips int) {
	r.t.Helper()
	must(r.t, settles(r.t.Context(), r.p))
	if c, s := stored(r.t, r.p); c != chunks || s != skips {
		r.t.Fatalf("%s: %d chunks and %d skips are stored, want %d and %d", what, c, s, chunks, skips)
	}
}

// passesOn gives all that a practice holds to another anchor, and returns what that holds then.
func (r *retained) passesOn(from *part, to *part) *part {
	r.t.Helper()
	ctx, scope := r.t.Context(), r.scope()
	for range 100 {
		var list [][]byte
		has := to.Vector(scope)
		for _, log := range slices.SortedFunc(maps.Keys(from.Vector(scope)), chunk.LogID.Compare) {
			items, err := from.Chunks(scope, log, has[log].Counter, 1<<20)
			must(r.t, err)
			for _, it := range items {
				list = append(list, it.Bytes)
			}
		}
		if len(list) == 0 {
			break
		}
		must(r.t, to.Arrive(ctx, r.keys.Device(), list))
	}
	return to
}

// fresh is an anchor's part that holds nothing yet.
func (r *retained) fresh() *part {
	r.t.Helper()
	p := r.open(storage.NewTwin())
	r.brings(p)
	return p
}

// complete holds that whoever has nothing gets all of it from the anchor alone.
func (r *retained) complete(what string) {
	r.t.Helper()
	got, want := r.passesOn(r.p, r.fresh()).Vector(r.scope()), chunk.Vector{}
	for _, w := range r.writers {
		for _, s := range w.logs {
			if at := s.Position(); at.Counter > want[s.Log()].Counter {
				want[s.Log()] = at
			}
		}
	}
	if !maps.Equal(got, want) {
		r.t.Fatalf("%s: a newcomer gets to %v of %v", what, got, want)
	}
}

// seal writes the next chunk of the device's log.
func (w *writer) seal(body chunk.Body) chunk.Sealed {
	w.r.t.Helper()
	must(w.r.t, w.Learn(w.r.state))
	p := chunk.Params{Membership: w.r.state, Scope: w.r.scope(), Log: chunk.CurrentLog(w.Keyring), Counter: 1, Dictionary: chunk.Dictionary1}
	if n := len(w.logs); n > w.from {
		p.Counter, p.Previous = w.logs[n-1].Header().Counter+1, w.logs[n-1].ID()
	}
	s, err := chunk.Seal(w.Keyring, p, body)
	must(w.r.t, err)
	w.logs = append(w.logs, s)
	return s
}

// edits changes a document.
func (w *writer) edits(document byte, n int) (list []chunk.Sealed) {
	w.r.t.Helper()
	for range n {
		list = append(list, w.edit(document, []byte("change")))
	}
	return list
}

func (w *writer) edit(document byte, raw []byte) chunk.Sealed {
	w.r.t.Helper()
	return w.seal(&chunk.Changes{Document: [32]byte{document}, Schema: 1, Author: "a", Origin: chunk.OriginEdit,
		Changes: []chunk.Change{{Raw: raw}}, Authorship: []chunk.Authorship{{Seq: 1, Newest: [32]byte{1}}}})
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	must(t, err)
	return b
}

// says gives the device's word on a checkpoint.
func (w *writer) says(document byte, on chunk.Sealed, good bool) chunk.Sealed {
	w.r.t.Helper()
	return w.seal(&chunk.Cover{Document: [32]byte{document}, Checkpoint: on.Place(), OK: good})
}

// packs makes a checkpoint that covers some chunks.
func (w *writer) packs(document byte, covered ...chunk.Sealed) chunk.Sealed {
	w.r.t.Helper()
	return w.seal(packed(document, covered...))
}

// packed is the body of a checkpoint that covers some chunks.
func packed(document byte, covered ...chunk.Sealed) *chunk.Checkpoint {
	covered = slices.SortedFunc(slices.Values(covered), func(a, b chunk.Sealed) int {
		return cmp.Or(a.Log().Compare(b.Log()), cmp.Compare(a.Header().Counter, b.Header().Counter))
	})
	c := &chunk.Checkpoint{Document: [32]byte{document}}
	for _, s := range covered {
		if k := s.LogKey(); !slices.Contains(c.Logs, k) {
			c.Logs = append(c.Logs, k)
		}
	}
	slices.SortFunc(c.Logs, func(a, b chunk.LogKey) int {
		return cmp.Or(bytes.Compare(a.Device[:], b.Device[:]), bytes.Compare(a.Nonce[:], b.Nonce[:]))
	})
	wrote := map[int]bool{}
	for _, s := range covered {
		at := chunk.Spot{Log: slices.Index(c.Logs, s.LogKey()), Counter: s.Header().Counter}
		before := chunk.At(at.Counter-1, s.Header().Previous).Tip
		if n := len(c.Covers); n > 0 && c.Covers[n-1].Log == s.Log() && c.Covers[n-1].To+1 == at.Counter {
			run := &c.Covers[n-1]
			run.To, run.Last, run.Tips = at.Counter, s.ID(), append(run.Tips, before)
		} else {
			c.Covers = append(c.Covers, chunk.Covered{Run: chunk.Run{Log: s.Log(), From: at.Counter, To: at.Counter, Last: s.ID()}, Tips: []chunk.Tip{before}})
		}
		if s.Header().Kind == chunk.KindCheckpoint || s.Header().Kind == chunk.KindCover {
			c.Others = append(c.Others, at)
			continue
		}
		c.Parts = append(c.Parts, chunk.Part{Spot: at, Schema: 1, Author: "a", Origin: chunk.OriginEdit, Changes: []chunk.Change{{Raw: []byte("change")}}})
		wrote[at.Log] = true
	}
	slices.SortFunc(c.Others, func(a, b chunk.Spot) int { return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.Counter, b.Counter)) })
	for _, log := range slices.Sorted(maps.Keys(wrote)) {
		c.Authorship = append(c.Authorship, chunk.Word{Log: log, Authorship: chunk.Authorship{Seq: 1, Newest: [32]byte{1}}})
	}
	return c
}

// older holds the practice as a build did that kept everything.
func (r *retained) older() *logs.Set {
	r.t.Helper()
	set, _, err := logs.Open(r.t.Context(), logs.Config{Store: storage.Part(r.twin, 7), State: func() *trust.State { return r.state }})
	must(r.t, err)
	return set
}
