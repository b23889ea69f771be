package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// visibleBytes is about what an edit commits at its author, and twice at the other site, as BenchmarkEdit and
// BenchmarkApply report it.
const visibleBytes = 4 << 10

// BenchmarkEditVisible is from an edit sent at one site to its event at the other, durable at both and applied. Its limits
// are a sync where it was written, one where it arrived, one where it was applied, and a round trip, of which it needs half.
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
				fatal(b, fmt.Sprintf("events ended: %v", err))
			case <-late:
				fatal(b, "an edit never appeared at the other site")
			}
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	beside(b, times(3, fsynced(b, visibleBytes)), roundTrip(b))
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

// importPatients is how many patients' records are imported and synced.
var importPatients = 100

// BenchmarkImport imports the records of patients, one change per document and bundle. Its limits are the same JSON through
// the compressor, and a sync for each bundle of what comes of it.
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
	var all []byte
	for _, batch := range batches {
		for _, r := range batch.Resources {
			all = append(all, r...)
		}
	}
	const packed = 10 // that JSON of records becomes about a tenth
	beside(b, compressed(b, all), times(len(batches), fsynced(b, len(all)/packed/len(batches))))
}

// BenchmarkFirstSync is from the start of an empty member's agent until it is in sync. Its limits are the bytes that came
// over the wire through plain TCP, and one sync of them.
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
			fatal(b, fmt.Sprintf("in sync with %d resources of %d", status.Resources, held.Resources))
		}
		for _, s := range status.Sync {
			wire += s.BytesReceived + s.BytesSent
		}
		other.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(wire)/float64(n)/float64(json), "wire/json")
	b.ReportMetric(float64(held.Resources*n)/b.Elapsed().Seconds(), "resources/s")
	beside(b, copied(b, int(wire)/n), fsynced(b, int(wire)/n))
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkReconnect is from the network coming back until both sides know that there is nothing to do. Its limit is a plain
// TCP connection and as many bytes there and back, without who is who and without a secret.
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
	beside(b, connected(b, int(bytes/n)/2))
}

// BenchmarkRead is reading one resource of many, or all. Its limit is a file of as many bytes that is in memory already.
func BenchmarkRead(b *testing.B) {
	a := found(b)
	batches, _, _ := bundles(b, importPatients)
	a.load(b, batches)
	p := a.somePatients(b, 1)[0]
	b.Run("get", func(b *testing.B) {
		var res api.Resource
		for b.Loop() {
			var err error
			res, err = a.Get(context.Background(), p.ref, "")
			must(b, err)
		}
		beside(b, cached(b, len(res.JSON)))
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			found, err := a.Find(context.Background(), "bench", 50)
			must(b, err)
			if len(found) != 1 {
				fatal(b, fmt.Sprintf("found %d", len(found)))
			}
		}
		beside(b, cached(b, 1<<10))
	})
	b.Run("export", func(b *testing.B) {
		var size counter
		for b.Loop() {
			size = 0
			must(b, a.Export(context.Background(), &size, api.ExportOptions{}))
		}
		b.SetBytes(int64(size))
		beside(b, cached(b, int(size)))
	})
}
