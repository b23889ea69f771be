package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

// inMemory is an agent in memory as if it were opened from a folder.
type inMemory struct {
	*apitest.Agent
	folder *folder
}

func (m inMemory) Run(ctx context.Context) error {
	if m.folder.runErr != nil {
		return m.folder.runErr
	}
	<-ctx.Done()
	return ctx.Err()
}

func (m inMemory) Close() error {
	m.folder.mu.Lock()
	defer m.folder.mu.Unlock()
	m.folder.open--
	m.folder.closed++
	return nil
}

// folder stands for a data folder and counts who has it open.
type folder struct {
	dir    string
	agent  *apitest.Agent
	runErr error
	busy   bool // held by somebody else
	joined joinOptions
	mu     sync.Mutex
	open   int
	closed int
}

func newFolder(t testing.TB) *folder {
	t.Helper()
	dir, err := os.MkdirTemp("", "cm") // t.TempDir is often too long for a socket; that case is tested elsewhere
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &folder{dir: dir, agent: apitest.New()}
}

func (f *folder) joins() joins {
	return joins{
		init: func(dir string, opts initOptions) (founded, error) {
			if dir != f.dir || opts.device == "" {
				return founded{}, errors.New("init got the wrong values")
			}
			return founded{recoveryCode: "RECOVERY-CODE", peerID: "12D3"}, nil
		},
		join: func(_ context.Context, _ string, opts joinOptions) (joined, error) {
			if opts.timeout <= 0 {
				return joined{}, errors.New("joining has no end")
			}
			opts.begun("F1")
			opts.waiting()
			f.joined = opts
			return joined{opts.device, opts.site, "member"}, nil
		},
		open: func(opts openOptions) (localAgent, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if opts.dir != f.dir {
				return nil, &api.Error{Code: api.CodeNotFound, Message: "no practice"}
			}
			if f.open > 0 || f.busy {
				return nil, &api.Error{Code: api.CodeInUse, Message: "in use"}
			}
			f.open++
			return inMemory{f.agent, f}, nil
		},
		read: agentJoins.read,
	}
}

// result is what a command left.
type result struct {
	code     int
	out, err string
}

func (f *folder) run(ctx context.Context, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	env := map[string]string{"CHARTMESH_DATA": f.dir, "CHARTMESH_USER": "Dr. Berg"}
	c := &cli{in: strings.NewReader(stdin), out: &out, err: &errs, env: func(k string) string { return env[k] }, joins: f.joins(),
		patience: 100 * time.Millisecond}
	code := c.run(ctx, args)
	return result{code, out.String(), errs.String()}
}

// both runs the test with a running agent and without one.
func both(t *testing.T, fn func(t *testing.T, f *folder)) {
	t.Run("in process", func(t *testing.T) {
		f := newFolder(t)
		fn(t, f)
		if f.open != 0 || f.closed == 0 {
			t.Errorf("the folder was closed %d times, %d are open", f.closed, f.open)
		}
	})
	t.Run("running", func(t *testing.T) {
		f := newFolder(t)
		stop := f.start(t)
		fn(t, f)
		stop()
	})
}

// start runs "chartmesh agent" until the returned function is called.
func (f *folder) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan result, 1)
	go func() { ended <- f.run(ctx, "", "agent", "--log-level", "warn") }()
	if r := f.run(t.Context(), "", "status", "--wait", "running", "--timeout", "10s"); r.code != 0 {
		t.Fatalf("the agent did not start: %+v", r)
	}
	return func() {
		cancel()
		if r := <-ended; r.code != 0 || !strings.HasPrefix(r.out, "ready: Empfang at Mitte") {
			t.Errorf("the agent ended with %+v", r)
		}
		if f.closed == 0 {
			t.Error("the agent did not close its folder")
		}
	}
}

// steps runs commands one after the other and compares each with what it should leave: exit code, and words of stdout
// and stderr.
type step struct {
	args  string // split at spaces
	stdin string
	code  int
	out   []string
	err   []string
}

func (f *folder) steps(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		r := f.run(t.Context(), s.stdin, strings.Fields(s.args)...)
		if r.code != s.code {
			t.Errorf("%s: exit code %d, want %d\nstdout: %s\nstderr: %s", s.args, r.code, s.code, r.out, r.err)
		}
		for _, want := range s.out {
			if !strings.Contains(r.out, want) {
				t.Errorf("%s: stdout lacks %q:\n%s", s.args, want, r.out)
			}
		}
		for _, want := range s.err {
			if !strings.Contains(r.err, want) {
				t.Errorf("%s: stderr lacks %q:\n%s", s.args, want, r.err)
			}
		}
		if s.code == 0 && len(s.out) == 0 && r.out != "" {
			t.Errorf("%s: stdout has %q", s.args, r.out)
		}
	}
}

