// Package figures is what agent and anchor have in common of the figures that they tell in Prometheus' form.
//
// Nouns: a [Figure] is one metric that is read when somebody asks. [Commits] counts a store's commits as they happen, since their time
// would be over by then.
package figures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"chartmesh/storage"
)

// Figure is one metric that is read when somebody asks. Its labels have values from fixed lists, or IDs that name nobody.
type Figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// Gauge makes a figure that goes up and down.
func Gauge(name, help string, labels ...string) Figure {
	return Figure{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// Counter makes a figure that only grows, until a restart.
func Counter(name, help string, labels ...string) Figure {
	return Figure{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// Describe names figures, as a prometheus.Collector has to.
func Describe(to chan<- *prometheus.Desc, list ...Figure) {
	for _, f := range list {
		to <- f.desc
	}
}

// Put says how large a figure is. There are as many values of labels as it has labels.
func (f Figure) Put(to chan<- prometheus.Metric, v float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
}

// Fail says that the figures could not be read, which Write then fails with.
func (f Figure) Fail(to chan<- prometheus.Metric, err error) {
	to <- prometheus.NewInvalidMetric(f.desc, err)
}

// OneIf is 1 for true.
func OneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Outcomes of a commit.
const (
	durable = "durable"
	noRoom  = "no-room" // on the disk, or in a share of it
	failed  = "failed"
)

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return durable
	case errors.Is(err, storage.ErrNoRoom):
		return noRoom
	}
	return failed
}

// Commits counts commits. It is a prometheus.Collector.
type Commits struct {
	outcomes *prometheus.CounterVec
	time     prometheus.Histogram
	bytes    prometheus.Counter
}

// NewCommits returns what counts commits; the names of its metrics begin with prefix.
func NewCommits(prefix string) *Commits {
	c := &Commits{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "_commits_total", Help: "Commits by outcome."}, []string{"outcome"}),
		time: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "_commit_seconds", Help: "Time until a commit was on stable storage, its fsync included.",
			Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1, 2, 4, 8},
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "_commit_bytes_total", Help: "Bytes of keys and values in commits that became durable."}),
	}
	for _, outcome := range []string{durable, noRoom, failed} {
		c.outcomes.WithLabelValues(outcome)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *Commits) Describe(to chan<- *prometheus.Desc) {
	for _, of := range []prometheus.Collector{c.outcomes, c.time, c.bytes} {
		of.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (c *Commits) Collect(to chan<- prometheus.Metric) {
	for _, of := range []prometheus.Collector{c.outcomes, c.time, c.bytes} {
		of.Collect(to)
	}
}

// Of returns a store whose commits are counted.
func (c *Commits) Of(s storage.Store) storage.Store { return counted{s, c} }

type counted struct {
	storage.Store
	by *Commits
}

func (s counted) Commit(ctx context.Context, b *storage.Batch) error {
	begun := time.Now()
	err := s.Store.Commit(ctx, b)
	s.by.outcomes.WithLabelValues(outcomeOf(err)).Inc()
	if err == nil {
		s.by.time.Observe(time.Since(begun).Seconds())
		s.by.bytes.Add(float64(b.Size()))
	}
	return err
}

// ErrGather says that figures could not be read. Its text names metrics and no data, but what it wraps is anybody's.
var ErrGather = errors.New("the figures could not be gathered")

// Write writes figures in Prometheus' text form.
func Write(w io.Writer, from prometheus.Gatherer) error {
	families, err := from.Gather()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGather, err)
	}
	enc := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		err = errors.Join(err, enc.Encode(f))
	}
	if err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	return nil
}
