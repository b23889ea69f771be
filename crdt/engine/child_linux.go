//go:build cgo && (amd64 || arm64)

package engine

import (
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// confine limits the process: its address space to what it has now and memory bytes more (the Go runtime reserves much
// of it at the start and never uses it), and no core dump or debugger may see the patients' data.
func confine(memory uint64) error {
	// Where memory is short the kernel should end this process before the agent. Refused in some containers: no matter.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	pages, err := statm("self", 0)
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("read the limit of the address space: %w", err)
	}
	mapped := uint64(pages) * uint64(os.Getpagesize())
	limit.Max = min(limit.Max, mapped+min(memory, math.MaxInt64-mapped))
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("limit the address space: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
