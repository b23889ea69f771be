package client_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
)

var (
	lock   = lockquorum.LockID{1}
	doc    = lockquorum.DocumentID{1}
	circle = lockquorum.CircleID{1}
)

const ttl = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a quorum of one voter.
func start(t *testing.T) *driver.Driver {
	t.Helper()
	st := lockquorum.New(0)
	st.Reseed(1, []lockquorum.Voter{{ID: 1, Device: lockquorum.DeviceID{1}}})
	twin := storage.NewTwin()
	must(t, driver.Found(t.Context(), twin, driver.Record{Epoch: 1, ID: 1}, voter.Found(st)))
	disk, _, err := driver.OpenDisk(twin)
	must(t, err)
	d, err := driver.Open(t.Context(), driver.Config{ID: 1, Device: lockquorum.DeviceID{1}, Disk: disk, Allow: quorumtest.Allow, SnapshotEvery: 50})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

// machine is a client's: its clocks, and how it reaches the voter.
type machine struct {
	lockquorum.Engine
	begun time.Time
	rate  float64

	mu       sync.Mutex
	jumped   time.Duration // its time of day, while the other clock stood still
	cut      bool
	lose     func() int // of the next operation: 0 nothing, 1 it does not arrive, 2 the answer does not
	requests int
}

func (m *machine) now() client.Moment {
	m.mu.Lock()
	defer m.mu.Unlock()
	runs := time.Duration(float64(time.Since(m.begun)) * m.rate)
	return client.Moment{Monotonic: runs, Wall: m.begun.Add(runs + m.jumped)}
}

func (m *machine) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	m.mu.Lock()
	m.requests++
	cut, lose := m.cut, 0
	if m.lose != nil {
		lose = m.lose()
	}
	m.mu.Unlock()
	if cut {
		return lockquorum.Answer{}, lockquorum.ErrUnreachable
	}
	if lose == 1 {
		return lockquorum.Answer{}, lockquorum.ErrOutcomeUnknown
	}
	a, err := m.Engine.Do(ctx, from, r)
	if lose == 2 {
		return lockquorum.Answer{}, lockquorum.ErrOutcomeUnknown
	}
	return a, err
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func join(t *testing.T, d *driver.Driver, self lockquorum.DeviceID, change func(*client.Config)) (*client.Client, *machine) {
	t.Helper()
	m := &machine{Engine: d, begun: time.Now(), rate: 1}
	cfg := client.Config{Self: self, Now: m.now, Voters: func() []client.Voter { return []client.Voter{{Device: lockquorum.DeviceID{1}, Engine: m}} }}
	if change != nil {
		change(&cfg)
	}
	c := client.New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.Close(ctx)
	})
	return c, m
}

// world runs a test with a quorum and two clients in virtual time.
func world(t *testing.T, test func(t *testing.T, a, b *client.Client, ma *machine)) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		a, ma := join(t, d, quorumtest.A, nil)
		b, _ := join(t, d, quorumtest.B, nil)
		test(t, a, b, ma)
	})
}

func TestOneHolder(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, _ *machine) {
		l, err := a.TryAcquire(t.Context(), lock, ttl)
		must(t, err)
		if _, err := b.TryAcquire(t.Context(), lock, ttl); !errors.Is(err, client.ErrHeld) {
			t.Errorf("a lock that is held: %v", err)
		}
		if _, err := a.TryAcquire(t.Context(), lock, ttl); !errors.Is(err, client.ErrHeld) {
			t.Errorf("a lock that this process holds: %v", err)
		}
		must(t, l.Err())
		must(t, l.Release(t.Context()))
		must(t, l.Release(t.Context()))
		if !errors.Is(l.Err(), context.Canceled) || l.Context().Err() == nil {
			t.Errorf("a lease that was given back says %v", l.Err())
		}
		next, err := b.TryAcquire(t.Context(), lock, ttl)
		must(t, err)
		if next.Token().Compare(l.Token()) <= 0 {
			t.Errorf("%v follows %v", next.Token(), l.Token())
		}
	})
}

