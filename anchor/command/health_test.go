package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chartmesh/anchor"
)

// ill is an anchor with something amiss.
type ill struct{ stores, serves, figures error }

func (i ill) Healthy() error { return i.stores }
func (i ill) Ready() error   { return i.serves }

func (i ill) Metrics(w io.Writer) error {
	_, err := io.WriteString(w, "figure 1\n")
	return errors.Join(err, i.figures)
}

// TestHealthHandler: what is amiss is said where it is asked for, and nothing else is served.
func TestHealthHandler(t *testing.T) {
	full := errors.New("the disk is nearly full")
	for _, c := range []struct {
		of           ill
		method, path string
		status       int
		says         string
	}{
		{ill{}, "GET", "/healthz", 200, "ok"},
		{ill{stores: full}, "GET", "/healthz", 503, "the disk is nearly full"},
		{ill{stores: full}, "GET", "/readyz", 200, "ok"},
		{ill{serves: errors.New("it does not serve")}, "GET", "/readyz", 503, "it does not serve"},
		{ill{}, "GET", "/metrics", 200, "figure 1"},
		{ill{figures: errors.New("a secret")}, "GET", "/metrics", 500, "the figures could not be gathered"},
		{ill{}, "POST", "/healthz", 405, ""},
		{ill{}, "GET", "/v1/status", 404, ""},
		{ill{}, "POST", "/v1/drop", 404, ""},
	} {
		w := httptest.NewRecorder()
		healthHandler(c.of).ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || strings.Contains(w.Body.String(), "figure 1") != (c.says == "figure 1") {
			t.Errorf("%s %s of %+v: %d %q", c.method, c.path, c.of, w.Code, w.Body)
		}
	}
}

// TestHealthServed asks an anchor that runs, and holds more connections than it takes.
func TestHealthServed(t *testing.T) {
	a, err := anchor.Open(t.Context(), anchor.Config{Dir: t.TempDir(), Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, LeastFree: 1})
	must(t, err)
	defer func() { must(t, a.Close()) }()
	h, err := listenHealth("127.0.0.1:0", a)
	must(t, err)
	get := func(path string) (int, string) {
		t.Helper()
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + h.addr.String() + path)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(b)
	}
	if code, text := get("/readyz"); code != 503 {
		t.Errorf("before it runs: %d %s", code, text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if code, _ := get("/readyz"); code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it never gets ready")
		}
	}
	if code, text := get("/healthz"); code != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %s", code, text)
	}
	if code, text := get("/metrics"); code != 200 || !strings.Contains(text, "chartmesh_anchor_healthy 1") {
		t.Errorf("metrics: %d %s", code, text)
	}
	var idle []net.Conn
	for range maxHealthConns + 4 {
		c, err := net.Dial("tcp", h.addr.String())
		must(t, err)
		idle = append(idle, c)
	}
	for _, c := range idle {
		must(t, c.Close())
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("after they hung up: %d", code)
	}
	must(t, h.close())
	cancel()
	must(t, <-ran)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestConfirm: nothing but a yes drops a practice, and what would be lost here is said before.
func TestConfirm(t *testing.T) {
	for text, want := range map[string]error{"y\n": nil, "Yes\n": nil, "y": nil, "": errDeclined, "n\n": errDeclined, "yep\n": errDeclined, strings.Repeat("y", 1000): errDeclined} {
		var out bytes.Buffer
		err := confirm(strings.NewReader(text), &out, anchor.Usage{ID: "836284be447d6488", Bytes: 5e9, Chunks: 7, Devices: 3})
		if !errors.Is(err, want) || !strings.Contains(out.String(), "836284be447d6488: 5 GB in 7 chunks, of 3 devices") {
			t.Errorf("%q: %v, after %s", text, err, out.String())
		}
	}
}

// TestStatusSaysVoters: for a person too, status says of which practices the anchor votes on leases and numbers, and why it does not.
func TestStatusSaysVoters(t *testing.T) {
	for _, x := range []struct {
		voter *anchor.Voter
		want  string
	}{
		{nil, ""},
		{&anchor.Voter{}, "  votes on leases and numbers, or did: it rests until a device asks\n"},
		{&anchor.Voter{Awake: true, Leads: true, Voters: 3}, "  votes on leases and numbers, and leads (3 voters)\n"},
		{&anchor.Voter{Awake: true, Voters: 3}, "  votes on leases and numbers (3 voters)\n"},
		{&anchor.Voter{Out: "it was put back"}, "  its voter on leases and numbers stays out: it was put back\n"},
	} {
		var out bytes.Buffer
		must(t, printStatus(&out, anchor.Status{Practices: []anchor.Practice{{Known: true, Anchor: true, Voter: x.voter}}}))
		if !strings.Contains(out.String(), x.want) || x.voter == nil && strings.Contains(out.String(), "leases") {
			t.Errorf("of %+v it says %s", x.voter, out.String())
		}
	}
}

// TestStatusSaysDeleted: what an anchor has deleted was packed by checkpoints, or erased, and it says both.
func TestStatusSaysDeleted(t *testing.T) {
	var out bytes.Buffer
	must(t, printStatus(&out, anchor.Status{Practices: []anchor.Practice{{Known: true, Anchor: true, Devices: 2, Chunks: 9, Deleted: 4}}}))
	if want := "  2 devices, 9 chunks, 4 of them deleted: packed by checkpoints, or erased\n"; !strings.Contains(out.String(), want) {
		t.Errorf("it says %s", out.String())
	}
}

// TestStatusSaysDamaged: of a practice that does not read it is said what to do.
func TestStatusSaysDamaged(t *testing.T) {
	var out bytes.Buffer
	must(t, printStatus(&out, anchor.Status{Practices: []anchor.Practice{{ID: "0123", Damaged: "it does not read"}}}))
	for _, want := range []string{"nothing of it is held: it does not read\n", "`chartmesh-anchor drop 0123`", "admit"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q: %s", want, out.String())
		}
	}
}

// TestCommands has an example in the help of every command, and every command that tells something tells it as JSON.
func TestCommands(t *testing.T) {
	for _, cmd := range root().Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.Name())
		}
		if cmd.Flags().Lookup("json") == nil && cmd.Name() != "run" {
			t.Errorf("%s prints no JSON", cmd.Name())
		}
	}
	for want, args := range map[int][]string{
		exitUsage: {"quota"}, exitAbsent: {"usage"},
	} {
		cmd := root()
		cmd.SetArgs(append(args, "--data", t.TempDir()))
		cmd.SetErr(io.Discard)
		cmd.SetOut(io.Discard)
		if got := exitOf(cmd.ExecuteContext(t.Context())); got != want {
			t.Errorf("%v ends with %d, not %d", args, got, want)
		}
	}
}
