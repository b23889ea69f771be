package command

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const deployDir = "../../deploy/anchor"

// lines reads a file's lines without comments and empty ones; a line that ends in a backslash goes on.
func lines(t *testing.T, name string) (list []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployDir, name))
	must(t, err)
	for line := range strings.SplitSeq(strings.ReplaceAll(string(b), "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

// understood holds a command line against the program: a command that is there, with flags that are, and values that read.
func understood(t *testing.T, args []string) {
	t.Helper()
	cmd, rest, err := root().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.Args(cmd, cmd.Flags().Args())
	}
	if err != nil || cmd == cmd.Root() {
		t.Errorf("%v is no command line of the program: %v", args, err)
	}
}

// TestUnit reads the unit: what it starts is understood, and what hardens it is there.
func TestUnit(t *testing.T) {
	const name = "chartmesh-anchor.service"
	section, settings := "", map[string]string{}
	for _, line := range lines(t, name) {
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section == "" {
			t.Fatalf("%q is no setting", line)
		}
		settings[section+key] = strings.TrimSpace(settings[section+key] + " " + value)
	}
	args := strings.Fields(settings["[Service]ExecStart"])
	if args[0] != "/usr/local/bin/chartmesh-anchor" {
		t.Errorf("it starts %s", args[0])
	}
	understood(t, args[1:])
	for _, dir := range strings.Fields(settings["[Service]StateDirectory"]) {
		if !slices.Contains(args, "/var/lib/"+dir) {
			t.Errorf("it does not use the folder %s that systemd makes for it", dir)
		}
	}
	if !slices.Contains(args, "--state") {
		t.Error("it has no place outside of its folder for how far its voters came")
	}
	for key, want := range map[string]string{
		"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
		"CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes", "StateDirectoryMode": "0700", "UMask": "0077", "Restart": "on-failure",
	} {
		if got, ok := settings["[Service]"+key]; !ok || got != want {
			t.Errorf("%s is %q, not %q", key, got, want)
		}
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the unit was read, and not verified")
	}
	// Verified with a binary that is there.
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(deployDir, name))
	must(t, err)
	program, err := os.Executable()
	must(t, err)
	unit := filepath.Join(dir, name)
	must(t, os.WriteFile(unit, []byte(strings.Replace(string(b), args[0], program, 1)), 0o600))
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--threshold=20", unit).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security finds it exposed: %v\n%s", err, out)
	}
}

// TestContainerfile reads the container file: what it starts and asks is understood, and no root nor shell is in it.
func TestContainerfile(t *testing.T) {
	var stages [][]string // each of lines
	for _, line := range lines(t, "Containerfile") {
		if strings.HasPrefix(line, "FROM ") {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%q stands before FROM", line)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], line)
	}
	if len(stages) != 2 || stages[1][0] != "FROM scratch" || !strings.HasSuffix(stages[0][0], " AS build") {
		t.Fatalf("its stages are %v", stages)
	}
	said := map[string]string{}
	for _, line := range stages[1] {
		what, rest, _ := strings.Cut(line, " ")
		if !slices.Contains([]string{"FROM", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}, what) {
			t.Errorf("%q is done in an image that has no shell", line)
		}
		said[what] = rest
	}
	form := func(text string) (args []string) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &args); err != nil || len(args) == 0 {
			t.Fatalf("%q needs a shell", text)
		}
		return args
	}
	entry := form(said["ENTRYPOINT"])
	understood(t, append(entry[1:], form(said["CMD"])...))
	_, check, _ := strings.Cut(said["HEALTHCHECK"], "CMD ")
	if asked := form(check); asked[0] != entry[0] || !slices.Contains(asked, "--check") {
		t.Errorf("its health is asked by %v", asked)
	} else {
		understood(t, asked[1:])
	}
	if said["USER"] != "65532:65532" || said["VOLUME"] != entry[2]+" "+entry[4] || !strings.Contains(strings.Join(stages[0], "\n"), "CGO_ENABLED=0") {
		t.Errorf("user %s, volume %s", said["USER"], said["VOLUME"])
	}

	for _, tool := range []string{"docker", "podman"} {
		if _, err := exec.LookPath(tool); err != nil {
			continue
		}
		if os.Getenv("HEAVY") == "" {
			t.Skip("HEAVY is not set: the container file was read, and not built")
		}
		if err := exec.CommandContext(t.Context(), tool, "info").Run(); err != nil {
			continue
		}
		build := exec.CommandContext(t.Context(), tool, "build", "-f", "deploy/anchor/Containerfile", "-t", "chartmesh-anchor-test", ".")
		build.Dir, build.WaitDelay = "../..", 10*time.Second
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s build: %v\n%s", tool, err, out)
		}
		return
	}
	t.Skip("neither docker nor podman runs here: the container file was read, and not built")
}
