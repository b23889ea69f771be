//go:build unix && !linux

package crash

import (
	"os"

	"golang.org/x/sys/unix"
)

func undumpable() error { return nil }

func dup2(fd int) error { return unix.Dup2(fd, 2) }

func executable() (string, error) { return os.Executable() }
