package main

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// profiled is a line of a coverage profile: file, first line, last line, how often.
var profiled = regexp.MustCompile(`(?m)^(\S+):(\d+)\.\d+,(\d+)\.\d+ \d+ (\d+)$`)

// TestTargetsReachTheirDecoders runs the seeds of each target alone and looks whether they come through the functions that
// its row names: a name in a table proves nothing.
func TestTargetsReachTheirDecoders(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("builds every package for coverage: set HEAVY=1")
	}
	all, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]decoder{}
	for _, d := range all.decoders {
		at[d.String()] = d
	}
	for _, r := range table(t) {
		if r.target == "" || len(r.decoders) == 0 {
			continue
		}
		t.Run(strings.ReplaceAll(r.folder, "/", "_")+"_"+r.target, func(t *testing.T) {
			profile := filepath.Join(t.TempDir(), "profile")
			cmd := exec.Command("go", "test", "-count=1", "-run", "^"+r.target+"$", "-coverprofile", profile, "./"+r.folder)
			cmd.Dir = root
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			text, err := os.ReadFile(profile)
			if err != nil {
				t.Fatal(err)
			}
			covered := map[string]bool{} // "file:line" of blocks that were run
			for _, m := range profiled.FindAllStringSubmatch(string(text), -1) {
				var from, to int
				if _, err := fmt.Sscan(m[2]+" "+m[3], &from, &to); err != nil {
					t.Fatal(err)
				}
				for line := from; line <= to && m[4] != "0"; line++ {
					covered[fmt.Sprint(path.Base(m[1]), ":", line)] = true
				}
			}
			for _, name := range r.decoders {
				d, ok := at[r.folder+" "+name]
				if !ok {
					t.Errorf("there is no %s", name)
					continue
				}
				reached := false
				for line := d.first; line <= d.last; line++ {
					reached = reached || covered[fmt.Sprint(d.file, ":", line)]
				}
				if !reached {
					t.Errorf("no seed comes through %s (%s:%d)", name, d.file, d.first)
				}
			}
		})
	}
}
