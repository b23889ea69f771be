package crash

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// Harden keeps Windows from showing a box, and from writing a dump, when the process crashes.
func Harden() error {
	windows.SetErrorMode(windows.SEM_FAILCRITICALERRORS | windows.SEM_NOGPFAULTERRORBOX)
	return nil
}

// Stderr returns the process's stderr under a handle of its own, which Guard leaves alone.
func Stderr() (*os.File, error) {
	self := windows.CurrentProcess()
	var handle windows.Handle
	if err := windows.DuplicateHandle(self, windows.Handle(os.Stderr.Fd()), self, &handle, 0, false, windows.DUPLICATE_SAME_ACCESS); err != nil {
		return nil, fmt.Errorf("duplicate stderr: %w", err)
	}
	return os.NewFile(uintptr(handle), os.Stderr.Name()), nil
}

// replaceStderr makes write the standard error, which the runtime looks up whenever it prints. The handle is a copy, since
// write is closed afterwards.
func replaceStderr(write *os.File) error {
	self := windows.CurrentProcess()
	var handle windows.Handle
	if err := windows.DuplicateHandle(self, windows.Handle(write.Fd()), self, &handle, 0, false, windows.DUPLICATE_SAME_ACCESS); err != nil {
		return err
	}
	return windows.SetStdHandle(windows.STD_ERROR_HANDLE, handle)
}

func attributes() *syscall.SysProcAttr { return nil }

func executable() (string, error) { return os.Executable() }