// TestWaits: who waits far longer than its session lasts has the lease in turn, and for its whole time.
func TestWaits(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, _ *machine) {
		held, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		got := make(chan *client.Lease)
		go func() {
			l, err := b.Acquire(t.Context(), lock, ttl)
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		_, err = b.OpenCircle(t.Context(), circle, 1, 1000)
		must(t, err)
		for i := range 100 { // what else this process asks for does not wait for it
			time.Sleep(18 * time.Second)
			_, err := b.Assign(t.Context(), circle, lockquorum.ItemID{byte(i)})
			must(t, err)
		}
		must(t, held.Err()) // it was renewed, 270 times
		must(t, held.Release(t.Context()))
		l := <-got
		must(t, l.Err())
		if left := time.Until(l.Deadline()); left < ttl*9/10 {
			t.Errorf("who waited has the lease for %v", left)
		}
	})
}

// TestGivesUp: who waits no more is not in the way of others.
func TestGivesUp(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, _ *machine) {
		held, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Acquire(ctx, lock, ttl); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gave up: %v", err)
		}
		time.Sleep(time.Second)
		must(t, held.Release(t.Context()))
		next, err := a.TryAcquire(t.Context(), lock, ttl)
		must(t, err)
		must(t, next.Release(t.Context()))
	})
}

// TestCutOff: who does not reach the quorum any more stops before somebody else begins.
func TestCutOff(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, ma *machine) {
		held, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		time.Sleep(50 * time.Second)
		ma.set(func() { ma.cut = true })
		ended := make(chan time.Time, 1)
		go func() {
			<-held.Done()
			ended <- time.Now()
		}()
		l, err := b.Acquire(t.Context(), lock, ttl)
		must(t, err)
		select {
		case at := <-ended:
			if !errors.Is(held.Err(), client.ErrLeaseLost) {
				t.Errorf("the lease is over since %v: %v", at, held.Err())
			}
		default:
			t.Error("two hold the lock")
		}
		if err := held.Commit(t.Context(), doc, lockquorum.Heads{1}); !errors.Is(err, client.ErrLeaseLost) {
			t.Errorf("a late commit: %v", err)
		}
		if err := held.Release(t.Context()); !errors.Is(err, client.ErrLeaseLost) {
			t.Errorf("a lease that was lost is given back: %v", err)
		}
		must(t, l.Err())
	})
}

// TestSleeps: a machine whose clock stood still while it slept knows by the time of day that the lease is over, before any timer says so.
func TestSleeps(t *testing.T) {
	world(t, func(t *testing.T, a, _ *client.Client, ma *machine) {
		held, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		ma.set(func() { ma.cut, ma.jumped = true, time.Hour })
		if now := ma.now(); now.Monotonic > time.Second {
			t.Fatalf("the clock did not stand still: %v", now)
		}
		if err := held.Err(); !errors.Is(err, client.ErrLeaseLost) {
			t.Errorf("after an hour's sleep the lease says %v", err)
		}
		<-held.Done()
	})
}

func TestBreak(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, _ *machine) {
		held, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		must(t, held.Commit(t.Context(), doc, lockquorum.Heads{1}))
		must(t, b.Break(t.Context(), lock, held.Token(), nil, []byte("why")))
		if err := b.Break(t.Context(), lock, held.Token(), nil, nil); !errors.Is(err, client.ErrStaleToken) {
			t.Errorf("a lease that is over is broken: %v", err)
		}
		if err := held.Commit(t.Context(), doc, lockquorum.Heads{2}); !errors.Is(err, client.ErrLeaseLost) || !errors.Is(err, client.ErrStaleToken) {
			t.Errorf("a commit after the break: %v", err)
		}
		if !errors.Is(held.Err(), client.ErrLeaseLost) {
			t.Errorf("the lease says %v", held.Err())
		}
		other, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		must(t, b.Break(t.Context(), lock, other.Token(), nil, nil))
		<-other.Done() // by the next renewal
	})
}

func TestBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		arrived := make(chan struct{})
		a, _ := join(t, d, quorumtest.A, nil)
		b, _ := join(t, d, quorumtest.B, func(cfg *client.Config) {
			cfg.Await = func(ctx context.Context, got lockquorum.DocumentID, h lockquorum.Heads) error {
				if got != doc || h != (lockquorum.Heads{1}) {
					t.Errorf("it waits for %v of %v", h, got)
				}
				select {
				case <-arrived:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
		first, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		must(t, first.Barrier(t.Context(), doc))
		must(t, first.Commit(t.Context(), doc, lockquorum.Heads{1}))
		must(t, first.Release(t.Context()))
		second, err := b.Acquire(t.Context(), lock, ttl)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := second.Barrier(ctx, doc); !errors.Is(err, client.ErrBarrierPending) {
			t.Errorf("what has not arrived: %v", err)
		}
		close(arrived)
		must(t, second.Barrier(t.Context(), doc))
		must(t, second.Commit(t.Context(), doc, lockquorum.Heads{2}))
		if second.Certified(doc) != (lockquorum.Heads{2}) {
			t.Errorf("certified is %v", second.Certified(doc))
		}
	})
}

// TestNoQuorum: without a quorum it says so, at once where nobody can be reached.
func TestNoQuorum(t *testing.T) {
	world(t, func(t *testing.T, a, _ *client.Client, ma *machine) {
		ma.set(func() { ma.cut = true })
		begun := time.Now()
		_, err := a.Acquire(t.Context(), lock, ttl)
		if no := (*client.NoQuorumError)(nil); !errors.As(err, &no) || !errors.Is(err, client.ErrNoQuorum) || errors.Is(err, client.ErrOutcomeUnknown) ||
			no.Voters != 1 || len(no.Reached) > 0 || time.Since(begun) > 0 {
			t.Errorf("after %v: %+v", time.Since(begun), err)
		}
		ma.set(func() { ma.cut, ma.lose = false, func() int { return 1 } })
		_, err = a.Assign(t.Context(), circle, lockquorum.ItemID{1})
		if no := (*client.NoQuorumError)(nil); !errors.As(err, &no) || !errors.Is(err, client.ErrOutcomeUnknown) || len(no.Reached) != 1 {
			t.Errorf("a voter that never answers: %+v", err)
		}
	})
}

// follows is a voter that follows nobody.
type follows struct{ lockquorum.Engine }

func (follows) Do(context.Context, lockquorum.DeviceID, lockquorum.Request) (lockquorum.Answer, error) {
	return lockquorum.Answer{}, &lockquorum.NotLeaderError{}
}

// gone is a voter that is not connected.
type gone struct{ lockquorum.Engine }

func (gone) Do(context.Context, lockquorum.DeviceID, lockquorum.Request) (lockquorum.Answer, error) {
	return lockquorum.Answer{}, lockquorum.ErrUnreachable
}

// TestFewVoters: where no majority is reached that is said soon, else when an election had its time; who was silent is not said to be reached.
func TestFewVoters(t *testing.T) {
	for _, c := range []struct {
		name    string
		engines []lockquorum.Engine
		reached []lockquorum.DeviceID
		least   time.Duration
		most    time.Duration
	}{
		{"two are gone", []lockquorum.Engine{follows{}, gone{}, gone{}}, []lockquorum.DeviceID{{1}}, time.Second, 2 * time.Second},
		{"one is silent, one gone", []lockquorum.Engine{follows{}, hangs{}, gone{}}, []lockquorum.DeviceID{{1}}, 4 * time.Second, 12 * time.Second},
		{"nobody leads yet", []lockquorum.Engine{follows{}, follows{}, gone{}}, []lockquorum.DeviceID{{1}, {2}}, 4 * time.Second, 6 * time.Second},
		{"all are gone", []lockquorum.Engine{gone{}, gone{}, gone{}}, nil, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := join(t, nil, quorumtest.A, func(cfg *client.Config) {
					cfg.Voters = func() (list []client.Voter) {
						for i, e := range c.engines {
							list = append(list, client.Voter{Device: lockquorum.DeviceID{byte(i + 1)}, Engine: e})
						}
						return list
					}
				})
				begun := time.Now()
				_, err := a.Assign(t.Context(), circle, lockquorum.ItemID{1})
				took := time.Since(begun)
				no := (*client.NoQuorumError)(nil)
				if !errors.As(err, &no) || no.Voters != 3 || took < c.least || took > c.most {
					t.Fatalf("after %v: %v", took, err)
				}
				slices.SortFunc(no.Reached, func(a, b lockquorum.DeviceID) int { return cmp.Compare(a[0], b[0]) })
				if !slices.Equal(no.Reached, c.reached) {
					t.Errorf("reached were %v", no.Reached)
				}
			})
		})
	}
}

