package driver

import (
	"fmt"
	"log/slog"
)

// guarded makes an error of a panic, which is no reason to end the process. What Raft refuses to go on with is an error of the voter's already.
func guarded(fn func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		default: // its value may hold anything
			err = fmt.Errorf("%w: it panicked (%T)", ErrBroken, p)
		}
	}()
	return fn()
}

// raftLog passes on what Raft logs. What it panics with the voter takes.
type raftLog struct{ log *slog.Logger }

func (l raftLog) Debug(...any)          {}
func (l raftLog) Debugf(string, ...any) {}
func (l raftLog) Info(v ...any)         { l.log.Debug("raft", "note", fmt.Sprint(v...)) }
func (l raftLog) Infof(format string, v ...any) {
	l.log.Debug("raft", "note", fmt.Sprintf(format, v...))
}
func (l raftLog) Warning(v ...any) { l.log.Debug("raft", "warning", fmt.Sprint(v...)) }
func (l raftLog) Warningf(format string, v ...any) {
	l.log.Debug("raft", "warning", fmt.Sprintf(format, v...))
}
func (l raftLog) Error(v ...any) { l.log.Warn("raft", "error", fmt.Sprint(v...)) }
func (l raftLog) Errorf(format string, v ...any) {
	l.log.Warn("raft", "error", fmt.Sprintf(format, v...))
}
func (l raftLog) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLog) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l raftLog) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLog) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
