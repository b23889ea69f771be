package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// ledger holds what a client outside was told is written: for each resource the greatest number that was acknowledged.
type ledger struct {
	sync.Mutex
	written map[string]int
	over    int // how many writes may have come after the last that is noted
}

// writer puts growing numbers into one resource of its own, over and over, and notes each acknowledgement. It goes on
// over the agent's deaths.
func (l *ledger) writer(ctx context.Context, s *site, alive func() *site, id string) {
	ref := "Basic/" + id
	for n := 1; ctx.Err() == nil; {
		at := alive()
		if at == nil {
			continue
		}
		body := fmt.Appendf(nil, `{"resourceType":"Basic","id":%q,"code":{"text":"n%d"}}`, id, n)
		if _, err := at.client.Put(ctx, "writer", body, true); err != nil {
			continue // not acknowledged
		}
		l.Lock()
		l.written[ref] = n
		l.Unlock()
		n++
	}
}

// now returns what is acknowledged at this moment.
func (l *ledger) now() *ledger {
	l.Lock()
	defer l.Unlock()
	return &ledger{written: maps.Clone(l.written)}
}

func (l *ledger) check(t *testing.T, s *site) (total int) {
	t.Helper()
	missing, total := l.missing(t, s)
	for _, m := range missing {
		t.Error(m)
	}
	return total
}

// missing names what was acknowledged and is not there, and counts what was.
func (l *ledger) missing(t *testing.T, s *site) (list []string, total int) {
	t.Helper()
	l.Lock()
	defer l.Unlock()
	for ref, n := range l.written {
		r, err := api.ParseRef(ref)
		must(t, err)
		got, err := s.client.Get(t.Context(), r, "")
		if err != nil {
			list = append(list, fmt.Sprintf("%s on %s: %d acknowledged writes, and %v", ref, s.name, n, err))
			continue
		}
		o, err := fhir.Parse(got.JSON)
		must(t, err)
		code, _ := o["code"].(fhir.Object)
		text, _ := code["text"].(string)
		if have, err := strconv.Atoi(text[1:]); err != nil || have < n || have > n+l.over {
			list = append(list, fmt.Sprintf("%s on %s is at %s, and %d was acknowledged", ref, s.name, text, n))
		}
		total += n
	}
	return list, total
}

func seed(t *testing.T) *rand.Rand {
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		must(t, err)
		s = n
	}
	t.Logf("rerun with HEAVY=1 SEED=%d go test ./acceptance -run %s", s, t.Name())
	return rand.New(rand.NewPCG(s, 1))
}

func moments() int {
	if n, err := strconv.Atoi(os.Getenv("KILLS")); err == nil {
		return n
	}
	return 20
}

// TestKillAgents kills either agent at random moments under load. Nothing that was acknowledged may be missing.
func TestKillAgents(t *testing.T) {
	heavy(t)
	random := seed(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	b := join(t, root, "branch", a)
	b.inSync()
	l := &ledger{written: map[string]int{}, over: 1}
	var mu sync.RWMutex // held by whoever kills and starts again
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		s := []*site{a, b}[i%2]
		alive := func() *site {
			mu.RLock()
			defer mu.RUnlock()
			return s
		}
		wg.Go(func() { l.writer(ctx, s, alive, fmt.Sprintf("%s-%d", s.name, i)) })
	}
	for range moments() {
		wait(t, time.Duration(50+random.IntN(400))*time.Millisecond)
		s := []*site{a, b}[random.IntN(2)]
		must(t, s.cmd.Process.Signal(syscall.SIGKILL)) // while requests are under way
		mu.Lock()
		<-s.gone
		_ = s.client.Close()
		s.start()
		mu.Unlock()
	}
	cancel()
	wg.Wait()
	a.inSync()
	b.inSync()
	n := l.check(t, a)
	l.check(t, b)
	if !bytes.Equal(a.export(), b.export()) {
		t.Error("the exports differ")
	}
	a.verify()
	b.verify()
	t.Logf("%d kills of agents, %d acknowledged writes, none missing", moments(), n)
}

// TestKillEngines does the same to the engines; the agents live on and the writers may see errors, but lose nothing.
func TestKillEngines(t *testing.T) {
	heavy(t)
	random := seed(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	b := join(t, root, "branch", a)
	b.inSync()
	l := &ledger{written: map[string]int{}, over: 1}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		s := []*site{a, b}[i%2]
		wg.Go(func() { l.writer(ctx, s, func() *site { return s }, fmt.Sprintf("%s-%d", s.name, i)) })
	}
	killed := 0
	for killed < moments() {
		wait(t, time.Duration(20+random.IntN(200))*time.Millisecond)
		if pid := []*site{a, b}[random.IntN(2)].engine(); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	cancel()
	wg.Wait()
	a.inSync()
	st := b.inSync()
	if st.Unapplied+st.Parked+st.Quarantined != 0 {
		t.Errorf("an engine's death is held against chunks: %+v", st.Held)
	}
	n := l.check(t, a)
	l.check(t, b)
	if !bytes.Equal(a.export(), b.export()) {
		t.Error("the exports differ")
	}
	a.verify()
	b.verify()
	t.Logf("%d kills of engines, %d acknowledged writes, none missing", killed, n)
}

// wait lets the load run for a while; the moment of a kill is meant to be at random.
func wait(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(errors.New("the test was ended"))
	}
}
