package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// eventuallyWithin is how long a script waits for what another device does.
const eventuallyWithin = 30 * time.Second

// TestScript runs the commands as programs, with real agents on loopback. The scripts know, besides testscript's own:
//
//	eventually PATTERN COMMAND …   runs a command until its stdout matches and it succeeds
//	json VAR PATH                  sets VAR to what stands at PATH ("peers.0.name") in the JSON of the last stdout
//	forge DATA-FOLDER              appends a malformed chunk to the folder's log, as a hostile member would
//	replace FILE OLD NEW           replaces a text, which must be there, in a file
//	edit DATA-FOLDER FILE N        puts FILE so many times, with 1, 2 … in the place of each @ in it
//	listens VAR ADDRESS            sets VAR to the flag that makes an anchor listen at the ADDRESS that it had
//	guess FILE                     writes guess1 to guess5, wrong words for the invitation that FILE ends with
//
// and $LISTEN, which makes an agent listen on loopback alone.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv(asProgram, "1")
			env.Setenv("HOME", home)
			env.Setenv("XDG_STATE_HOME", filepath.Join(home, "state"))
			env.Setenv("CHARTMESH_USER", "Dr. Berg")
			env.Setenv("LISTEN", "--listen=/ip4/127.0.0.1/udp/0/quic-v1")
			return os.Mkdir(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eventually": scriptEventually,
			"json":       scriptJSON,
			"listens":    scriptListens,
			"replace":    scriptReplace,
			"forge":      scriptForge,
			"edit":       scriptEdit,
			"guess":      scriptGuess,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN COMMAND …")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(eventuallyWithin); ; {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("it never matched %q; at last: %v\n%s%s", args[0], err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
		time.Sleep(20 * time.Millisecond) // between polls of another process
	}
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json VAR PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for name := range strings.SplitSeq(args[1], ".") {
		var ok bool
		switch in := v.(type) {
		case map[string]any:
			v, ok = in[name]
		case []any:
			i, err := strconv.Atoi(name)
			if ok = err == nil && i < len(in); ok {
				v = in[i]
			}
		}
		if !ok {
			ts.Fatalf("there is no %q in the last stdout", args[1])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

func scriptListens(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: listens VAR ADDRESS")
	}
	at, _, ok := strings.Cut(args[1], "/p2p/")
	if !ok {
		ts.Fatalf("%s does not end in /p2p/", args[1])
	}
	ts.Setenv(args[0], "--listen="+at)
}

func scriptReplace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}

func scriptEdit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit DATA-FOLDER FILE N")
	}
	text := ts.ReadFile(args[1])
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for i := range n {
		ts.Check(os.WriteFile(ts.MkAbs("edit.json"), []byte(strings.ReplaceAll(text, "@", strconv.Itoa(i+1))), 0o600))
		ts.Check(ts.Exec("chartmesh", "--data", args[0], "put", "--force", "edit.json"))
	}
}

// TestEveryCommand holds that each command has an example and comes up in a script.
func TestEveryCommand(t *testing.T) {
	var scripts strings.Builder
	names, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(names) == 0 {
		t.Fatalf("scripts: %v, %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		scripts.Write(text)
	}
	c := &cli{env: func(string) string { return "" }}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if len(cmd.Commands()) > 0 {
			for _, sub := range cmd.Commands() {
				walk(sub)
			}
			return
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "chartmesh ")
		if cmd.Runnable() && (cmd.Example == "" || cmd.Short == "") {
			t.Errorf("%s has no example", path)
		}
		if !regexp.MustCompile(`exec chartmesh( --data \S+| --user '[^']*')* (help )?` + path + `\b`).MatchString(scripts.String()) {
			t.Errorf("no script runs %s", path)
		}
	}
	walk(c.root())
}
