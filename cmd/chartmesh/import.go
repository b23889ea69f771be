package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"chartmesh/agent/api"
)

const (
	maxStdin     = 1 << 30 // bytes of stdin: it is read twice, so it is kept in memory
	maxRun       = 1000    // resources outside Bundles that are sent together
	inFlight     = 2       // batches under way at once
	maxNamed     = 100     // refused items that are named on the terminal; JSON names them all
	maxRefusals  = 100_000 // refused items that are kept
	plainEvery   = 10 * time.Second
	refreshEvery = 200 * time.Millisecond
)

func (c *cli) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE|DIR|- …",
		Short: "import FHIR files",
		Long: `Imports FHIR R4 resources from files: a Bundle, a single resource, or NDJSON, each also gzipped. Of a directory it takes
*.json and *.ndjson, also .gz, below it too, in the order of their paths. "-" is stdin.

Bundles of type transaction, batch and collection are unpacked; others are stored as they are. Of a resource that comes
again in the same import, the last one stands. Importing a file again changes nothing, also not what was edited here since:
what counts is what changed in the file since it was last imported.

Code lists, settings, billing runs and final invoices are changed by one workstation at a time: the import takes the leases that
it needs, one after the other, and gives them back. Where one is not to be had within 10 seconds, that much is refused and named.

A bad file, line or entry is named, and the rest goes on; the exit code is then 7.`,
		Example: `  chartmesh import ./bundles
  chartmesh import export.ndjson.gz --json
  zcat all.ndjson.gz | chartmesh import -`,
		Args: cobra.MinimumNArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			if err := c.guarded(); err != nil { // files from anywhere are read here
				return err
			}
			files, err := c.importFiles(args)
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				run := &importRun{agent: agent, author: author, files: files, read: c.joins.read, p: c.printer(), begun: time.Now(),
					terminal: terminal(c.err)}
				return run.run(ctx, c.json)
			})
		}),
	}
}

// importFile is a file to import, which can be opened more than once.
type importFile struct {
	name string
	open func() (io.ReadCloser, error)
}

// importFiles finds the files that the arguments name, in their order.
func (c *cli) importFiles(args []string) ([]importFile, error) {
	var files []importFile
	stdin := false
	for _, arg := range args {
		if arg == "-" {
			if stdin {
				return nil, usage("stdin can be given once")
			}
			stdin = true
			data, err := io.ReadAll(io.LimitReader(c.in, maxStdin+1))
			if err != nil {
				return nil, fmt.Errorf("read stdin: %w", err)
			}
			if len(data) > maxStdin {
				return nil, usage("stdin is larger than %d bytes: give it as a file", maxStdin)
			}
			files = append(files, importFile{"stdin", func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }})
			continue
		}
		info, err := os.Stat(arg)
		if err != nil {
			return nil, err // it names the file
		}
		if !info.IsDir() {
			files = append(files, diskFile(arg))
			continue
		}
		found := 0
		err = filepath.WalkDir(arg, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return fmt.Errorf("look into %s: %w", arg, err)
			}
			if !entry.IsDir() && fhirName(entry.Name()) {
				files = append(files, diskFile(path))
				found++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if found == 0 {
			return nil, usage("there is no *.json or *.ndjson file in %s", arg)
		}
	}
	return files, nil
}

func diskFile(path string) importFile {
	return importFile{path, func() (io.ReadCloser, error) { return os.Open(path) }}
}

func fhirName(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".gz")
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".ndjson"))
}

// refusal names one item that was not imported, and never its content.
type refusal struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Entry  *int   `json:"entry,omitempty"` // index in Bundle.entry
	Reason string `json:"reason"`
}

func (r refusal) String() string {
	s := r.File
	if r.Line > 0 {
		s += fmt.Sprintf(":%d", r.Line)
	}
	if r.Entry != nil {
		s += fmt.Sprintf(" entry[%d]", *r.Entry)
	}
	return s + ": " + r.Reason
}

// imported is what an import did.
type imported struct {
	Created   int       `json:"created"`
	Changed   int       `json:"changed"`
	Unchanged int       `json:"unchanged"`
	Conflicts int       `json:"conflicts"`
	Refused   []refusal `json:"refused"`
	Resources int       `json:"resources"` // different ones in the files
	Repeated  int       `json:"repeated"`  // items that come again later in the files
	Files     int       `json:"files"`
	Seconds   float64   `json:"seconds"`
	Complete  bool      `json:"complete"` // false: it ended early
}

