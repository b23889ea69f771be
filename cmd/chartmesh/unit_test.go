package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/kardianos/service"
)

var testUnit = unit{program: "/opt/chart mesh $c %d/chartmesh", args: []string{"--data", `/var/lib/a "b" $c %d \e`, "agent", "--no-mdns"},
	account: "praxis", system: true, logs: "/var/log/a&b.log"}

func TestSystemdUnit(t *testing.T) {
	text := testUnit.systemd()
	for _, want := range []string{
		`ExecStart="/opt/chart mesh $c %%d/chartmesh" "--data" "/var/lib/a \"b\" $$c %%d \\e" "agent" "--no-mdns"`, "User=praxis", "UMask=0077", "LimitCORE=0",
		"Restart=on-failure", "RestartPreventExitStatus=3 8 10 11", "OOMPolicy=continue", "WantedBy=multi-user.target", "After=network-online.target",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no line %s in\n%s", want, text)
		}
	}
	own := unit{program: "/bin/chartmesh", args: []string{"agent"}}.systemd()
	if strings.Contains(own, "User=") || strings.Contains(own, "network-online") || !strings.Contains(own, "WantedBy=default.target") {
		t.Errorf("%s", own)
	}
}

// TestSystemdAccepts asks systemd's own checker, where there is one, of units of the machine and of a user whose program and
// folder have every character in their names that means something in a unit.
func TestSystemdAccepts(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze here")
	}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir()) // of a user's manager
	file := filepath.Join(t.TempDir(), "chartmesh.service")
	verify := func(u unit, args ...string) string {
		if err := os.WriteFile(file, []byte(u.systemd()), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", append(append([]string{"verify", "--man=no"}, args...), file)...).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "chartmesh.service") {
			t.Skipf("systemd-analyze does not work here: %s", out)
		}
		complaints := ""
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "chartmesh.service") {
				complaints += line
			}
		}
		return complaints
	}
	u := testUnit
	u.account = "root"
	for _, name := range []string{"plain", "two words", "a$HOME", "%n", "{{.}}", "@;-#", "ü"} {
		u.program = filepath.Join(t.TempDir(), name)
		if err := os.Symlink("/bin/true", u.program); err != nil {
			t.Fatal(err)
		}
		if out := verify(u); out != "" {
			t.Errorf("of the machine: %s", out)
		}
		own := unit{program: u.program, args: u.args}
		if out := verify(own, "--user"); out != "" {
			t.Errorf("of a user: %s", out)
		}
	}
	for _, c := range systemdRefuses {
		u.program = filepath.Join(t.TempDir(), "a"+string(c))
		if err := os.Symlink("/bin/true", u.program); err != nil {
			t.Fatal(err)
		}
		if verify(u) == "" {
			t.Errorf("%c in the program's path is taken after all", c)
		}
	}
}

// TestTemplated: what the library makes of a unit is the unit.
func TestTemplated(t *testing.T) {
	text := "a {{.Path}} {{{b}} {{`c`}} }}"
	parsed, err := template.New("").Parse(templated(text))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := parsed.Execute(&out, struct{ Path string }{"no"}); err != nil || out.String() != text {
		t.Errorf("%q became %q, %v", text, out.String(), err)
	}
}

func TestLaunchdList(t *testing.T) {
	text := testUnit.launchd("chartmesh")
	dec := xml.NewDecoder(strings.NewReader(text))
	var strs []string
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "string" {
			var s string
			if err := dec.DecodeElement(&s, &start); err != nil {
				t.Fatal(err)
			}
			strs = append(strs, s)
		}
	}
	want := append(append([]string{"chartmesh", testUnit.program}, testUnit.args...), "praxis", testUnit.logs, testUnit.logs)
	if strings.Join(strs, "|") != strings.Join(want, "|") {
		t.Errorf("%q, want %q", strs, want)
	}
	if !strings.Contains(text, "<key>Umask</key>\n\t<integer>63</integer>") || !strings.Contains(text, "<key>Core</key><integer>0</integer>") {
		t.Errorf("%s", text)
	}
}

// managed is a service as its manager sees it.
type managed struct {
	service.Service
	status service.Status
	err    error
}

func (m managed) Status() (service.Status, error) { return m.status, m.err }

// TestJudge: every combination of what manager and agent say has a word and something to do, but for the good one.
func TestJudge(t *testing.T) {
	gone := errors.New("no agent")
	for name, c := range map[string]struct {
		manager managed
		agent   error
		want    string
	}{
		"well":            {managed{status: service.StatusRunning}, nil, ""},
		"not installed":   {managed{err: service.ErrNotInstalled}, gone, "not installed"},
		"by hand":         {managed{err: service.ErrNotInstalled}, nil, "not as a service"},
		"failed":          {managed{err: errors.New("failed state")}, gone, "has failed"},
		"stopped":         {managed{status: service.StatusStopped}, gone, "is stopped"},
		"another":         {managed{status: service.StatusStopped}, nil, "another agent"},
		"does not answer": {managed{status: service.StatusRunning}, gone, "no agent answers"},
	} {
		state := judge(c.manager, func() (string, error) { return "online", c.agent })
		if (c.want == "") != (state.Problem == "") || !strings.Contains(state.Problem, c.want) || (state.Problem == "") != (state.Hint == "") {
			t.Errorf("%s: %+v", name, state)
		}
	}
}
