//go:build cgo && (linux || darwin) && (amd64 || arm64)

package crdt_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"chartmesh/crdt"
	"chartmesh/crdt/engine"
)

// inputs returns how many bent inputs a suite makes, and where its random numbers begin: HEAVY=1, BENT_INPUTS and BENT_SEED.
func inputs(t *testing.T, usual, heavy int) (n int, seed uint64) {
	t.Helper()
	n, seed = usual, rand.Uint64()
	if os.Getenv("HEAVY") != "" {
		n = heavy
	}
	for name, set := range map[string]func(uint64){
		"BENT_INPUTS": func(v uint64) { n = int(v) }, "BENT_SEED": func(v uint64) { seed = v },
	} {
		if s := os.Getenv(name); s != "" {
			v, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			set(v)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("rerun with BENT_SEED=%d BENT_INPUTS=%d go test ./crdt -run %s", seed, n, t.Name())
		}
	})
	return n, seed
}

// bendBytes changes some bytes of an encoded change, and lets its checksum fit again.
func bendBytes(rng *rand.Rand, raw []byte) []byte {
	raw = slices.Clone(raw)
	special := []byte{0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xff}
	for range 1 + rng.IntN(3) {
		i := 10 + rng.IntN(len(raw)-10)
		switch rng.IntN(6) {
		case 0:
			raw[i] = byte(rng.Uint32())
		case 1:
			raw[i] = special[rng.IntN(len(special))]
		case 2: // a number without end
			for k := i; k < min(i+1+rng.IntN(9), len(raw)); k++ {
				raw[k] |= 0x80
			}
		case 3: // a piece from elsewhere
			from := 10 + rng.IntN(len(raw)-10)
			copy(raw[i:], raw[from:min(from+rng.IntN(8), len(raw))])
		default:
			raw[i] ^= 1 << rng.IntN(8)
		}
	}
	return crdt.Reseal(raw)
}

// bendOps changes what a change says, within its encoding: such inputs get past Decode. ids are those of earlier operations.
func bendOps(rng *rand.Rand, c *crdt.Change, ids []crdt.OpID) []byte {
	bent := *c
	bent.Ops = slices.Clone(c.Ops)
	id := func() crdt.OpID {
		switch rng.IntN(8) {
		case 0:
			return crdt.OpID{}
		case 1:
			return crdt.OpID{Counter: rng.Uint64N(2 * crdt.MaxCounter), Actor: bent.Actor}
		case 2:
			return bent.ID(rng.IntN(len(bent.Ops)))
		}
		return ids[rng.IntN(len(ids))]
	}
	for range 1 + rng.IntN(3) {
		op := &bent.Ops[rng.IntN(len(bent.Ops))]
		other := bent.Ops[rng.IntN(len(bent.Ops))]
		switch rng.IntN(14) {
		case 0:
			op.Obj = id()
		case 1:
			op.Key, op.Elem = other.Key, other.Elem
		case 2:
			op.Key, op.Elem = "", id()
		case 3:
			op.Insert = !op.Insert
		case 4:
			op.Action, op.Value = other.Action, other.Value
		case 5:
			op.Value = other.Value
		case 6:
			op.Pred = []crdt.OpID{id()}
		case 7:
			op.Pred = nil
		case 8:
			bent.Seq += rng.Uint64N(3)
		case 9:
			bent.StartOp += rng.Uint64N(crdt.MaxCounterGap)
		case 10:
			bent.Deps = nil
		case 11:
			bent.TimeSeconds = rng.Int64N(2*crdt.MaxAbsTimeSeconds) - crdt.MaxAbsTimeSeconds
		case 12:
			bent.Ops = append(bent.Ops, bent.Ops[rng.IntN(len(bent.Ops))])
		case 13:
			bent.Ops = bent.Ops[:1+rng.IntN(len(bent.Ops))]
		}
	}
	return crdt.EncodeChange(&bent)
}

