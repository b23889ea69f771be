package engine

import (
	"os"
	"syscall"
)

// attributes put the child into a group of its own, out of the reach of a terminal's signals.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func executable() (string, error) { return os.Executable() }

// resident is not known here.
func resident(int) int64 { return 0 }
