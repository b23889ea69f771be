package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// attributes put the child into a group of its own, out of the reach of a terminal's signals, and end it with its parent.
// The kernel means the thread that started it: see process.run.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// executable is this binary, even when an upgrade has put another one in its place.
func executable() (string, error) { return "/proc/self/exe", nil }

// resident returns the bytes of memory that a process holds.
func resident(pid int) int64 {
	pages, err := statm(strconv.Itoa(pid), 1)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// statm returns one of the numbers of pages in /proc/PID/statm: 0 mapped, 1 resident.
func statm(pid string, field int) (int64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/statm")
	if err != nil {
		return 0, fmt.Errorf("read the process's memory: %w", err)
	}
	fields := bytes.Fields(b)
	if len(fields) <= field {
		return 0, errors.New("read the process's memory: too few fields")
	}
	return strconv.ParseInt(string(fields[field]), 10, 64)
}
