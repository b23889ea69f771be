package driver

import (
	"fmt"
	"log/slog"
)

// guarded makes an error of a panic. Raft panics where what it is told does not fit what it has: for a voter that went back it is the only thing
// to do, and no reason to end the process.
func guarded(fn func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case refusal:
			err = fmt.Errorf("%w: %s", ErrBroken, string(p))
		default: // its value may hold anything
			err = fmt.Errorf("%w: it panicked (%T)", ErrBroken, p)
		}
	}()
	return fn()
}

// refusal is what Raft panics with: numbers of voters, terms and entries.
type refusal string

// raftLog passes on what Raft logs.
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
func (l raftLog) Fatal(v ...any)                 { panic(refusal(fmt.Sprint(v...))) }
func (l raftLog) Fatalf(format string, v ...any) { panic(refusal(fmt.Sprintf(format, v...))) }
func (l raftLog) Panic(v ...any)                 { panic(refusal(fmt.Sprint(v...))) }
func (l raftLog) Panicf(format string, v ...any) { panic(refusal(fmt.Sprintf(format, v...))) }
