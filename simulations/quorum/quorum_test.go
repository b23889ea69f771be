package quorum

import (
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum/voter"
)

// run runs a world; a voter that panics counts as one that does not go on. Raft draws its election times by crypto/rand.
func run(t *testing.T, cfg Config) (r Report, failure *Failure) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, cfg.Seed)
	defer func() {
		if p := recover(); p != nil {
			failure = &Failure{cfg.Seed, "I-sound", fmt.Sprintf("a voter ends: %v\n%s", p, debug.Stack()), nil}
		}
	}()
	return Run(cfg)
}

// TestQuorum runs worlds: SIM_SEEDS of them from 1, or SIM_SEED alone.
func TestQuorum(t *testing.T) {
	first, n := seeds(12)
	begun := time.Now()
	var all Report
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r, failure := run(t, Config{Seed: seed})
			if failure != nil {
				t.Fatalf("%v\nthe last steps:\n%s\nrun it again: SIM_SEED=%d go test ./simulations/quorum -run '^TestQuorum$' -v", failure,
					strings.Join(failure.Trace, "\n"), seed)
			}
			all.add(r)
		})
	}
	t.Logf("%d worlds in %v: %+v", n, time.Since(begun).Round(time.Millisecond), all)
	if n < 12 || t.Failed() {
		return
	}
	v := reflect.ValueOf(all)
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; {
		case name == "Forks" && n < 200: // it is seldom
		case slices.Contains([]string{"Unseen", "TwoEpochs", "LostAtReseed", "LostCommits", "Trace", "Twins", "Doubled"}, name): // they need not happen
		default:
			if v.Field(i).Int() == 0 {
				t.Errorf("%s did not happen in %d worlds, which are for that too", name, n)
			}
		}
	}
}

func (r *Report) add(o Report) {
	v, from := reflect.ValueOf(r).Elem(), reflect.ValueOf(o)
	for i := range v.NumField() {
		if f := v.Field(i); f.CanInt() {
			f.SetInt(f.Int() + from.Field(i).Int())
		}
	}
}

// A snapshot that a voter is sent takes the place of its whole log: what it has beyond is of another history, in which it would take who
// lacks what was agreed on for up to date.
func TestSnapshotTakesThePlaceOfTheLog(t *testing.T) {
	h := &host{w: &World{}}
	for i := uint64(3); i < 9; i++ {
		h.disk.now.Entries = append(h.disk.now.Entries, &pb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(2)})
	}
	b := voter.Batch{Sync: true, Snapshot: &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: proto.Uint64(5), Term: proto.Uint64(4)}}}
	if err := h.save(b); err != nil || len(h.disk.durable.Entries) > 0 {
		t.Errorf("%d entries beside the snapshot: %v", len(h.disk.durable.Entries), err)
	}
}

// TestSameSeed is what a printed seed is worth: the same one gives the same steps.
func TestSameSeed(t *testing.T) {
	// Of each its own: what is drawn by chance follows the test's seed.
	var reports []Report
	for i, seed := range []uint64{1001, 1001, 1002} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r, failure := run(t, Config{Seed: seed, Duration: 30 * time.Second})
			if failure != nil {
				t.Fatal(failure)
			}
			reports = append(reports, r)
		})
	}
	if len(reports) != 3 || reports[0] != reports[1] {
		t.Errorf("one seed gave two worlds: %+v", reports)
	} else if reports[0] == reports[2] {
		t.Error("two seeds gave one world")
	}
}

// TestMutants: every fault that is put in on purpose is found within some worlds. Those that take long are looked for with MUTANTS=1 or HEAVY=1.
func TestMutants(t *testing.T) {
	_, n := seeds(60)
	for _, m := range []Mutant{WallClock, NoDrift, NoBarrier, NoSync, LeaderMemory, ReadsMemory, TTLFromReply, NoSnapshot, RestAtTwo, NoWitness, SameEpoch,
		PartsForgotten, LogKept, TokenOrder, SyncIgnored, FullIgnored, EndedGoesOn, AppliedOnly} {
		t.Run(string(m), func(t *testing.T) {
			if slow := []Mutant{WallClock, NoDrift, ReadsMemory, PartsForgotten, LogKept, AppliedOnly}; slices.Contains(slow, m) && os.Getenv("MUTANTS")+os.Getenv("HEAVY") == "" {
				t.Skip("it takes long: MUTANTS=1")
			}
			for seed := uint64(1); seed <= n; seed++ {
				if !m.meant(seed) {
					continue
				}
				if _, failure := run(t, Config{Seed: seed, Mutant: m}); failure != nil {
					t.Logf("found: %v", failure)
					return
				}
			}
			t.Errorf("not found in %d worlds", n)
		})
	}
}

func seeds(usually uint64) (first, n uint64) {
	if s, err := strconv.ParseUint(os.Getenv("SIM_SEED"), 10, 64); err == nil {
		return s, 1
	}
	if s, err := strconv.ParseUint(os.Getenv("SIM_SEEDS"), 10, 64); err == nil {
		return 1, s
	}
	return 1, usually
}