// refusedError says that some items were refused and the rest went through.
type refusedError struct{ refused, items int }

func (e refusedError) Error() string {
	return fmt.Sprintf("%s of %s refused", count(e.refused), plural(e.items, "item"))
}

// place is where an item stands: the index of its file, and its own in it.
type place struct{ file, item int }

// importRun is one import. It reads every file twice: first to find what is bad and which of several versions of a
// resource is the last, then to send it, so that only one batch or two are ever in memory.
type importRun struct {
	agent    api.Agent
	author   string
	files    []importFile
	read     func(name string, r io.Reader, fn func(item) error) error
	p        *printer
	begun    time.Time
	terminal bool

	items   int               // of the first pass, bad ones too
	last    map[api.Ref]place // where each resource stands for the last time
	refused int               // more than kept ones, perhaps

	mu struct {
		sync.Mutex
		result imported
		done   int // resources that the agent has answered
	}
}

func (r *importRun) run(ctx context.Context, asJSON bool) error {
	r.last = map[api.Ref]place{}
	if err := r.scan(ctx); err != nil {
		return err
	}
	stop := r.progress()
	err := r.send(ctx)
	stop()
	result := r.mu.result
	result.Seconds = time.Since(r.begun).Seconds()
	result.Complete = err == nil
	result.Refused = orEmpty(result.Refused)
	if asJSON {
		r.p.json(result)
	} else {
		r.summary(result)
	}
	switch {
	case err != nil:
		return errors.Join(fmt.Errorf("the import ended after %s: %w", plural(r.mu.done, "resource"), err), r.p.failed)
	case r.refused > 0:
		return errors.Join(refusedError{r.refused, r.items}, r.p.failed)
	}
	return r.p.failed
}