// TestLostAnswers: whatever is lost on the way, an item has one number and there is no gap.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		rng := rand.New(rand.NewPCG(1, 1))
		first, _ := join(t, d, quorumtest.A, nil)
		_, err := first.OpenCircle(t.Context(), circle, 1, 1000)
		must(t, err)
		given := map[int64]lockquorum.ItemID{}
		for i := range 200 {
			c, m := join(t, d, quorumtest.A, nil) // each its own process
			m.lose = func() int { return rng.IntN(3) }
			item := lockquorum.ItemID{byte(i % 150)}
			n, err := c.Assign(t.Context(), circle, item)
			if err != nil {
				continue
			}
			if other, ok := given[n.Number]; ok && other != item || n.Number > int64(len(given)+i+1) {
				t.Fatalf("item %d has the number %d, which is %v's", i, n.Number, other)
			}
			given[n.Number] = item
		}
		st, err := first.Read(t.Context(), lockquorum.Query{Kind: lockquorum.ReadCircle, ID: circle})
		must(t, err)
		list, _ := st.Circle(circle)
		if got := list[0].Given; got != 150 && got != len(given) {
			t.Errorf("%d numbers were given to %d items", got, len(given))
		}
	})
}

// TestCommitUnknown: after a commit whose answer was lost the holder goes on.
func TestCommitUnknown(t *testing.T) {
	world(t, func(t *testing.T, a, b *client.Client, m *machine) {
		l, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		m.set(func() { m.lose = func() int { return 2 } })
		if err := l.Commit(t.Context(), doc, lockquorum.Heads{1}); !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Fatalf("a commit without an answer: %v", err)
		}
		m.set(func() { m.lose = nil })
		must(t, l.Commit(t.Context(), doc, lockquorum.Heads{2}))
		must(t, l.Commit(t.Context(), doc, lockquorum.Heads{2}))
		if got := l.Certified(doc); got != (lockquorum.Heads{2}) {
			t.Errorf("%x is certified", got)
		}
		st, err := b.Read(t.Context(), lockquorum.Query{Kind: lockquorum.ReadLock, ID: lock})
		must(t, err)
		if at, _ := st.Lease(lock); at.Documents[0].Heads != (lockquorum.Heads{2}) {
			t.Errorf("the quorum certifies %x", at.Documents[0].Heads)
		}
	})
}

// TestHeldOn: an answer that was lost does not end a lease, however long it is renewed.
func TestHeldOn(t *testing.T) {
	world(t, func(t *testing.T, a, _ *client.Client, m *machine) {
		l, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		m.set(func() { m.lose = func() int { return 2 } })
		if err := l.Commit(t.Context(), doc, lockquorum.Heads{1}); !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Fatalf("a commit without an answer: %v", err)
		}
		m.set(func() { m.lose = nil })
		time.Sleep(100 * ttl / 3)
		if err := l.Err(); err != nil {
			t.Errorf("a lease that was renewed: %v", err)
		}
	})
}

