package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/spf13/pflag"

	"chartmesh/cmd/chartmesh/logfile"
)

const (
	defaultLogSize  = 10 << 20
	defaultLogCount = 5
	keptLog         = 256 << 10 // bytes of the log's end that are kept for a diagnosis
)

// logOptions are the flags that say where a log goes.
type logOptions struct {
	level, format, file string
	size                int64
	count               int
}

func (o *logOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.format, "log-format", "text", "text or json: one record a line")
	f.StringVar(&o.file, "log-file", "", "the `FILE` that the log goes to instead of stderr")
	f.Int64Var(&o.size, "log-size", defaultLogSize, "`BYTES` after which the log file is set aside and a new one begun")
	f.IntVar(&o.count, "log-count", defaultLogCount, "how many files of the log there are at most")
}

// openedLog is where a process logs.
type openedLog struct {
	logger *slog.Logger
	recent func() []byte
	path   string // of the file, absolute; empty: none
	close  func() error
}

func (c *cli) openLog(o logOptions) (openedLog, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return openedLog{}, usage("--log-level is debug, info, warn or error")
	}
	if o.format != "text" && o.format != "json" {
		return openedLog{}, usage("--log-format is text or json")
	}
	if o.size < 1<<10 || o.count < 1 {
		return openedLog{}, usage("--log-size is at least 1024 and --log-count at least 1")
	}
	l := openedLog{close: func() error { return nil }}
	to := c.err
	if o.file != "" {
		path, err := filepath.Abs(o.file)
		if err != nil {
			return openedLog{}, err
		}
		file, err := logfile.Open(path, o.size, o.count-1)
		if err != nil {
			return openedLog{}, err
		}
		to, l.path, l.close = file, path, file.Close
	}
	end := new(tail)
	l.recent = end.bytes
	l.logger = slog.New(logHandler(o.format, io.MultiWriter(end, to), level))
	return l, nil
}

// logHandler writes records of both formats alike: a value is what its String says. JSON by itself would take it apart, and
// print whole what String shortens, and the fields of what String hides.
func logHandler(format string, to io.Writer, level slog.Level) slog.Handler {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindAny && a.Key != slog.LevelKey {
			a.Value = slog.StringValue(fmt.Sprintf("%+v", a.Value.Any()))
		}
		return a
	}}
	if format == "json" {
		return slog.NewJSONHandler(to, opts)
	}
	return slog.NewTextHandler(to, opts)
}

// tail keeps the end of what is written to it, in whole lines.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - keptLog; over > keptLog { // seldom, since it moves what is kept
		if i := bytes.IndexByte(t.buf[over:], '\n'); i >= 0 {
			over += i + 1
		}
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf)
}