const p1 = `{"resourceType":"Patient","id":"p1","x":1.50}`

func TestRecords(t *testing.T) {
	both(t, func(t *testing.T, f *folder) {
		f.steps(t, []step{
			{args: "get Patient/p1", code: 3, err: []string{"chartmesh: error: there is no Patient/p1"}},
			{args: "put -", stdin: p1, out: []string{"0000000000000001"}, err: []string{"Patient/p1 created"}},
			{args: "put - --json", stdin: p1, out: []string{`"outcome": "unchanged"`}},
			{args: "put -", stdin: `{"resourceType":"Patient","id":"p1"}`, code: 4, err: []string{"chartmesh: hint: ", "--force"}},
			{args: "put - --force", stdin: `{"resourceType":"Patient","id":"p1","name":"\u009b1m<&>"}`, out: []string{"2"}},
			{args: "put -", stdin: "not JSON", code: 2},
			{args: "put -", code: 2, err: []string{"empty"}},
			{args: "put /nonexistent", code: 1, err: []string{"open /nonexistent"}},
			{args: "get Patient/p1 --version 0000000000000001", out: []string{"  \"x\": 1.50\n"}},
			{args: "get Patient/p1 --version 0000000000000001 --json", out: []string{p1 + "\n"}},
			{args: "get Patient", code: 2},
			{args: "history Patient/p1", out: []string{"TIME ", "Dr. Berg  Empfang  Mitte  edit    0000000000000002  here only\n"}},
			{args: "history Patient/p1 --json", out: []string{`"author": "Dr. Berg"`}},
			{args: "history Patient/p1 --json --full", out: []string{`"x": 1.50`, "<&>"}},
			{args: "history Patient/p1 --full", code: 2},
			{args: "find 1m<", out: []string{"Patient/p1", "1970-01-01", "A123"}},
			{args: "find -", stdin: "1m<\n", out: []string{"Patient/p1"}},
			{args: "find", stdin: "1m<", out: []string{"Patient/p1"}},
			{args: "find -", stdin: " \n", code: 2, err: []string{"there is no text on stdin"}},
			{args: "find -", stdin: strings.Repeat("x", 1001), code: 2},
			{args: "find nobody", err: []string{"nothing found"}},
			{args: "find nobody --json", out: []string{"[]\n"}},
			{args: "export", out: []string{`"id":"p1"`}},
			{args: "export --format xml", code: 2},
			{args: "delete Patient/p1", out: []string{"3"}, err: []string{"Patient/p1 deleted"}},
			{args: "get Patient/p1", code: 3},
			{args: "get Patient/p1 --version 0000000000000003", code: 3, err: []string{"history Patient/p1"}},
			{args: "events --since 1", out: []string{"       2  ", "resource-changed     Patient/p1  0000000000000002\n", "resource-deleted"}},
			{args: "events --since 2 --json", out: []string{`{"cursor":3,"time":"2026-11-02T08:00:02Z","kind":"resource-deleted",`}},
			{args: "peer list", err: []string{"No other device"}},
			{args: "peer list --json", out: []string{"[]\n"}},
		})
		if out := f.run(t.Context(), "", "history", "Patient/p1", "--json").out; strings.Contains(out, "1.50") {
			t.Errorf("history without --full has bodies: %s", out)
		}
	})
}

// TestSteering holds that a record cannot send escape sequences to the terminal, and stays the same JSON value.
func TestSteering(t *testing.T) {
	f := newFolder(t)
	raw := "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"name\":\"\u009b31m\u202e\"}"
	if r := f.run(t.Context(), raw, "put", "-"); r.code != 0 {
		t.Fatal(r)
	}
	out := f.run(t.Context(), "", "get", "Patient/p1").out
	if strings.ContainsAny(out, "\u009b\u202e") || !strings.Contains(out, `"\u009b31m\u202e"`) {
		t.Errorf("printed %q", out)
	}
	var a, b any
	if err := errors.Join(json.Unmarshal([]byte(raw), &a), json.Unmarshal([]byte(out), &b)); err != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("another value: %v, %v, %v", a, b, err)
	}
	for in, want := range map[string]string{"Müller": "Müller", "a\x1b[1m": `a\u001b[1m`, "a\xff": `a\ufffd`, "a\nb": `a\u000ab`} {
		if got := visible(in); got != want {
			t.Errorf("%q shown as %q, want %q", in, got, want)
		}
	}
}

