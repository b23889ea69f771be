package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// codeListLock is the lock that guards the list.
const codeListLock = "code-lists"

// sleeps stops a site as a machine does that goes to sleep: the agent and its engine do nothing until wakes.
func (s *site) sleeps() { s.t.Helper(); s.signals(syscall.SIGSTOP) }
func (s *site) wakes()  { s.t.Helper(); s.signals(syscall.SIGCONT) }

func (s *site) signals(sig syscall.Signal) {
	s.t.Helper()
	if pid := s.engine(); pid != 0 {
		must(s.t, syscall.Kill(pid, sig))
	}
	must(s.t, s.cmd.Process.Signal(sig))
}

// list returns the code list as a site has it, for somebody to add to.
func (s *site) list() map[string]any {
	s.t.Helper()
	list := map[string]any{"resourceType": "CodeSystem", "id": "services", "status": "active", "content": "complete"}
	ref, err := api.ParseRef(codeList)
	must(s.t, err)
	was, err := s.client.Get(s.t.Context(), ref, "")
	if api.CodeOf(err) == api.CodeNotFound {
		return list
	}
	must(s.t, err)
	must(s.t, json.Unmarshal(was.JSON, &list))
	return list
}

// with returns a list with one code more.
func with(t *testing.T, list map[string]any, code string) []byte {
	t.Helper()
	next := map[string]any{}
	for k, v := range list {
		next[k] = v
	}
	concepts, _ := list["concept"].([]any)
	next["concept"] = append(slices.Clone(concepts), map[string]any{"code": code})
	body, err := json.Marshal(next)
	must(t, err)
	return body
}

// adds puts one code more into a list, and says what came of it: nil, errUnclear or errRefused.
func (s *site) adds(ctx context.Context, list map[string]any, code string) error {
	s.t.Helper()
	_, err := s.client.Put(ctx, "user of "+s.name, with(s.t.(*testing.T), list, code), false)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "it is written on this device"):
		return errUnclear
	}
	return errRefused
}

// takesOver waits for the lease, adds a code under it and gives it back.
func (s *site) takesOver(code string) (waited time.Duration) {
	s.t.Helper()
	begun := time.Now()
	_, err := s.client.AcquireLease(s.t.Context(), "user", api.LeaseRequest{Name: codeListLock})
	must(s.t, err)
	waited = time.Since(begun).Round(100 * time.Millisecond)
	if err := s.adds(s.t.Context(), s.list(), code); err != nil {
		s.t.Fatalf("%s holds the lease, and its code %s: %v", s.name, code, err)
	}
	must(s.t, s.client.ReleaseLease(s.t.Context(), codeListLock))
	return waited
}

// sleeper is a workstation that falls asleep while it changes a code list, over and over, and what came of its writes.
type sleeper struct {
	*site
	mu        sync.Mutex
	committed []string
	unclear   []string // written, and not committed as far as was known
	refused   []string
	tooLate   []string // asked for when its lease was over
}

func (s *sleeper) note(code string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch err {
	case nil:
		s.committed = append(s.committed, code)
	case errUnclear:
		s.unclear = append(s.unclear, code)
	default:
		s.refused = append(s.refused, code)
	}
}

// writes has several users add codes, each one after the other, until it is asleep; what they ask for then is asked for too late.
func (s *sleeper) writes(ctx context.Context, round int, asleep <-chan struct{}) (done func()) {
	var work sync.WaitGroup
	list := s.list()
	for user := range 4 {
		work.Go(func() {
			for n := 0; ; n++ {
				code := fmt.Sprintf("c%d%d%d", round, user, n)
				if n > 8 { // three digits
					<-asleep
				}
				late := false
				select {
				case <-asleep:
					late = true
				default:
				}
				s.note(code, s.adds(ctx, list, code))
				if late {
					s.mu.Lock()
					s.tooLate = append(s.tooLate, code)
					s.mu.Unlock()
					return
				}
			}
		})
	}
	return work.Wait
}

// midst puts the workstation to sleep in the midst of its writes, until somebody else has changed the list.
func (s *sleeper) midst(other *site, random *rand.Rand, round int) {
	s.t.Helper()
	_, err := s.client.AcquireLease(s.t.Context(), "user", api.LeaseRequest{Name: codeListLock})
	must(s.t, err)
	asleep := make(chan struct{})
	done := s.writes(s.t.Context(), round, asleep)
	wait(s.t, time.Duration(random.IntN(300))*time.Millisecond)
	s.sleeps()
	close(asleep)
	waited := other.takesOver(fmt.Sprintf("c%d98", round))
	s.wakes()
	done()
	s.t.Logf("round %d: it sleeps in the midst; %s has the lease after %v", round, other.name, waited)
}

