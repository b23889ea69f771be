//go:build cgo && (linux || darwin) && (amd64 || arm64)

package crdt_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"chartmesh/crdt"
	"chartmesh/crdt/engine"
)

func init() { engine.ChildMain() }

// replica is a document in an engine with the index beside it.
type replica struct {
	t   testing.TB
	e   crdt.Engine
	doc crdt.DocumentID
	x   *crdt.Index
	raw map[crdt.ChangeHash][]byte
}

func newReplica(t testing.TB, e crdt.Engine, n ...byte) *replica {
	r := &replica{t: t, e: e, raw: map[crdt.ChangeHash][]byte{}}
	copy(r.doc[:], n)
	r.x = crdt.NewIndex(r.doc)
	if _, err := e.Load(t.Context(), r.doc, nil, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// judge decodes and judges raw, and takes it into the index if it may.
func (r *replica) judge(raw []byte) (*crdt.Change, error) {
	c, err := crdt.Decode(raw)
	if err != nil {
		return nil, err
	}
	if again := crdt.EncodeChange(c); !bytes.Equal(again, raw) {
		r.t.Fatalf("a change of the engine's\n%x\nis encoded by the twin as\n%x", raw, again)
	}
	record, err := r.x.Judge(c)
	if err != nil {
		return c, err
	}
	if err := r.x.Add(record); err != nil {
		r.t.Fatal(err)
	}
	r.raw[c.Hash] = raw
	return c, nil
}

func (r *replica) wantHeads(s crdt.State, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	if !slices.Equal(s.Heads, r.x.Heads()) {
		r.t.Fatalf("engine has heads %v, index %v", s.Heads, r.x.Heads())
	}
}

// take gives a change from elsewhere to judge and engine.
func (r *replica) take(raw []byte) error {
	if _, err := r.judge(raw); err != nil {
		return err
	}
	r.wantHeads(r.e.Apply(r.t.Context(), r.doc, [][]byte{raw}))
	return nil
}

// reload checks that the engine finds every hash again in its own saved form.
func (r *replica) reload() {
	r.t.Helper()
	saved, err := r.e.Save(r.t.Context(), r.doc)
	if err != nil {
		r.t.Fatal(err)
	}
	r.wantHeads(r.e.Load(r.t.Context(), r.doc, saved, nil))
}

func (r *replica) read() map[string]crdt.Register {
	fields, err := r.e.Read(r.t.Context(), r.doc, nil, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]crdt.Register{}
	for _, f := range fields {
		out[f.Key] = f.Values
	}
	return out
}

// randomValue is a resource or a part of one.
func randomValue(rng *rand.Rand, depth int) crdt.Value {
	switch n := rng.IntN(10); {
	case n < 3 && depth < 3 || depth == 0:
		m := map[string]crdt.Value{}
		for range 1 + rng.IntN(4) {
			m[[]string{"a", "b", "c", "~d", `"e`, "{f", "[g", "", "é"}[rng.IntN(9)]] = randomValue(rng, depth+1)
		}
		return crdt.Value{Kind: crdt.Map, Map: m}
	case n < 5 && depth < 3:
		var list []crdt.Value
		for range rng.IntN(4) {
			list = append(list, randomValue(rng, depth+1))
		}
		return crdt.Value{Kind: crdt.List, List: list}
	case n == 5:
		return crdt.Value{Kind: crdt.Text, Str: []string{"", "Änderung 🩺", "line\nline", "e\u0301"}[rng.IntN(4)]}
	case n == 6:
		return crdt.Value{Kind: crdt.Int, Int: rng.Int64() >> rng.IntN(64)}
	case n == 7:
		return crdt.Value{Kind: crdt.Bool, Int: int64(rng.IntN(2))}
	case n == 8:
		return crdt.Value{Kind: []crdt.Kind{crdt.Null, crdt.Bytes}[rng.IntN(2)], Str: "j1.0"}
	}
	return crdt.Value{Kind: crdt.String, Str: fmt.Sprint("s", rng.IntN(4))}
}

// Whatever this package writes through the real engine passes the validator, at the writer's and everywhere else, in
// the order in which others get it.
func TestOwnWritesAreAccepted(t *testing.T) {
	rounds := 6
	if os.Getenv("HEAVY") != "" {
		rounds = 200
	}
	for range rounds {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		e := engine.NewLocal()
		defer e.Close()
		var sites []*replica
		for n := range 3 {
			sites = append(sites, newReplica(t, e, byte(n)))
		}
		log := make([][][]byte, len(sites)) // what each wrote
		got := make([][]int, len(sites))    // how much of whose log each has
		for i := range got {
			got[i] = make([]int, len(sites))
		}
		for round := range 60 {
			i := rng.IntN(len(sites))
			s := sites[i]
			// Take some of what others wrote; a change whose dependencies are missing waits.
			for j := range sites {
				for got[i][j] < len(log[j]) && j != i && rng.IntN(4) > 0 {
					err := s.take(log[j][got[i][j]])
					if errors.As(err, new(*crdt.Missing)) {
						break
					} else if err != nil {
						t.Fatalf("a change of site %d: %v", j, err)
					}
					got[i][j]++
				}
			}
			instructions := randomWrite(t, rng, s)
			if len(instructions) == 0 {
				continue
			}
			var actor crdt.Actor
			actor[0] = byte(i + 1)
			edit := crdt.Edit{Actor: actor, TimeMillis: int64(round) * 1000, Instructions: instructions}
			raw, state, err := s.e.Edit(t.Context(), s.doc, edit)
			if err != nil {
				t.Fatal(err)
			}
			c, err := s.judge(raw)
			if err != nil {
				t.Fatalf("own change: %v\n%+v", err, c)
			}
			s.wantHeads(state, nil)
			log[i] = append(log[i], raw)
			if round%10 == 0 {
				s.reload()
			}
		}
	}
}

func randomWrite(t testing.TB, rng *rand.Rand, s *replica) []crdt.Instruction {
	registers := s.read()
	key := fmt.Sprintf("Patient/%d", rng.IntN(3))
	var instructions []crdt.Instruction
	var err error
	var shown crdt.Shown
	if len(registers[key]) > 0 {
		shown = crdt.Show(key, registers[key])
	}
	switch {
	case rng.IntN(8) == 0:
		instructions, err = crdt.Remove(key, registers[key])
	case len(shown.Conflicts) > 0 && rng.IntN(2) == 0:
		instructions, err = crdt.Decide(key, registers[key], shown.Conflicts[0].ID, crdt.ChooseSide(0))
	default:
		want := randomValue(rng, 0)
		if shown.Value.Kind == crdt.Map && rng.IntN(3) > 0 {
			// Change a part alone.
			for k, v := range want.Map {
				shown.Value.Map[k] = v
			}
			want = shown.Value
		}
		instructions, err = crdt.Write(key, registers[key], want)
	}
	if err != nil {
		t.Fatal(err)
	}
	return instructions
}

// Whatever the validator accepts, the engine takes, and finds again in its saved form with the same hash.
func TestEngineTakesWhatIsAccepted(t *testing.T) {
	e, err := engine.Start(engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rounds := 16
	if os.Getenv("HEAVY") != "" {
		rounds = 1000
	}
	accepted := 0
	for round := range rounds {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		honest := round%2 == 0
		r := newReplica(t, e, 100, byte(round))
		for _, c := range crdt.History(t, rng, 40, honest) {
			raw := crdt.EncodeChange(c)
			err := r.take(raw)
			if err == nil {
				accepted++
			} else if honest {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err == nil && rng.IntN(4) == 0 {
				// Bent changes must be refused, or do no harm.
				for range 20 {
					bent := slices.Clone(raw)
					for range 1 + rng.IntN(2) {
						bent[10+rng.IntN(len(bent)-10)] ^= 1 << rng.IntN(8)
					}
					bent = crdt.Reseal(bent)
					branch := newReplica(t, e, 200, byte(round))
					for _, old := range r.x.Records() {
						if old.Hash != c.Hash {
							if err := branch.x.Add(old); err != nil {
								t.Fatal(err)
							}
						}
					}
					if _, err := branch.judge(bent); err != nil {
						continue
					}
					var raws [][]byte
					for _, old := range r.x.Records() {
						if old.Hash != c.Hash {
							raws = append(raws, r.raw[old.Hash])
						}
					}
					if _, err := e.Load(t.Context(), branch.doc, nil, raws); err != nil {
						t.Fatal(err)
					}
					state, err := e.Apply(t.Context(), branch.doc, [][]byte{bent})
					if err != nil {
						t.Fatalf("seed %d: the engine failed on an accepted change: %v\n%s\nof\n%s", seed, err,
							hex.EncodeToString(bent), hex.EncodeToString(raw))
					}
					branch.wantHeads(state, nil)
					if _, err := e.Read(t.Context(), branch.doc, nil, nil); err != nil {
						t.Fatalf("seed %d: read after an accepted change: %v\n%x", seed, err, bent)
					}
					branch.reload()
				}
			}
		}
		r.read()
		r.reload()
		if err := e.Forget(t.Context(), r.doc); err != nil {
			t.Fatal(err)
		}
	}
	if accepted < 20*rounds {
		t.Errorf("%d changes of %d were accepted", accepted, 40*rounds)
	}
	if e.Restarts() > 0 {
		t.Errorf("the engine's child was started again %d times", e.Restarts())
	}
}
