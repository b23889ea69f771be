package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/internal/hostile"
)

// The most memory that an agent and its engine may ever have had, mapped files included. An agent over these few records has
// about 180 MiB, an engine 150 with the longest list that the validator lets in. A body that inflates to gigabytes, or
// operations that are claimed and not there, go far beyond.
const (
	mostAgent  = 512 << 20
	mostEngine = 384 << 20
)

// manyElements is a list that needs more than 64 MiB in the engine, from a chunk of some hundred bytes. What the honest write
// needs less than 8 there, so an engine of 24 fails on the one and manages the other, whatever else the machine does. It is
// the program built with that cap: a process that is confined later may have grown by then.
const (
	manyElements = 60_000
	smallEngine  = "24 << 20"
)

// hostiles are three agents of a practice and the folder of a fourth member, which forges.
type hostiles struct {
	t       *testing.T
	a, b, c *site
	honest  []*site
	forger  *site
	wanted  map[string]hostile.Bad // what everybody holds, by the beginning of the chunk's ID
}

// TestHostileMember lets a member of the practice hand everything on the hostile list to three agents, has people decide
// about some of it, then hands on what one engine has no memory for, and then lies about its own log. Users go on writing
// at all three meanwhile.
func TestHostileMember(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	h := &hostiles{t: t, wanted: map[string]hostile.Bad{}}
	h.a = newSite(t, root, "surgery")
	h.a.level = "debug"
	h.a.mustRun("init", "--practice", "Praxis", "--site", "surgery", "--device", "surgery")
	h.a.start()
	member := func(name string) *site {
		s := newSite(t, root, name)
		s.level = "debug"
		s.mustRun("join", h.a.invite(), "--site", name, "--device", name)
		return s
	}
	h.b, h.c, h.forger = member("branch"), member("home"), member("forger")
	// Its agent hands on what is in its folder, and mends nothing of it: an honest one writes anew what its device wrote twice.
	h.forger.bin = mutant(t, "agent/replica/anew.go", "if len(r.lost) == 0 {", "if true {")
	confined := mutant(t, "crdt/engine/limits.go", "= 2 << 30 // bytes of address space", "= "+smallEngine+" // bytes of address space")
	h.b.start()
	h.c.start()
	h.honest = []*site{h.a, h.b, h.c}
	pids := map[*site]int{}
	for _, s := range h.honest {
		s.patients(uint64(len(pids)), 2) // before
		pids[s] = s.cmd.Process.Pid
	}

	edits := ledger{written: map[string]int{}, over: 1}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	var mu sync.RWMutex // held by whoever stops and starts an agent
	for _, s := range h.honest {
		writers.Go(func() {
			edits.writer(ctx, s, func() *site {
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond): // a user is slower than a loop
				}
				mu.RLock()
				defer mu.RUnlock()
				return s
			}, "honest-"+s.name)
		})
	}
	restart := func(s *site, program string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		s.stop()
		s.bin = program
		s.start()
		pids[s] = s.cmd.Process.Pid
	}

	nonce, first, end := h.handOverTheList()
	h.decide()
	restart(h.c, confined)
	release := h.outgrow(h.c)
	restart(h.c, "")
	release()
	h.lie(nonce, first, end)

	cancel()
	writers.Wait()
	for _, s := range h.honest {
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); wait(t, 100*time.Millisecond) {
			if missing, _ := edits.missing(t, s); len(missing) == 0 {
				break
			}
		}
		n := edits.check(t, s)
		agent, engine := s.memories("VmHWM")
		t.Logf("%s: %d acknowledged writes, agent %s, engine %s", s.name, n, mebibytes(agent), mebibytes(engine))
		if n < 3*20 {
			t.Errorf("%d writes were acknowledged meanwhile", n)
		}
		if agent > mostAgent || engine > mostEngine {
			t.Errorf("%s took %s at most, its engine %s", s.name, mebibytes(agent), mebibytes(engine))
		}
		if s.cmd.Process.Pid != pids[s] || !s.alive() {
			t.Errorf("the agent of %s ended", s.name)
		}
		s.verify()
	}
	if exports := h.a.export(); !bytes.Equal(exports, h.b.export()) || !bytes.Equal(exports, h.c.export()) {
		t.Error("the exports differ")
	}
	for _, s := range append(h.honest, h.forger) {
		s.stop()
		log := s.log.String()
		if strings.Contains(log, hostile.Canary) || !strings.Contains(log, "level=DEBUG") {
			t.Errorf("the log of %s holds what a chunk says, or little", s.name)
		}
		for line := range strings.Lines(log) {
			if s != h.forger && strings.Contains(line, "level=ERROR") && (s != h.c || !strings.Contains(line, "the engine failed on a chunk")) {
				t.Errorf("%s logs an error: %s", s.name, line)
			}
		}
	}
}

