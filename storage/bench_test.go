package storage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chartmesh/storage"
)

// benchStore opens a store for a benchmark.
func benchStore(b *testing.B) storage.Store {
	s, err := storage.Open(filepath.Join(b.TempDir(), "store"), testKey, storage.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func random(n int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	p := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
	}
	return p[:n]
}

// BenchmarkSync is what to hold Commit against: 1 KB appended to a file and synced.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	p := random(1 << 10)
	for b.Loop() {
		if _, err := f.Write(p); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommit commits 1 KB from several goroutines at once.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := benchStore(b)
			p := random(1 << 10)
			var next atomic.Uint64
			b.ResetTimer()
			var all sync.WaitGroup
			for range writers {
				all.Go(func() {
					for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
						var batch storage.Batch
						batch.Put(storage.Event.Key(n), p)
						if err := s.Commit(context.Background(), &batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

func fill(b *testing.B, s storage.Store, n int) {
	p := random(1 << 10)
	var batch storage.Batch
	for i := range n {
		batch.Put(storage.Event.Key(uint64(i)), p)
		if batch.Size() > 1<<20 || i == n-1 {
			if err := s.Commit(context.Background(), &batch); err != nil {
				b.Fatal(err)
			}
			batch = storage.Batch{}
		}
	}
}

// BenchmarkGet reads values of 1 KB at random, each in a view of its own.
func BenchmarkGet(b *testing.B) {
	s := benchStore(b)
	const pairs = 40_000 // 40 MB: more than the caches and a memtable
	fill(b, s, pairs)
	rng := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		err := s.View(func(r storage.Reader) error {
			_, err := r.Get(storage.Event.Key(rng.Uint64N(pairs)))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan reads 1,000 values of 1 KB in order.
func BenchmarkScan(b *testing.B) {
	s := benchStore(b)
	const pairs = 40_000
	fill(b, s, pairs)
	rng := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		n := 0
		err := s.View(func(r storage.Reader) error {
			return r.Scan(storage.Event.All(), storage.Event.Key(rng.Uint64N(pairs-1000)), func(_, _ []byte) error {
				if n++; n == 1000 {
					return storage.ErrStop
				}
				return nil
			})
		})
		if err != nil || n != 1000 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "values/s")
}

// BenchmarkTwin commits and scans a twin of some thousand keys, as simulations do.
func BenchmarkTwin(b *testing.B) {
	s := storage.NewTwin()
	p := bytes.Repeat([]byte{'x'}, 200)
	for n := uint64(0); b.Loop(); n++ {
		var batch storage.Batch
		for i := range uint64(5) {
			batch.Put(storage.Event.Key((n*5+i)%5000), p)
		}
		if err := s.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill commits 100 MB of values of 40 KB, so many in each commit, beside as many bytes appended to a file and synced as often.
func BenchmarkFill(b *testing.B) {
	const total, size = 100_000_000, 40 << 10
	for _, each := range []int{1, 6, 24} {
		b.Run(fmt.Sprintf("%dKB", each*size>>10), func(b *testing.B) {
			b.SetBytes(total)
			p := random(size)
			for b.Loop() {
				b.StopTimer()
				s := benchStore(b)
				b.StartTimer()
				for n := 0; n*size < total; {
					var batch storage.Batch
					for range each {
						batch.Put(storage.Event.Key(uint64(n)), p)
						n++
					}
					if err := s.Commit(context.Background(), &batch); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			f, err := os.Create(filepath.Join(b.TempDir(), "file"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			frame := random(each * size)
			begun := time.Now()
			for n := 0; n < total; n += len(frame) {
				if _, err := f.Write(frame); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(total/1e6/time.Since(begun).Seconds(), "file-MB/s")
		})
	}
}