func TestConflicts(t *testing.T) {
	both(t, func(t *testing.T, f *folder) {
		for _, id := range []string{"3fa9c1", "3fa9d2", "77aa00"} {
			f.agent.AddConflict(api.Conflict{ID: id, Resource: "Patient/p1", Path: "birthDate", Shown: 1, Values: []api.ConflictValue{
				{Value: json.RawMessage(`"1970-01-01"`), Author: "Dr. Berg", Device: "Empfang", Site: "Mitte", Time: apitest.Begun},
				{Removed: true, Author: "Dr. Tal", Device: "Labor", Site: "Nord", Time: apitest.Begun}}})
		}
		f.steps(t, []step{
			{args: "conflict list", out: []string{"3fa9c1  Patient/p1  birthDate\n  1  \"1970-01-01\"\n     Dr. Berg, Empfang at Mitte, ",
				"  2  (removed)\n     Dr. Tal, Labor at Nord, ", ", shown until it is decided\n"}},
			{args: "conflict list --json", out: []string{`"choose": 2`, `"removed": true`, `"shown": 1`, `"value": "1970-01-01"`,
				`"site": "Nord"`}},
			{args: "conflict show 77aa00", out: []string{"77aa00"}},
			{args: "conflict show 9999", code: 3},
			{args: "conflict", code: 2, err: []string{"list, show, resolve"}},
			{args: "conflict decide", code: 2},
			{args: "conflict resolve 77aa00", code: 2},
			{args: "conflict resolve 77aa00 --choose 0", code: 2},
			{args: "conflict resolve 77aa00 --choose 3", code: 2, err: []string{"2 values"}},
			{args: "conflict resolve 77aa00 --choose 1 --value 1", code: 2},
			{args: "conflict resolve 77aa00 --value text", code: 2, err: []string{"quotes"}},
			{args: "conflict resolve 77aa00 --choose 1", out: []string{"0"}, err: []string{`chose 1: "1970-01-01", by Dr. Berg`, "resolved"}},
			{args: "conflict resolve 3fa9c1 --value -", stdin: "  \"1970-01-10\"\n", out: []string{"0"}},
			{args: "conflict resolve 3fa9d2 --value null --json", out: []string{`"outcome": "resolved"`}},
			{args: "conflict list", err: []string{"no conflicts"}},
			{args: "conflict list --json", out: []string{"[]\n"}},
		})
		if d, ok := f.agent.Decided("77aa00"); !ok || d.Choose == nil || *d.Choose != 0 {
			t.Errorf("--choose 1 decided %+v", d)
		}
		if d, ok := f.agent.Decided("3fa9c1"); !ok || string(d.Value) != `"1970-01-10"` {
			t.Errorf("--value decided %s", d.Value)
		}
	})
}