// send has the forger's own agent hand on what fill stores in its log.
func (h *hostiles) send(fill func(*hostile.Folder)) {
	h.t.Helper()
	h.forger.stop()
	f := hostile.OpenFolder(h.t, h.forger.dir)
	fill(f)
	f.Close()
	h.forger.start()
}

// name returns the beginning of a chunk's ID, as the commands show it.
func name(t *testing.T, sealed []byte) (string, chunk.ID) {
	t.Helper()
	s, err := chunk.Parse(sealed)
	must(t, err)
	id := s.ID()
	return fmt.Sprintf("%x", id[:8]), id
}

// handOverTheList sends everything on the list and returns the nonce of its log, its first chunk, and its last counter.
func (h *hostiles) handOverTheList() (nonce [16]byte, first chunk.ID, end uint64) {
	h.t.Helper()
	h.send(func(f *hostile.Folder) {
		nonce = f.Keys.LogNonce()
		for _, bad := range hostile.List {
			f.Pending = nil
			last := bad.Make(f.Forger)
			f.Store(append(f.Pending, last)...)
			short, id := name(h.t, last)
			if end = f.Counter; end == 1 {
				first = id
			}
			if bad.State != "" {
				h.wanted[short] = bad
			}
		}
	})
	h.agree()
	return nonce, first, end
}

// agree waits until all hold what they should, and then holds that they say the same of it, whatever came first.
func (h *hostiles) agree() {
	h.t.Helper()
	for _, s := range h.honest {
		s.heldUntil(func(held []api.Held) bool {
			return len(held) == len(h.wanted) && !slices.ContainsFunc(held, func(x api.Held) bool { return h.wanted[x.Chunk].State != x.State })
		})
		s.inSync()
		for _, x := range s.held() {
			if want := h.wanted[x.Chunk]; x.State != want.State || !strings.Contains(x.Reason, want.Reason) {
				h.t.Errorf("%s: %q is %q, %q; want %q, %q", s.name, want.Name, x.State, x.Reason, want.State, want.Reason)
			}
		}
	}
	same(h.t, h.honest...)
}

// decide shows all that is held at each site, and has people at different sites decide, for all.
func (h *hostiles) decide() {
	t := h.t
	t.Helper()
	for _, s := range h.honest {
		for _, x := range s.held() {
			var shown api.HeldDetail
			must(t, json.Unmarshal([]byte(s.mustRun("quarantine", "show", x.Chunk, "--json")), &shown))
			if shown.Chunk != x.Chunk || shown.State != x.State || shown.Content == nil && shown.Hidden == "" {
				t.Errorf("%s shows of %s: %+v", s.name, x.Chunk, shown)
			}
			if text := s.mustRun("quarantine", "show", x.Chunk); strings.ContainsAny(text, "\x1b\u202e") {
				t.Errorf("what %s shows of %s steers the terminal", s.name, x.Chunk)
			}
		}
	}
	is := func(wanted string) string {
		t.Helper()
		for id, bad := range h.wanted {
			if bad.Name == wanted {
				return id
			}
		}
		t.Fatalf("there is no %q on the list", wanted)
		return ""
	}
	becomes := func(s *site, verdict, wanted, state string) {
		t.Helper()
		id := is(wanted)
		var out api.HeldOutcome
		must(t, json.Unmarshal([]byte(s.mustRun("quarantine", verdict, id, "--reason", "because", "--json")), &out))
		if out.State != state {
			t.Errorf("%s of %q at %s: %+v", verdict, wanted, s.name, out)
		}
		bad := h.wanted[id]
		bad.State = state
		h.wanted[id] = bad
	}
	if _, err := h.a.run("quarantine", "release", is("a wrong checksum")); err == nil || !strings.Contains(err.Error(), "a release cannot help") {
		t.Errorf("what breaks a rule is released: %v", err)
	}
	becomes(h.a, "discard", "a wrong checksum", "discarded")
	becomes(h.b, "discard", "a change that is missing", "discarded")
	becomes(h.c, "release", "a sequence number used again", "settled") // written anew, by this site
	h.agree()
}

