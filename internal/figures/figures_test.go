package figures

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"chartmesh/storage"
)

// says is a store whose commits end as it is told.
type says struct {
	storage.Store
	err error
}

func (s *says) Commit(context.Context, *storage.Batch) error { return s.err }

// TestCommits: each commit is counted once, by how it ended, and its time and size where it became durable.
func TestCommits(t *testing.T) {
	commits, inner := NewCommits("test"), &says{}
	r := prometheus.NewRegistry()
	r.MustRegister(commits)
	store := commits.Of(inner)
	var b storage.Batch
	b.Put([]byte("key"), []byte("value"))
	broken := errors.New("the power is out")
	for _, err := range []error{nil, nil, fmt.Errorf("commit: %w", storage.ErrNoRoom), broken, broken, broken} {
		inner.err = err
		if got := store.Commit(t.Context(), &b); got != err { //nolint:errorlint // the very same
			t.Errorf("it says %v, and the store %v", got, err)
		}
	}
	var out strings.Builder
	if err := Write(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`test_commits_total{outcome="durable"} 2`, `test_commits_total{outcome="no-room"} 1`,
		`test_commits_total{outcome="failed"} 3`, `test_commit_seconds_count 2`, fmt.Sprint(`test_commit_bytes_total `, 2*b.Size())} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(want) + `$`).MatchString(out.String()) {
			t.Errorf("there is no %s in\n%s", want, out.String())
		}
	}
}

// asked is a collector of one gauge and one counter.
type asked struct {
	gauge, counter Figure
	err            error
}

func (a asked) Describe(to chan<- *prometheus.Desc) { Describe(to, a.gauge, a.counter) }

func (a asked) Collect(to chan<- prometheus.Metric) {
	if a.err != nil {
		a.gauge.Fail(to, a.err)
		return
	}
	a.gauge.Put(to, OneIf(true), "x", "y")
	a.counter.Put(to, 7)
}

func TestFigures(t *testing.T) {
	a := asked{gauge: Gauge("up", "Whether it is.", "first", "second"), counter: Counter("seen_total", "How often.")}
	write := func() (string, error) {
		r := prometheus.NewRegistry()
		r.MustRegister(a)
		var out strings.Builder
		err := Write(&out, r)
		return out.String(), err
	}
	text, err := write()
	if want := "# HELP seen_total How often.\n# TYPE seen_total counter\nseen_total 7\n" +
		"# HELP up Whether it is.\n# TYPE up gauge\nup{first=\"x\",second=\"y\"} 1\n"; err != nil || text != want {
		t.Errorf("%v:\n%s", err, text)
	}
	a.err = errors.New("it is closed")
	if text, err := write(); !errors.Is(err, ErrGather) || !errors.Is(err, a.err) || text != "" {
		t.Errorf("%v:\n%s", err, text)
	}
}