// TestReleasedInTheMidst: a session whose renewal was cut short by a release does not serve the next lease.
func TestReleasedInTheMidst(t *testing.T) {
	world(t, func(t *testing.T, a, _ *client.Client, m *machine) {
		l, err := a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		m.set(func() { m.lose = func() int { return 2 } })
		time.Sleep(ttl/3 + 50*time.Millisecond) // a renewal has no answer
		m.set(func() { m.lose = nil })
		must(t, l.Release(t.Context()))
		l, err = a.Acquire(t.Context(), lock, ttl)
		must(t, err)
		time.Sleep(100 * ttl / 3)
		if err := l.Err(); err != nil {
			t.Errorf("the next lease: %v", err)
		}
	})
}

// hangs is a voter whose device seems connected, and is not.
type hangs struct{ lockquorum.Engine }

func (hangs) Do(ctx context.Context, _ lockquorum.DeviceID, _ lockquorum.Request) (lockquorum.Answer, error) {
	<-ctx.Done()
	return lockquorum.Answer{}, context.Cause(ctx)
}

// TestHangs: who cannot even be asked in time does not keep the next one from being asked.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		c, _ := join(t, d, quorumtest.A, func(cfg *client.Config) {
			cfg.Voters = func() []client.Voter {
				return []client.Voter{{Device: lockquorum.DeviceID{2}, Engine: hangs{}}, {Device: lockquorum.DeviceID{1}, Engine: d}}
			}
		})
		l, err := c.Acquire(t.Context(), lock, ttl)
		must(t, err)
		must(t, l.Release(t.Context()))
	})
}

// TestTwoHolders: two never take themselves for the holder at one time, whatever is lost and however their clocks run apart within the bound.
func TestTwoHolders(t *testing.T) {
	seeds := 20
	if n, err := strconv.Atoi(os.Getenv("SIM_SEEDS")); err == nil && os.Getenv("HEAVY") != "" {
		seeds = n
	}
	grants := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t)
				rng := rand.New(rand.NewPCG(uint64(seed), 2))
				var mu sync.Mutex
				held := map[*client.Lease]bool{}
				var work sync.WaitGroup
				var chance sync.Mutex
				random := func(n int) int {
					chance.Lock()
					defer chance.Unlock()
					return rng.IntN(n)
				}
				for i, self := range []lockquorum.DeviceID{quorumtest.A, quorumtest.B, quorumtest.C} {
					c, m := join(t, d, self, nil)
					m.rate = []float64{0.985, 1, 1.015}[(i+seed)%3]
					m.lose = func() int { return max(0, random(12)-9) }
					work.Go(func() {
						for range 30 {
							l, err := c.Acquire(t.Context(), lock, 3*time.Second)
							if err != nil {
								continue
							}
							mu.Lock()
							grants++
							held[l] = true
							mu.Unlock()
							if random(3) == 0 {
								m.set(func() { m.cut = true })
							}
							for range random(80) {
								mu.Lock()
								n := 0
								for l := range held {
									if l.Err() == nil {
										n++
									}
								}
								mu.Unlock()
								if n > 1 {
									t.Errorf("seed %d: %d take themselves for the holder", seed, n)
									return
								}
								time.Sleep(50 * time.Millisecond)
							}
							m.set(func() { m.cut = false })
							_ = l.Release(t.Context())
							mu.Lock()
							delete(held, l)
							mu.Unlock()
						}
					})
				}
				work.Wait()
			})
		})
	}
	if grants < 40*seeds {
		t.Errorf("only %d leases were granted, which proves little", grants)
	}
}