// outgrow sends what the validator accepts and a site's engine has no memory for, with what builds on it. Only there it is
// held, and what is returned holds that it is not any more.
func (h *hostiles) outgrow(small *site) (released func()) {
	t := h.t
	t.Helper()
	var big, dependant string
	before := strings.Count(small.log.String(), "engine process ended")
	h.send(func(f *hostile.Folder) {
		doc := f.Document("section", "big", "core")
		in := hostile.Resource("Basic/big", hostile.Field("resourceType", crdt.String, "Basic"), hostile.Field("id", crdt.String, "big"))
		in = append(in, hostile.Set(1, "[x", crdt.Scalar{Kind: crdt.List}))
		for i := range manyElements {
			in = append(in, crdt.Instruction{Do: crdt.Insert, Obj: 2, Index: i, Value: crdt.Scalar{Kind: crdt.Map}})
		}
		raws := f.Edits(doc, in, hostile.Resource("Basic/onbig", hostile.Field("resourceType", crdt.String, "Basic"), hostile.Field("id", crdt.String, "onbig")))
		for i, short := range []*string{&big, &dependant} {
			sealed := f.SealChange(doc, raws[i])
			*short, _ = name(t, sealed)
			f.Store(sealed)
		}
	})
	find := func(held []api.Held, id string) api.Held {
		for _, x := range held {
			if x.Chunk == id {
				return x
			}
		}
		return api.Held{}
	}
	held := small.heldUntil(func(held []api.Held) bool { return find(held, dependant).State != "" && find(held, big).State != "" })
	if x := find(held, big); x.State != "unapplied" || !strings.Contains(x.Reason, "failed on it") || x.Tries != 1 || !slices.Equal(x.Waiting, []string{dependant}) {
		t.Errorf("what the engine of %s fails on is held as %+v", small.name, x)
	}
	var waits api.HeldDetail
	must(t, json.Unmarshal([]byte(small.mustRun("quarantine", "show", dependant, "--json")), &waits))
	if waits.State != "parked" || waits.WaitsFor == nil || waits.WaitsFor.Chunk != big {
		t.Errorf("what builds on it is held as %+v, waiting for %+v", waits.Held, waits.WaitsFor)
	}
	if len(held) != len(h.wanted)+2 {
		t.Errorf("%s holds %d chunks, want %d", small.name, len(held), len(h.wanted)+2)
	}
	if out := small.mustRun("quarantine", "retry"); out != "1 chunk tried, 0 applied\n" {
		t.Errorf("tried again: %s", out)
	}
	if n := strings.Count(small.log.String(), "engine process ended") - before; n < 2 || n > 16 {
		t.Errorf("%d engines ended for one chunk, tried twice", n)
	}
	others := slices.DeleteFunc(slices.Clone(h.honest), func(s *site) bool { return s == small })
	for _, s := range others {
		s.has("Basic/big")
		s.has("Basic/onbig")
	}
	same(t, others...)
	for i, s := range h.honest { // everything else goes on, at the small one too
		h.goesOn(s, fmt.Sprint("beside-", i))
	}
	return func() {
		t.Helper()
		small.has("Basic/big")
		small.has("Basic/onbig")
		h.agree()
	}
}

// goesOn holds that what is written at one site now comes to all.
func (h *hostiles) goesOn(at *site, id string) {
	h.t.Helper()
	_, err := at.put(fmt.Appendf(nil, `{"resourceType":"Basic","id":%q}`, id), true)
	must(h.t, err)
	for _, s := range h.honest {
		s.has("Basic/" + id)
	}
}

