package simulations

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
)

// TestProtected runs worlds in which protected documents are changed under leases. In a third of them a voter lies.
func TestProtected(t *testing.T) {
	first, n := seeds(t, 8)
	var all ProtectedReport
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			report, failure := RunProtected(t.Context(), ProtectedConfig{Seed: seed, Liar: seed%3 == 0})
			if failure != nil {
				t.Fatalf("%v\nthe last steps:\n%s\nrun it again: SIM_SEED=%d go test ./simulations -run '^TestProtected$' -v",
					failure, strings.Join(failure.Trace, "\n"), seed)
			}
			if testing.Verbose() {
				t.Logf("%+v", report)
			}
			all.Accepted, all.Late, all.Settled, all.Back = all.Accepted+report.Accepted, all.Late+report.Late, all.Settled+report.Settled, all.Back+report.Back
			all.Checkpoints, all.Lies, all.Agreed = all.Checkpoints+report.Checkpoints, all.Lies+report.Lies, all.Agreed+report.Agreed
			all.Deleted, all.Packed, all.Beside = all.Deleted+report.Deleted, all.Packed+report.Packed, all.Beside+report.Beside
		})
		if t.Failed() && os.Getenv("SIM_FIRST") != "" {
			break
		}
	}
	if !t.Failed() && n >= 20 && (all.Accepted == 0 || all.Late == 0 || all.Settled == 0 || all.Back == 0 || all.Lies == 0 || all.Agreed == 0 || all.Checkpoints == 0 ||
		all.Deleted == 0 || all.Packed == 0 || all.Beside == 0) {
		t.Errorf("something never happens: %+v", all)
	}
}