func TestPractice(t *testing.T) {
	f := newFolder(t)
	f.steps(t, []step{
		{args: "init --site Mitte", code: 2, err: []string{"--practice"}},
		{args: "init --practice Berg --site Mitte --device Empfang", out: []string{"RECOVERY-CODE\n"}, err: []string{"Berg begins on Empfang", "12D3"}},
		{args: "init --practice Berg --site Mitte --device Empfang --json", out: []string{`"recovery_code": "RECOVERY-CODE"`, `"peer_id": "12D3"`}},
		{args: "join CODE --site Nord --device Labor", out: []string{"joined as Labor at Nord\n"}},
		{args: "join - --site Nord --device Labor --json", stdin: " CODE2 \n", out: []string{`"joined": true`}},
		{args: "join --site Nord --device Labor", code: 2, err: []string{"stdin"}},
		{args: "join CODE --site Nord --device=", code: 2},
		{args: "join ABLE zebra one two three --site Nord --device Labor", out: []string{"joined as Labor at Nord\n"}, err: []string{"fingerprint: F1", "confirm"}},
		{args: "join - --site Nord --device Labor --address 192.0.2.1:4801 --json", stdin: " CODE2 \n", out: []string{`"joined": true`, `"role": "member"`}},
		{args: "invite", code: 5, err: []string{"no agent runs", "chartmesh agent"}},
		{args: "offline", code: 5},
		{args: "events --follow", code: 5},
		{args: "status --data /nonexistent/chartmesh", code: 3},
		{args: "version --json", out: []string{`"version"`}},
		{args: "help exit-codes", out: []string{"    9  another process has the data folder open\n"}},
		{args: "nonsense", code: 2},
		{args: "get Patient/p1 --nonsense", code: 2},
		{args: "get", code: 2},
	})
	if f.joined.code != "CODE2" || f.joined.site != "Nord" || f.joined.device != "Labor" {
		t.Errorf("joined with %+v", f.joined)
	}
	stop := f.start(t)
	defer stop()
	f.steps(t, []step{
		{args: "invite --yes", out: []string{"able zebra one two three\n", "join/code-for-member\n"}, err: []string{"2026-11-03", "--address 192.0.2.1:4801"}},
		{args: "invite --yes --qr", out: []string{"▀", "█"}},
		{args: "invite --role admin --expires 1h --yes --json", out: []string{`"code":"code-for-admin"`, `"2026-11-02T09:00:00Z"`}},
		{args: "invite", stdin: "y\n", out: []string{"Labor at Nord joined as member\n"}, err: []string{"Labor at Nord wants to join", "F1"}},
		{args: "invite", code: 2, err: []string{"nobody to confirm", "--yes"}},
		{args: "invite --json", stdin: "yes\n", out: []string{`"state":"waiting"`, `"state":"used"`}},
		{args: "invite list", out: []string{"able-zebra", "waiting", "Labor at Nord, F1"}},
		{args: "invite list --json", out: []string{`"fingerprint": "F1"`}},
		{args: "invite confirm able-zebra f1", out: []string{"confirmed\n"}},
		{args: "invite confirm able-zebra F1 --decline", out: []string{"turned away\n"}},
		{args: "invite confirm able-zebra F2", code: 4},
		{args: "invite revoke able-zebra", out: []string{"able-zebra is withdrawn\n"}},
		{args: "invite revoke other-name", code: 3},
		{args: "invite --expires 1000h", code: 2},
		{args: "quorum reseed --plan", out: []string{"begins with the log of Empfang at Mitte, to 1.42", "Labor: not reachable", "waited for: Labor", "- a note"}},
		{args: "quorum reseed --plan --json", out: []string{`"done": false`, `"missing": [`}},
		{args: "quorum reseed --gone Labor", stdin: "yes\n", code: 2, err: []string{"nothing was founded"}},
		{args: "quorum reseed --gone Labor", stdin: "reseed\n", out: []string{"founded the quorum anew, of epoch 4294967296, with Empfang at Mitte"}, err: []string{"Type reseed", "chartmesh number open"}},
		{args: "quorum reseed --gone Labor --yes --json", out: []string{`"done": true`, `"new_epoch": 4294967296`}},
		{args: "quorum reseed a b c d", code: 2},
		{args: "offline", err: []string{"the network is off"}},
		{args: "status --json", out: []string{`"state": "offline"`, `"running": true`, `"sync": []`, `"peers": []`}},
		{args: "online --json", out: []string{`"online": true`}},
		{args: "status", out: []string{"online\nPraxis Test: Empfang at Mitte\n"}},
		{args: "status --wait in-sync --timeout 10ms", code: 6, out: []string{"Praxis Test"}, err: []string{"no device was reached"}},
		{args: "status --wait easter", code: 2},
		{args: "status --peer Nobody", code: 3},
		{args: "agent", code: 9, err: []string{"chartmesh: error: an agent already serves "}},
	})
	f.agent.SetInSync()
	f.steps(t, []step{{args: "status --wait in-sync --json", out: []string{`"in_sync": true`}}})
}

func TestNoAgent(t *testing.T) {
	f := newFolder(t)
	f.steps(t, []step{
		{args: "status", out: []string{"offline: no agent runs here"}},
		{args: "status --json", out: []string{`"running": false`}},
		{args: "status --wait in-sync --timeout 20ms", code: 5, err: []string{"waiting for an agent on "}},
	})
	f.busy = true
	if r := f.run(t.Context(), "", "status"); r.code != 9 || !strings.Contains(r.err, "in use") {
		t.Errorf("a folder that is held: %+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := f.run(ctx, "", "status"); r.code != api.ExitInterrupted {
		t.Errorf("interrupted: %+v", r)
	}
	f.busy = false
	f.runErr = errors.New("the port is taken")
	if r := f.run(t.Context(), "", "agent"); r.code != 1 || !strings.Contains(r.err, "the port is taken") || f.open != 0 {
		t.Errorf("an agent that fails: %+v", r)
	}
}

func TestFollow(t *testing.T) {
	f := newFolder(t)
	defer f.start(t)()
	ctx, cancel := context.WithCancel(t.Context())
	out := writes(make(chan string, 10))
	c := &cli{in: strings.NewReader(""), out: out, err: out, env: func(string) string { return "" }, joins: f.joins()}
	ended := make(chan int, 1)
	go func() { ended <- c.run(ctx, []string{"events", "--follow", "--json", "--data", f.dir}) }()
	for n := range 3 {
		f.steps(t, []step{{args: "put - --json", stdin: fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, n), out: []string{"created"}}})
		var e api.Event
		if err := json.Unmarshal([]byte(<-out), &e); err != nil || e.Cursor != uint64(n+1) {
			t.Fatalf("event %+v, %v", e, err)
		}
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("interrupted while following: %d", code)
	}
}