// lie tells lies about the log that the list is in: another chunk where one was handed on, one that continues nothing, one
// behind a gap, and a head without an end. The first is kept and shown as a second history; the others, which continue
// nothing, are not kept.
func (h *hostiles) lie(nonce [16]byte, first chunk.ID, end uint64) {
	t := h.t
	t.Helper()
	for i, lie := range []struct {
		name string
		bend func(*chunk.Params)
	}{
		{"another history", func(p *chunk.Params) { p.Counter, p.Previous = 2, first }},
		{"another's chunk before", func(p *chunk.Params) { p.Counter, p.Previous = end+1, chunk.ID{1} }},
		{"a gap", func(p *chunk.Params) { p.Counter, p.Previous = end+9, chunk.ID{1} }},
		{"the last counter", func(p *chunk.Params) { p.Counter, p.Previous = 1<<62-1, chunk.ID{1} }},
	} {
		h.send(func(f *hostile.Folder) {
			doc, liar := f.Document("lie", lie.name), hostile.Liar{Keyring: f.Keys, Nonce: &nonce}
			actor := crdt.Actor(chunk.ActorOf(chunk.CurrentLog(liar), doc, 0))
			f.Store(f.Lie(liar, lie.bend, f.ChangesOf(doc, f.As(actor, doc, hostile.Person(fmt.Sprint("lie-", i))...))))
		})
		h.a.meets(h.forger) // the two others get what it hands on from a, too
		for j, s := range h.honest {
			h.goesOn(s, fmt.Sprintf("after-%d-%d", i, j))
			if got := s.histories(h.forger); got != 1 {
				t.Errorf("%s: %s shows %d histories beside the first", lie.name, s.name, got)
			}
		}
		same(t, h.honest...)
	}
	for _, s := range h.honest {
		s.has("Patient/lie-0")
		for i := 1; i < 4; i++ {
			if _, err := s.client.Get(t.Context(), api.Ref{Type: "Patient", ID: fmt.Sprint("lie-", i)}, ""); err == nil {
				t.Errorf("%s took in a chunk that continues nothing", s.name)
			}
		}
		if text := s.mustRun("status"); !strings.Contains(text, h.forger.name+": it wrote a log more than once") {
			t.Errorf("status of %s does not say that %s wrote a log twice:\n%s", s.name, h.forger.name, text)
		}
	}
}

// histories waits until a site knows of several histories of another's logs, and returns how many it has beside the first.
func (s *site) histories(other *site) int {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; wait(s.t, 50*time.Millisecond) {
		st, err := s.client.Status(s.t.Context(), "")
		must(s.t, err)
		for _, p := range st.Peers {
			if p.Name == other.name && p.Branches > 0 || p.Name == other.name && time.Now().After(end) {
				return p.Branches
			}
		}
	}
}

// alive reports whether the agent runs.
func (s *site) alive() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// meets waits until a site is connected to another.
func (s *site) meets(other *site) {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; wait(s.t, 100*time.Millisecond) {
		st, err := s.client.Status(s.t.Context(), other.name)
		must(s.t, err)
		for _, p := range st.Peers {
			if p.Name == other.name && p.State != "offline" && p.State != "connecting" {
				return
			}
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s does not meet %s: %+v", s.name, other.name, st.Peers)
		}
	}
}

// has waits until a site can read something.
func (s *site) has(ref string) {
	s.t.Helper()
	r, err := api.ParseRef(ref)
	must(s.t, err)
	for end := time.Now().Add(60 * time.Second); ; wait(s.t, 50*time.Millisecond) {
		if _, err = s.client.Get(s.t.Context(), r, ""); err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s has no %s: %v", s.name, ref, err)
		}
	}
}

// heldUntil waits until what a site holds back is as it should be, and returns it.
func (s *site) heldUntil(good func([]api.Held) bool) []api.Held {
	s.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; wait(s.t, 100*time.Millisecond) {
		held := s.held()
		if good(held) {
			return held
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s holds %d chunks: %+v", s.name, len(held), held)
		}
	}
}

// held asks the command for all that is held, without when each device held it first.
func (s *site) held() []api.Held {
	s.t.Helper()
	var page api.HeldPage
	must(s.t, json.Unmarshal([]byte(s.mustRun("quarantine", "list", "--all", "--limit", "1000", "--json")), &page))
	for i := range page.Chunks {
		page.Chunks[i].Since = nil
	}
	return page.Chunks
}

// same holds that sites list the same chunks in the same order, with the same words.
func same(t *testing.T, sites ...*site) {
	t.Helper()
	var first []byte
	for _, s := range sites {
		list, err := json.Marshal(s.held())
		must(t, err)
		if first == nil {
			first = list
		} else if !bytes.Equal(first, list) {
			t.Errorf("%s and %s hold otherwise:\n%s\n%s", sites[0].name, s.name, first, list)
		}
	}
}