// TestBentInputsAgainstTheEngine gives the validator bent changes by the hundred thousand, and what it accepts to the engine in
// its own process: it must take each, find it again in its saved form, and never end. What the validator refuses would end it:
// some of that is given to it, too, to see that.
func TestBentInputsAgainstTheEngine(t *testing.T) {
	total, seed := inputs(t, 3_000, 300_000)
	e, err := engine.Start(engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	reasons := map[string]int{}
	accepted, done := 0, 0
	var dangerous [][]byte
	for round := uint64(0); done < total; round++ {
		rng := rand.New(rand.NewPCG(seed, round))
		r := newReplica(t, e, 1)
		history := crdt.History(t, rng, 8+rng.IntN(40), true)
		base := history[len(history)-1]
		var raws [][]byte
		var ids []crdt.OpID
		for _, c := range history[:len(history)-1] {
			raw := crdt.EncodeChange(c)
			if _, err := r.judge(raw); err != nil {
				t.Fatal(err)
			}
			raws = append(raws, raw)
			for i := range c.Ops {
				ids = append(ids, c.ID(i))
			}
		}
		if len(ids) == 0 {
			continue
		}
		good := crdt.EncodeChange(base)
		for range 300 {
			done++
			bent := bendBytes(rng, good)
			if rng.IntN(2) == 0 {
				bent = bendOps(rng, base, ids)
			}
			c, err := crdt.Decode(bent)
			if err == nil {
				_, err = r.x.Judge(c)
			}
			var refused *crdt.Refused
			switch {
			case errors.As(err, &refused):
				reasons[refused.Reason]++
				if len(dangerous) < 20_000 {
					dangerous = append(dangerous, bent)
				}
				continue
			case err != nil: // known, missing, equivocation
				reasons["not judged"]++
				continue
			}
			accepted++
			doc := crdt.DocumentID{2}
			if _, err := e.Load(t.Context(), doc, nil, raws); err != nil {
				t.Fatal(err)
			}
			state, err := e.Apply(t.Context(), doc, [][]byte{bent})
			if err != nil || !slices.Contains(state.Heads, c.Hash) {
				t.Fatalf("round %d: the engine does not take what was accepted: %v\n%x", round, err, bent)
			}
			if _, err := e.Read(t.Context(), doc, nil, nil); err != nil {
				t.Fatalf("round %d: read after an accepted change: %v\n%x", round, err, bent)
			}
			saved, err := e.Save(t.Context(), doc)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := e.Load(t.Context(), doc, saved, nil); err != nil || !slices.Equal(again.Heads, state.Heads) {
				t.Fatalf("round %d: the saved form has other heads: %v\n%x", round, err, bent)
			}
		}
	}
	if e.Restarts() != 0 {
		t.Errorf("the engine ended %d times on what was accepted", e.Restarts())
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%8d %s", reasons[reason], reason)
	}
	t.Logf("%d inputs, %d accepted and applied, 0 ends of the engine", done, accepted)
	if accepted*200 < done || len(reasons) < 15 {
		t.Errorf("%d of %d were accepted, %d reasons to refuse: the inputs reach too little", accepted, done, len(reasons))
	}

	// Without the validator.
	wrong, err := engine.Start(engine.Config{CallTimeout: 5e9})
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	for _, bent := range dangerous[:min(len(dangerous), max(300, total/100))] {
		doc := crdt.DocumentID{3}
		if _, err := wrong.Load(t.Context(), doc, nil, nil); err != nil {
			t.Fatal(err)
		}
		_, err := wrong.Apply(t.Context(), doc, [][]byte{bytes.Clone(bent)})
		if err != nil && !errors.Is(err, crdt.ErrEngine) {
			t.Fatal(err)
		}
	}
	t.Logf("without the validator, the engine ended %d times in %d", wrong.Restarts(), min(len(dangerous), max(300, total/100)))
}
