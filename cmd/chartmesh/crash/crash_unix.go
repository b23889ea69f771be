//go:build unix

package crash

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Harden forbids core files for this process.
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return undumpable()
}

// Stderr returns the process's stderr under a number of its own, which Guard leaves alone.
func Stderr() (*os.File, error) {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate stderr: %w", err)
	}
	return os.NewFile(uintptr(fd), os.Stderr.Name()), nil
}

// replaceStderr makes write descriptor 2. From here on a broken pipe there must not end the process: the monitor may be
// ended by whoever likes to.
func replaceStderr(write *os.File) error {
	signal.Ignore(syscall.SIGPIPE)
	return dup2(int(write.Fd())) // Fd makes it wait while the pipe is full, or the end of a long trace would be lost
}

// attributes put the monitor into a group of its own, out of the reach of a terminal's signals.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