// cutOff puts it to sleep after it has written what it could not commit.
func (s *sleeper) cutOff(other *site, round int) {
	s.t.Helper()
	_, err := s.client.AcquireLease(s.t.Context(), "user", api.LeaseRequest{Name: codeListLock})
	must(s.t, err)
	code := fmt.Sprintf("c%d00", round)
	if err := s.adds(s.t.Context(), s.list(), code); err != nil {
		s.t.Fatalf("%s holds the lease: %v", s.name, err)
	}
	s.note(code, nil)
	must(s.t, s.client.SetOnline(s.t.Context(), false))
	code = fmt.Sprintf("c%d01", round)
	if err := s.adds(s.t.Context(), s.list(), code); err != errUnclear {
		s.t.Fatalf("%s is cut off and holds the lease: %v", s.name, err)
	}
	s.note(code, errUnclear)
	s.sleeps()
	waited := other.takesOver(fmt.Sprintf("c%d98", round))
	s.wakes()
	code = fmt.Sprintf("c%d02", round)
	err = s.adds(s.t.Context(), s.list(), code)
	s.note(code, err)
	s.tooLate = append(s.tooLate, code)
	if err != errRefused {
		s.t.Errorf("%s wakes up when its lease is over, and writes: %v", s.name, err)
	}
	must(s.t, s.client.SetOnline(s.t.Context(), true))
	s.syncsWith(other.name)
	s.t.Logf("round %d: it is cut off, writes and sleeps; %s has the lease after %v", round, other.name, waited)
}

// TestAsleep: a workstation falls asleep beyond its lease while it changes a code list; another one takes the lease and changes the list. When the first wakes up nothing that it wrote
// too late is in the list anywhere: it is kept aside on every device and shown, and one command under a new lease writes it anew.
func TestAsleep(t *testing.T) {
	heavy(t)
	random := seed(t)
	root := t.TempDir()
	a := found(t, root, "Mitte")
	b := &sleeper{site: join(t, root, "Nord", a)}
	c := join(t, root, "Sued", a) // holds no lease, and has to show the same
	b.syncsWith(a.name)
	c.syncsWith(a.name)
	a.takesOver("c099")
	theirs := []string{"c099"}
	for round := 1; round <= 5; round++ {
		if round%2 == 1 {
			b.cutOff(a, round)
		} else {
			b.midst(a, random, round)
		}
		theirs = append(theirs, fmt.Sprintf("c%d98", round))
	}
	t.Logf("of what the sleeper wrote %d were answered as committed, %d as not committed, %d refused; %d of all were asked for too late",
		len(b.committed), len(b.unclear), len(b.refused), len(b.tooLate))
	var list, held []string
	sites := []*site{a, b.site, c}
	until(t, 2*time.Minute, "all show the same, and what became of everything is known", func() bool {
		list, held = codes(t, a), late(t, a)
		for _, s := range sites[1:] {
			if !slices.Equal(codes(t, s), list) || !slices.Equal(late(t, s), held) {
				return false
			}
		}
		return !slices.ContainsFunc(b.unclear, func(code string) bool { return !slices.Contains(list, code) && !slices.Contains(held, code) })
	})
	t.Logf("%d codes are in the list everywhere, %d are kept aside everywhere: %q", len(list), len(held), held)
	for _, code := range slices.Concat(theirs, b.committed) {
		if !slices.Contains(list, code) || slices.Contains(held, code) {
			t.Errorf("%s was answered as committed, and is not in the list or kept aside", code)
		}
	}
	for _, code := range b.refused {
		if slices.Contains(list, code) {
			t.Errorf("%s was refused, and is in the list", code)
		}
	}
	for _, code := range b.tooLate {
		if slices.Contains(list, code) {
			t.Errorf("%s was written when the lease was over, and is in the list", code)
		}
	}
	for _, code := range list {
		if !slices.Contains(theirs, code) && !slices.Contains(b.committed, code) && !slices.Contains(b.unclear, code) {
			t.Errorf("%s is in the list, and nobody was told so", code)
		}
	}
	if len(held) < 3 {
		t.Error("the test shows little")
	}
	released(t, sites, held)
}

// released has each thing that is kept aside written anew by one command under a lease, by whichever site, and holds that all show it then.
func released(t *testing.T, sites []*site, held []string) {
	t.Helper()
	s := sites[0]
	chunks := s.held()
	for _, h := range chunks {
		if h.State != "quarantined" || !strings.Contains(s.mustRun("quarantine", "list"), h.Chunk) {
			t.Errorf("%s lists %+v", s.name, h)
		}
		text := s.mustRun("quarantine", "show", h.Chunk)
		if !strings.Contains(text, "Nord at Nord") || !strings.Contains(text, "not committed before its lease ended") || !quotedCode.MatchString(text) {
			t.Errorf("%s shows\n%s", s.name, text)
		}
	}
	t.Logf("%s shows\n%s", s.name, s.mustRun("quarantine", "show", chunks[0].Chunk))
	if _, err := s.run("--user", "Dr. Berg", "quarantine", "release", chunks[0].Chunk); err == nil || !strings.Contains(err.Error(), "`chartmesh lease run "+codeListLock+" -- ") {
		t.Errorf("without a lease a release says: %v", err)
	}
	for i, h := range chunks {
		s := sites[i%len(sites)]
		out := s.mustRun("--user", "Dr. Berg", "lease", "run", codeListLock, "--", s.program(), "--data", s.dir, "--user", "Dr. Berg", "quarantine", "release", h.Chunk)
		if !strings.Contains(out, "written anew") {
			t.Errorf("%s releases: %s", s.name, out)
		}
	}
	until(t, time.Minute, "all show what was released", func() bool {
		for _, s := range sites {
			list := codes(t, s)
			if slices.ContainsFunc(s.held(), func(h api.Held) bool { return h.State != "settled" }) || slices.ContainsFunc(held, func(code string) bool { return !slices.Contains(list, code) }) {
				return false
			}
		}
		return slices.Equal(codes(t, sites[0]), codes(t, sites[1])) && slices.Equal(codes(t, sites[0]), codes(t, sites[2]))
	})
	t.Logf("then all list %q", codes(t, s))
}
