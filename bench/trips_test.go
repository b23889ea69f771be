package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// BenchmarkEdit is a local edit: read, difference, engine, seal, one durable commit. Its limit is LimitCommit.
func BenchmarkEdit(b *testing.B) {
	a := found(b)
	patients := a.somePatients(b, 20)
	n := 0
	for b.Loop() {
		a.edit(b, patients[n%len(patients)])
		n++
	}
}

// BenchmarkEditVisible is from an edit sent at one site to its event at the other, durable at both. Its limit is two
// LimitCommits and half a LimitRoundTrip.
func BenchmarkEditVisible(b *testing.B) {
	a := found(b)
	other := join(b, a, "branch")
	patients := a.somePatients(b, 20)
	other.inSync(b, a)
	a.inSync(b, other)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	since := newest(b, other)
	events := make(chan api.Event, 1024)
	done := make(chan error, 1)
	go func() {
		done <- other.Events(ctx, since, true, func(e api.Event) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	var took []time.Duration
	n := 0
	for b.Loop() {
		p := patients[n%len(patients)]
		n++
		body := a.edited(b, p)
		begun := time.Now()
		written, err := a.Put(ctx, "Dr. Adler", body, false)
		must(b, err)
		late := time.After(patience)
		for seen := false; !seen; {
			select {
			case e := <-events:
				seen = e.Resource == written.Ref && e.Version == written.Version
			case err := <-done:
				b.Fatalf("events ended: %v", err)
			case <-late:
				b.Fatal("an edit never appeared at the other site")
			}
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// newest is the cursor of a site's last event.
func newest(b testing.TB, s *site) (cursor uint64) {
	b.Helper()
	must(b, s.Events(within(b), 0, false, func(e api.Event) error {
		cursor = e.Cursor
		return nil
	}))
	return cursor
}

const importPatients = 100

// BenchmarkImport imports the records of patients, one change per document and bundle. Its limits are LimitCompress and
// LimitCommit.
func BenchmarkImport(b *testing.B) {
	batches, resources, size := bundles(b, importPatients)
	b.SetBytes(int64(size))
	for b.Loop() {
		b.StopTimer()
		a := found(b)
		b.StartTimer()
		a.load(b, batches)
		b.StopTimer()
		a.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(resources*b.N)/b.Elapsed().Seconds(), "resources/s")
}

// BenchmarkFirstSync is from the start of an empty member's agent until it is in sync. Its limits are LimitLoopback and
// LimitCommit.
func BenchmarkFirstSync(b *testing.B) {
	a := found(b)
	batches, _, _ := bundles(b, importPatients)
	a.load(b, batches)
	held, err := a.Status(b.Context(), "")
	must(b, err)
	var json counter
	must(b, a.Export(b.Context(), &json, api.ExportOptions{}))
	b.SetBytes(int64(json))
	var wire uint64
	n := 0
	for b.Loop() {
		b.StopTimer()
		other := admit(b, a, fmt.Sprintf("branch-%d", n))
		b.StartTimer()
		other.run(b)
		status := other.inSync(b, a)
		b.StopTimer()
		n++
		if status.Resources != held.Resources {
			b.Fatalf("in sync with %d resources of %d", status.Resources, held.Resources)
		}
		for _, s := range status.Sync {
			wire += s.BytesReceived + s.BytesSent
		}
		other.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(wire)/float64(n)/float64(json), "wire/json")
	b.ReportMetric(float64(held.Resources*n)/b.Elapsed().Seconds(), "resources/s")
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkReconnect is from the network coming back until both sides know that there is nothing to do. Its limit is the
// handshake and LimitRoundTrip.
func BenchmarkReconnect(b *testing.B) {
	a := found(b)
	batches, _, _ := bundles(b, importPatients)
	a.load(b, batches)
	other := join(b, a, "branch")
	other.inSync(b, a)
	a.inSync(b, other)
	var bytes, trips, n float64
	for b.Loop() {
		b.StopTimer()
		must(b, other.SetOnline(context.Background(), false))
		for apart := false; !apart; {
			status, err := other.Status(context.Background(), "")
			must(b, err)
			apart = !status.InSync
		}
		b.StartTimer()
		must(b, other.SetOnline(context.Background(), true))
		status := other.inSync(b, a)
		n++
		for _, s := range status.Sync {
			bytes += float64(s.BytesSent + s.BytesReceived)
			trips += float64(s.RoundTrips)
		}
	}
	b.ReportMetric(bytes/n, "payload-bytes")
	b.ReportMetric(trips/n, "round-trips")
}

// BenchmarkRead is reading one resource of many.
func BenchmarkRead(b *testing.B) {
	a := found(b)
	batches, _, _ := bundles(b, importPatients)
	a.load(b, batches)
	p := a.somePatients(b, 1)[0]
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			_, err := a.Get(context.Background(), p.ref, "")
			must(b, err)
		}
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			found, err := a.Find(context.Background(), "bench", 50)
			must(b, err)
			if len(found) != 1 {
				b.Fatalf("found %d", len(found))
			}
		}
	})
	b.Run("export", func(b *testing.B) {
		for b.Loop() {
			must(b, a.Export(context.Background(), io.Discard, api.ExportOptions{}))
		}
	})
}
