package simulations

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

// TestWorlds runs worlds from consecutive seeds.
func TestWorlds(t *testing.T) {
	first, n := seeds(t, 20)
	start := time.Now()
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			report, failure := runSeed(t, seed)
			if failure != nil {
				t.Fatalf("%v\nthe last steps:\n%s\nrun it again: SIM_SEED=%d go test ./simulations -run '^TestWorlds$' -v",
					failure, strings.Join(failure.Trace, "\n"), seed)
			}
			if testing.Verbose() {
				t.Logf("%+v", report)
			}
		})
		if t.Failed() && os.Getenv("SIM_FIRST") != "" {
			break
		}
	}
	t.Logf("%d seeds in %.1f s", n, time.Since(start).Seconds())
}

// TestRemovals runs worlds in which administrators remove devices and each other.
func TestRemovals(t *testing.T) {
	first, n := seeds(t, 6)
	var all Report
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			report, failure := Run(t.Context(), removals(seed))
			if failure != nil {
				t.Fatalf("%v\nthe last steps:\n%s\nrun it again: SIM_SEED=%d go test ./simulations -run '^TestRemovals$' -v",
					failure, strings.Join(failure.Trace, "\n"), seed)
			}
			all.Removed, all.Barred, all.Spared, all.Said = all.Removed+report.Removed, all.Barred+report.Barred, all.Spared+report.Spared, all.Said+report.Said
			all.Readmitted += report.Readmitted
			if testing.Verbose() {
				t.Logf("%+v", report)
			}
		})
		if t.Failed() && os.Getenv("SIM_FIRST") != "" {
			break
		}
	}
	if !t.Failed() && n >= 20 && all.Readmitted == 0 {
		t.Error("nobody was let in again by what it brought")
	}
	if !t.Failed() && n >= 20 && (all.Removed == 0 || all.Barred == 0 || all.Spared == 0) {
		t.Errorf("%d devices were removed, %d changes taken out, %d built on: something never happens", all.Removed, all.Barred, all.Spared)
	}
}

func removals(seed uint64) Config { return Config{Seed: seed, Devices: 6, Writes: 120, Removals: true} }

// TestAnchors runs worlds with an anchor. In a quarter of them administrators remove devices.
func TestAnchors(t *testing.T) {
	first, n := seeds(t, 6)
	var all Report
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			cfg := Config{Seed: seed, Anchor: true}
			if seed%4 == 0 {
				cfg = removals(seed)
				cfg.Anchor = true
			}
			report, failure := Run(t.Context(), cfg)
			if failure != nil {
				t.Fatalf("%v\nthe last steps:\n%s\nrun it again: SIM_SEED=%d go test ./simulations -run '^TestAnchors$' -v",
					failure, strings.Join(failure.Trace, "\n"), seed)
			}
			all.AnchorReadmitted += report.AnchorReadmitted
			all.AnchorDeleted, all.AnchorBack, all.AnchorWiped = all.AnchorDeleted+report.AnchorDeleted, all.AnchorBack+report.AnchorBack, all.AnchorWiped+report.AnchorWiped
			if testing.Verbose() {
				t.Logf("%+v", report)
			}
		})
		if t.Failed() && os.Getenv("SIM_FIRST") != "" {
			break
		}
	}
	if !t.Failed() && n >= 20 && all.AnchorReadmitted == 0 {
		t.Error("the anchor let nobody in again by what it brought")
	}
	if !t.Failed() && n >= 20 && (all.AnchorDeleted == 0 || all.AnchorBack == 0 || all.AnchorWiped == 0) {
		t.Errorf("the anchor deleted %d chunks, went back %d times and was wiped %d times: something never happens", all.AnchorDeleted, all.AnchorBack, all.AnchorWiped)
	}
}

// TestFailedOnce runs worlds that found something once. What a world does changes with the code, so that each is worth no more than
// another one as time goes by.
func TestFailedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, seed := range []uint64{9, 394, 548, 646, 686, 706, 771, 793, 843, 911, 916, 1037, 1072, 1247, 1339, 1370, 1408, 1444, 1477, 1479, 1490} {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			if _, failure := runSeed(t, seed); failure != nil {
				t.Fatalf("%v\nrun it again: SIM_SEED=%d go test ./simulations -run '^TestWorlds$' -v", failure, seed)
			}
		})
	}
	t.Run("removals-10", func(t *testing.T) { // a circle of three
		cryptotest.SetGlobalRandom(t, 10)
		if _, failure := Run(t.Context(), removals(10)); failure != nil {
			t.Fatalf("%v\nrun it again: SIM_SEED=10 go test ./simulations -run '^TestRemovals$' -v", failure)
		}
	})
	t.Run("anchors-400", func(t *testing.T) { // three parts that meet at the anchor alone
		cryptotest.SetGlobalRandom(t, 400)
		cfg := removals(400)
		cfg.Anchor = true
		if _, failure := Run(t.Context(), cfg); failure != nil {
			t.Fatalf("%v\nrun it again: SIM_SEED=400 go test ./simulations -run '^TestAnchors$' -v", failure)
		}
	})
}

// TestSameSeed is what a printed seed is worth: the same one gives the same steps.
func TestSameSeed(t *testing.T) {
	run := func(seed uint64) (r Report) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			var failure *Failure
			if r, failure = Run(t.Context(), Config{Seed: seed, Writes: 50}); failure != nil {
				t.Fatal(failure)
			}
		})
		return r
	}
	first, again, other := run(1001), run(1001), run(1002)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("one seed gave two worlds:\n%+v\n%+v", first, again)
	}
	if first.Trace == other.Trace {
		t.Error("two seeds gave one world")
	}
}

// runSeed runs one world. The library's own randomness (key encapsulation) follows the seed too.
func runSeed(t *testing.T, seed uint64) (Report, *Failure) {
	cryptotest.SetGlobalRandom(t, seed)
	return Run(t.Context(), Config{Seed: seed})
}

// seeds returns the first seed and how many there are, if the environment does not say.
func seeds(t *testing.T, usually uint64) (first, n uint64) {
	t.Helper()
	number := func(name string, usual uint64) uint64 {
		s := os.Getenv(name)
		if s == "" {
			return usual
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return v
	}
	if one := number("SIM_SEED", 0); one != 0 {
		return one, 1
	}
	return 1, number("SIM_SEEDS", usually)
}
