//go:build cgo && (amd64 || arm64)

package engine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// confine forbids core dumps. Darwin does not hold a process to a limit of its address space; what stays is the time
// limit of a call.
func confine(uint64) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
