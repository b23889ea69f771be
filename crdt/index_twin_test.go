package crdt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Ancestors, heads and the rest against closed sets, over random histories.
func TestAncestorsAgainstTwin(t *testing.T) {
	for range 30 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		w, x := newWorld(rng), NewIndex(DocumentID{})
		for range 60 {
			c := w.step(t)
			r, err := x.Judge(c)
			if err != nil {
				t.Fatalf("seed %d: an honest change: %v\n%+v", seed, err, c)
			}
			checkRecord(t, r, c)
			if err := x.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		hashOf := func(i int) ChangeHash { return w.changes[i].Hash }
		sorted := func(hs []ChangeHash) []ChangeHash {
			slices.SortFunc(hs, func(a, b ChangeHash) int { return bytes.Compare(a[:], b[:]) })
			return slices.Compact(hs)
		}
		var all []int
		for i := range w.changes {
			all = append(all, i)
		}
		heads := func(set []int) (hs []ChangeHash) {
			for _, i := range set {
				if !slices.ContainsFunc(set, func(k int) bool { return k != i && w.sees[k][i] }) {
					hs = append(hs, hashOf(i))
				}
			}
			return sorted(hs)
		}
		check := func(what string, ok bool) {
			if !ok {
				t.Fatalf("%s is wrong; seed %d", what, seed)
			}
		}
		check("Heads", slices.Equal(x.Heads(), heads(all)))
		for a := range all {
			for b := range all {
				check("IsAncestor", x.IsAncestor(hashOf(a), []ChangeHash{{1}, hashOf(b)}) == w.sees[b][a])
			}
		}
		for range 100 {
			var set []int
			var hs []ChangeHash
			for range 1 + rng.IntN(5) {
				set = append(set, rng.IntN(len(all)))
				hs = append(hs, hashOf(set[len(set)-1]))
			}
			check("HeadsOf", slices.Equal(x.HeadsOf(hs), heads(set)))
			for actor := byte(1); actor <= worldActors; actor++ {
				var seq uint64
				var outside bool
				for i, c := range w.changes {
					if c.Actor == testActor(actor) {
						if slices.ContainsFunc(set, func(k int) bool { return w.sees[k][i] }) {
							seq = max(seq, c.Seq)
						} else {
							outside = true
						}
					}
				}
				gotSeq, gotOutside := x.LastSeqIn(testActor(actor), hs)
				check("LastSeqIn", gotSeq == seq && gotOutside == outside)
			}
		}
		for n := range 4 {
			key := fmt.Sprintf("Patient/%d", n)
			var touched []int
			for i, r := range x.Records() {
				if slices.Contains(r.Keys, key) {
					touched = append(touched, i)
				}
			}
			check("KeyHeads", slices.Equal(x.KeyHeads(key), heads(touched)))
			check("Touched", len(x.Touched(key)) == len(touched))
		}
	}
}

// Whatever the order of arrival, every change has the same verdict.
func TestVerdictsDoNotDependOnArrival(t *testing.T) {
	reasons := map[string]int{}
	for range 60 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(rng)
		w.honest = false
		for range 40 {
			w.step(t)
		}
		var first map[ChangeHash]string
		for try := range 4 {
			got, x := arrive(t, w.changes, rng.Perm(len(w.changes)))
			if try == 0 {
				first = got
				for _, v := range got {
					reasons[v]++
				}
			}
			for h, v := range got {
				// Which of two changes of one actor and number is held is a matter of arrival, and so is what builds on
				// either; that each was acceptable is not. Refusals are always the same.
				if v != first[h] && (refusal(v) || refusal(first[h])) && v != "missing" && first[h] != "missing" {
					t.Fatalf("change %v: %q and %q; seed %d", h, first[h], v, seed)
				}
			}
			if !hasEquivocation(got) && !hasEquivocation(first) {
				for h, v := range got {
					if v != first[h] {
						t.Fatalf("change %v: %q and %q; seed %d", h, first[h], v, seed)
					}
				}
			}
			rebuilt := NewIndex(DocumentID{})
			for _, r := range x.Records() {
				saved, _ := r.AppendBinary(nil)
				parsed, err := ParseRecord(saved)
				if err != nil {
					t.Fatal(err)
				}
				if err := rebuilt.Add(parsed); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range w.changes {
				_, err := x.Judge(c)
				_, rebuiltErr := rebuilt.Judge(c)
				if fmt.Sprint(err) != fmt.Sprint(rebuiltErr) {
					t.Fatalf("change %v: %v, by rebuilt index %v; seed %d", c.Hash, err, rebuiltErr, seed)
				}
			}
		}
	}
	t.Log(reasons)
	if len(reasons) < 12 {
		t.Errorf("few verdicts were tried: %v", reasons)
	}
}

func refusal(verdict string) bool { return strings.HasPrefix(verdict, "change refused") }

func hasEquivocation(verdicts map[ChangeHash]string) bool {
	for _, v := range verdicts {
		if v == "equivocation" {
			return true
		}
	}
	return false
}

// arrive judges changes as they come, parking those whose dependencies are not there.
func arrive(t *testing.T, changes []*Change, order []int) (map[ChangeHash]string, *Index) {
	verdicts, x := map[ChangeHash]string{}, NewIndex(DocumentID{})
	for _, i := range order {
		verdicts[changes[i].Hash] = "missing"
		for again := true; again; {
			again = false
			for _, c := range changes {
				if verdicts[c.Hash] != "missing" {
					continue
				}
				r, err := x.Judge(c)
				var missing *Missing
				var twice *Equivocation
				switch {
				case err == nil:
					verdicts[c.Hash] = "accepted"
					if err := x.Add(r); err != nil {
						t.Fatal(err)
					}
					again = true
				case errors.As(err, &missing):
				case errors.As(err, &twice):
					verdicts[c.Hash] = "equivocation"
				default:
					verdicts[c.Hash] = err.Error()
				}
			}
		}
	}
	return verdicts, x
}
