//go:build unix

package agent

import (
	"errors"
	"os"
	"syscall"
)

// noCores forbids core dumps, which would hold what was decrypted.
func noCores() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