type writes chan string

func (w writes) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestStatusText(t *testing.T) {
	now := apitest.Begun
	last := now.Add(-3 * time.Hour)
	var out bytes.Buffer
	p := &printer{out: &out, err: &out}
	noon := now.Local().Truncate(24 * time.Hour)
	p.status(api.Status{Practice: "Praxis Berg", Device: "Empfang", Site: "Mitte", PeerID: "12D3", Version: "1.0", Running: true,
		State: "syncing", Reason: "receiving", Documents: 1, Resources: 18108, Conflicts: 2, OwnChanges: 9, NotElsewhere: 3, AtAnchorOnly: 1, Parked: 1,
		Elsewhere: api.ElsewhereSome,
		Addresses: []string{"/ip4/1", "/ip4/2"}, Held: []api.Held{{Chunk: "0123456789abcdef0123", State: "parked", Reason: "key missing", Device: "Labor"}},
		Peers: []api.Peer{
			{Name: "Labor", Site: "Nord", Role: "member", State: "in-sync", Way: "direct quic", RTTMillis: 1.24, ClockMillis: -12, LastContact: &now,
				Version: "1.0", Proof: api.Proof{Chunks: 1234, Stored: 1234, Readable: 1230, StoredAsOf: &now}},
			{Name: "Heim\x1b", Site: "Süd", Role: "admin", State: "offline", BehindChunks: 1, BehindBytes: 12345, LastContact: &last, Reason: "no answer",
				LacksChunks: 1234, LacksBytes: 5678, Proof: api.Proof{Chunks: 1234}},
			{Name: "Frankfurt am Main, Rechenzentrum", Role: "anchor", State: "syncing", Way: "direct tcp", RTTMillis: 31, ClockMillis: 2600, ClockWarning: true, LastContact: &now,
				LacksChunks: 34, LacksBytes: 25000, Version: "devel-0123456789ab", Proof: api.Proof{Chunks: 1234, Stored: 1200, StoredAsOf: &last,
					Lost: &api.Lost{Seen: now, Confirmed: &noon}}}}}, now)
	want := `syncing: receiving; 3 changes of 9 are on this device alone
Praxis Berg: Empfang at Mitte

records     18,108 resources in 1 document
conflicts   2 to decide: chartmesh conflict list
elsewhere   3 changes of 9 are on this device alone; of the others 1 at an anchor alone
held back   1 parked, 0 quarantined, 0 unapplied
            0123456789abcdef… parked from Labor: key missing
            look at one: chartmesh quarantine show CHUNK
peer ID     12D3
addresses   /ip4/1
            /ip4/2
version     1.0

DEVICE                SITE  ROLE    STATE    LAST CONTACT  IT LACKS          WE LACK
Labor                 Nord  member  in-sync  now           nothing           nothing
Heim\u001b            Süd   admin   offline  3 h ago       not known         1 chunk, 12.3 kB
Frankfurt am Main, …        anchor  syncing  now           34 chunks, 25 kB  nothing

DEVICE                WAY          ROUND TRIP  CLOCK   VERSION             STORED THERE    READABLE  CONFIRMED
Labor                 direct quic  1.2 ms      -12 ms  1.0                 1,234 of 1,234  1,230     now
Heim\u001b                                                                 0 of 1,234      0         never
Frankfurt am Main, …  direct tcp   31 ms       +2.6 s  devel-0123456789ab  1,200 of 1,234  sealed    3 h ago

Heim\u001b: no answer
Frankfurt am Main, Rechenzentrum: its clock is 2.6 s ahead of this one; set the wrong one right
Frankfurt am Main, Rechenzentrum: it holds less than it had confirmed on ` + when(noon) + `: it was put back, or lost data; it is being filled again
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}