// scan is the first pass.
func (r *importRun) scan(ctx context.Context) error {
	for i, file := range r.files {
		n := 0
		err := r.readFile(file, func(it item) error {
			r.items++
			if it.err != nil {
				r.refuse(file, it, it.err.Error())
			} else {
				if _, again := r.last[it.ref]; again {
					r.mu.result.Repeated++
				}
				r.last[it.ref] = place{i, n}
			}
			n++
			return ctx.Err()
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.items++
			r.refuse(file, item{entry: -1}, err.Error())
		}
	}
	r.mu.result.Files, r.mu.result.Resources = len(r.files), len(r.last)
	return nil
}

func (r *importRun) readFile(file importFile, fn func(item) error) error {
	f, err := file.open()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return r.read(file.name, f, fn)
}

// refuse notes an item that is not imported. After the first pass, it is called under the lock.
func (r *importRun) refuse(file importFile, it item, reason string) {
	no := refusal{File: file.name, Line: it.line, Reason: reason}
	if it.entry >= 0 {
		no.Entry = &it.entry
	}
	if r.refused++; r.refused <= maxRefusals {
		r.mu.result.Refused = append(r.mu.result.Refused, no)
	}
}

// batch is resources on their way to the agent, and where they come from.
type batch struct {
	resources []json.RawMessage
	from      []origin
	size      int
	file      int
	unit      int // -1: a run of resources outside Bundles, which may come from several files
}

type origin struct {
	file importFile
	item item // without its raw form
}

// send is the second pass. What comes in one Bundle is one batch, so that it becomes one change of each document; what
// comes outside is sent in runs.
func (r *importRun) send(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	var open batch
	flush := func() error {
		if full := open; len(full.resources) > 0 {
			group.Go(func() error { return r.sendBatch(ctx, full) }) // waits for a free place
		}
		open = batch{}
		return ctx.Err()
	}
	sent, split := 0, place{-1, -1}
	err := r.each(func(i, n int, it item) error {
		if at, known := r.last[it.ref]; !known || at != (place{i, n}) {
			return ctx.Err()
		}
		sent++
		unit := it.unit
		if it.entry < 0 {
			unit = -1
		}
		other := len(open.resources) > 0 && (open.unit != unit || unit >= 0 && open.file != i)
		full := open.size+len(it.raw) > api.MaxImportBytes || len(open.resources) == api.MaxImportResources ||
			unit < 0 && len(open.resources) == maxRun
		if full && !other && unit >= 0 && split != (place{i, unit}) {
			split = place{i, unit}
			r.p.remark("%s: a Bundle is larger than a batch may be, and is imported in several", visible(r.files[i].name))
		}
		if other || full {
			if err := flush(); err != nil {
				return err
			}
		}
		open.file, open.unit = i, unit
		open.resources = append(open.resources, it.raw)
		open.size += len(it.raw) + 1
		it.raw = nil
		open.from = append(open.from, origin{r.files[i], it})
		return nil
	})
	if err == nil {
		err = flush()
	}
	if waitErr := group.Wait(); waitErr != nil {
		return waitErr // the cause, where err is that the context ended
	}
	if err == nil && sent != len(r.last) {
		// Sending less than was counted would lose edits without a word.
		err = &api.Error{Code: api.CodeConflict, Message: "a file changed while it was imported", Hint: "import it again"}
	}
	return err
}

// each reads the files for the second time. Files that could not be read to their end were named by the first pass, and
// give the same items again.
func (r *importRun) each(fn func(file, n int, it item) error) error {
	for i, file := range r.files {
		n := 0
		var stop error
		_ = r.readFile(file, func(it item) error {
			if it.err == nil {
				stop = fn(i, n, it)
			}
			n++
			return stop
		})
		if stop != nil {
			return stop
		}
	}
	return nil
}

func (r *importRun) sendBatch(ctx context.Context, b batch) error {
	result, err := r.agent.Import(ctx, r.author, api.ImportBatch{Resources: b.resources})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := &r.mu.result
	sum.Created += result.Created
	sum.Changed += result.Changed
	sum.Unchanged += result.Unchanged
	sum.Conflicts += result.Conflicts
	for _, no := range result.Refused {
		from := origin{b.from[0].file, item{entry: -1}} // of what the agent cannot place, the file is a good guess
		if no.Index >= 0 && no.Index < len(b.from) {
			from = b.from[no.Index]
		}
		r.refuse(from.file, from.item, no.Reason)
	}
	r.mu.done += len(b.resources)
	return nil
}

// progress shows how far the import is until the returned function is called: in one line on a terminal, else now and
// then.
func (r *importRun) progress() (stop func()) {
	every := plainEvery
	if r.terminal {
		every = refreshEvery
	}
	begun := time.Now()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-end:
				if r.terminal {
					_, _ = io.WriteString(r.p.err, "\r\x1b[K")
				}
				return
			case now := <-tick.C:
				r.mu.Lock()
				done := r.mu.done
				r.mu.Unlock()
				line := progressLine(done, len(r.last), now.Sub(begun), now)
				if r.terminal {
					_, _ = io.WriteString(r.p.err, "\r\x1b[K"+line)
				} else {
					r.p.remark("%s", line)
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// progressLine says how far it is, how fast it goes, and when it will be done if it goes on so.
func progressLine(done, total int, passed time.Duration, now time.Time) string {
	line := fmt.Sprintf("%s of %s", count(done), plural(total, "resource"))
	if done == 0 || passed <= 0 {
		return line
	}
	rate := float64(done) / passed.Seconds()
	left := time.Duration(float64(total-done) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left, done at %s", line, count(int(rate)), span(left), now.Add(left).Local().Format("15:04:05"))
}

// summary prints the end of an import for a person.
func (r *importRun) summary(s imported) {
	p := r.p
	for i, no := range s.Refused {
		if i == maxNamed {
			p.remark("… and %s more (--json names them)", count(r.refused-maxNamed))
			break
		}
		p.remark("refused: %s", visible(no.String()))
	}
	rate := ""
	if s.Seconds > 0 {
		rate = fmt.Sprintf(" (%s/s)", count(int(float64(r.mu.done)/s.Seconds)))
	}
	p.line("%s of %s from %s in %.1f s%s", count(r.mu.done), plural(s.Resources, "resource"), plural(s.Files, "file"), s.Seconds, rate)
	p.line("%s created, %s changed, %s unchanged, %s refused", count(s.Created), count(s.Changed), count(s.Unchanged), count(r.refused))
	if s.Repeated > 0 {
		p.line("%s came again later in the files; the last one stands", plural(s.Repeated, "item"))
	}
	if s.Conflicts > 0 {
		p.line("%s to decide: chartmesh conflict list", plural(s.Conflicts, "conflict"))
	}
}
