package driver

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
)

// counted carries messages between the voters of one group, and counts them.
type counted struct {
	from            lockquorum.DeviceID
	to              map[lockquorum.DeviceID]*Driver
	messages, bytes *atomic.Int64
}

func (c counted) Send(to lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) error {
	c.messages.Add(1)
	c.bytes.Add(int64(proto.Size(m)))
	c.to[to].Receive(c.from, at, m)
	return nil
}

// SendSnapshot implements Transport: all voters have the same from the beginning.
func (c counted) SendSnapshot(lockquorum.DeviceID, lockquorum.Seen, *pb.Message, lockquorum.Pieces, func(error)) error {
	return errNoVoter
}

// BenchmarkIdle has 1,000 groups of three voters do nothing for a minute of real time, in one process, and says what one group takes: all three voters together, without
// connections and encryption. HEAVY=1, or 20 groups for 2 s.
func BenchmarkIdle(b *testing.B) {
	groups, period := 20, 2*time.Second
	if os.Getenv("HEAVY") != "" {
		groups, period = 1000, time.Minute
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	computed := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		var messages, bytes, commits atomic.Int64
		before := heap()
		var all []*Driver
		for range groups {
			to := map[lockquorum.DeviceID]*Driver{}
			for i := range 3 {
				twin, device := storage.NewTwin(), lockquorum.DeviceID{byte(i + 1)}
				if err := Found(ctx, twin, Record{Epoch: 1, ID: uint64(i + 1)}, voter.Found(founding(3))); err != nil {
					b.Fatal(err)
				}
				twin.OnCommit(func(at storage.Stage, _ int) error {
					if at == storage.Begin {
						commits.Add(1)
					}
					return nil
				})
				disk, rec, err := OpenDisk(twin)
				if err != nil {
					b.Fatal(err)
				}
				d, err := Open(ctx, Config{ID: rec.ID, Device: device, Disk: disk, Allow: quorumtest.Allow, Transport: counted{device, to, &messages, &bytes}})
				if err != nil {
					b.Fatal(err)
				}
				to[device], all = d, append(all, d)
			}
			for _, d := range to {
				running.Go(func() { _ = d.Run(ctx) })
			}
		}
		rest := time.NewTimer(5 * time.Second) // until all have a leader
		<-rest.C
		leaders := 0
		for _, d := range all {
			if d.Status().Leads {
				leaders++
			}
		}
		size, was := heap()-before, computed()
		messages.Store(0)
		bytes.Store(0)
		commits.Store(0)
		rest.Reset(period)
		<-rest.C
		minutes := period.Minutes() * float64(groups)
		b.ReportMetric(float64(leaders), "leaders")
		b.ReportMetric(float64(size)/float64(groups)/1024, "KiB/group")
		b.ReportMetric((computed()-was).Seconds()*1000/minutes, "ms_CPU/min")
		b.ReportMetric(float64(messages.Load())/minutes, "messages/min")
		b.ReportMetric(float64(bytes.Load())/minutes, "B/min")
		b.ReportMetric(float64(commits.Load())/minutes, "commits/min")
		cancel()
		running.Wait()
	}
}
