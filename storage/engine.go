package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"syscall"
)

// guarded runs fn, which calls into the engine, and makes a panic of it an error: the engine panics on a damaged table
// here and there. A read of a mapped file that was cut short is a fault and becomes a panic too. The panic's text is
// dropped, since it may hold a key.
func guarded(fn func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the engine panicked (%T)", ErrDamaged, p)
		}
	}()
	fn()
	return nil
}

// reason is an error of the engine without its text, which may hold keys.
type reason struct{ text string }

func (r reason) Error() string { return r.text }

// reasonOf returns what may be said of an error of the engine. The engine drops the class of what it wraps, so that the
// system's errors are known by their texts alone.
func reasonOf(err error) error {
	if err == nil {
		return nil
	}
	for _, errno := range []syscall.Errno{
		syscall.ENOSPC, syscall.EIO, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE,
		syscall.ENOMEM,
	} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return fmt.Errorf("engine: %w", errno)
		}
	}
	return reason{fmt.Sprintf("the engine refused (%T)", err)}
}

// damageBy returns what to say when the engine cannot read what is there: that it is damaged, unless the system is to
// blame.
func damageBy(err error) error {
	why := reasonOf(err)
	if errno := syscall.Errno(0); errors.As(why, &errno) {
		return why
	}
	return fmt.Errorf("%w: %w", ErrDamaged, why)
}

// engineLog passes the engine's log lines on without their arguments.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Errorf(format string, _ ...any) {
	l.log.Warn("storage engine", "note", trim(format))
}
func (l engineLog) Warningf(format string, _ ...any) {
	l.log.Debug("storage engine", "note", trim(format))
}
func (l engineLog) Infof(format string, _ ...any) {
	l.log.Debug("storage engine", "note", trim(format))
}
func (l engineLog) Debugf(format string, _ ...any) {
	l.log.Debug("storage engine", "note", trim(format))
}

func trim(format string) string { return strings.TrimSpace(format) }
