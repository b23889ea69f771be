package quorum

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
)

// TestExplain: who asks is told what to do about a voter that has lost something, and nothing is taken for a fault of the program.
func TestExplain(t *testing.T) {
	s := &Service{}
	for err, want := range map[error]string{
		lockquorum.ErrForked: "quorum reseed", lockquorum.ErrUnsigned: "quorum reseed", lockquorum.ErrOver: "quorum status",
	} {
		got, ok := errors.AsType[*api.Error](s.explain(fmt.Errorf("ask a voter: %w", err)))
		if !ok || got.Code != api.CodeUnavailable || !strings.Contains(got.Hint, want) {
			t.Errorf("%v is explained as %+v", err, got)
		}
	}
}
