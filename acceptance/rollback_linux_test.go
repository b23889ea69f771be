package acceptance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// sameNumbers mounts a file system whose files have the numbers that those on any other of these have, made in the same order: what a cloned virtual machine has.
func sameNumbers(t *testing.T, on string) string {
	t.Helper()
	must(t, os.MkdirAll(on, 0o700))
	do(t, "mount", "-t", "tmpfs", "chartmesh", on)
	t.Cleanup(func() { do(t, "umount", on) })
	return filepath.Join(on, "data")
}

// Who asks while the leader changes, or from a machine that is there twice, waits: it is noted when that takes long, and given up in the end.
const (
	slow    = 2 * time.Second
	givesUp = 4 * time.Second
)

// ask has some sites number items at the same time, each its own and some that all number, and notes what they are told.
func (a *told) ask(what string, n int, sites ...*site) {
	a.t.Helper()
	var work sync.WaitGroup
	for _, s := range sites {
		work.Go(func() {
			for i := range n {
				for _, item := range []string{fmt.Sprintf("Invoice/%s of %s-%d", what, s.name, i), fmt.Sprintf("Invoice/%s of all-%d", what, i)} {
					begun := time.Now()
					ctx, cancel := context.WithTimeout(a.t.Context(), givesUp)
					n, err := s.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: item})
					cancel()
					if took := time.Since(begun); took > slow {
						a.t.Logf("%s is answered after %v: %v", s.name, took.Round(time.Millisecond), err)
					}
					if err != nil {
						a.fails(s.name)
						continue
					}
					a.takes(item, n)
				}
			}
		})
	}
	work.Wait()
}

// TestClonedMachine: the machine of a voter is cloned so that nothing on it tells that: the number of its folder, the machine's ID and what stands outside of the folder are the same. Both run, under
// one identity, and vote, while agents are killed and all ask for numbers. No number is given twice: where two histories were begun the quorum ends, and says so.
func TestClonedMachine(t *testing.T) {
	heavy(t)
	needRoot(t)
	random := seed(t)
	root := t.TempDir()
	a := machine(t, root, "Mitte")
	a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
	a.start()
	anchorMachine(t, root, "anker").takes(a)
	b, c, d, clone := machine(t, root, "Nord"), machine(t, root, "Sued"), machine(t, root, "Labor"), machine(t, root, "Nord-cloned")
	b.dir, clone.dir = sameNumbers(t, filepath.Join(root, "disk-1")), sameNumbers(t, filepath.Join(root, "disk-2"))
	must(t, os.Mkdir(b.dir, 0o700))
	for _, s := range []*site{b, c, d} {
		s.mustRun("join", a.invitesServer(), "--site", s.name, "--device", s.name)
		s.start()
		s.syncsWith(a.name)
	}
	a.mustRun("number", "open", "invoices")
	a.mustRun("quorum", "add", "Nord", "Sued")
	all := newTold(t)
	all.numbers(b, itemsFrom("before", 5)...)
	b.stop()
	copyFolder(t, b.dir, clone.dir)
	copyFolder(t, filepath.Join(root, "Nord-state"), filepath.Join(root, "Nord-cloned-state"))
	b.start()
	d.syncsWith(b.name)
	all.ask("later", 10, b, d)
	clone.start()
	if text := clone.prints("status"); strings.Contains(text, "begun anew") {
		t.Errorf("the clone knows what it is, and the test shows little:\n%s", text)
	}
	ended := false
	for round := 0; round < 4 && !ended; round++ {
		all.ask(fmt.Sprint("round ", round), 4, b, clone, c, d)
		victim := []*site{a, b, c}[random.IntN(3)]
		victim.kill()
		wait(t, time.Duration(random.IntN(3000))*time.Millisecond)
		left := slices.DeleteFunc([]*site{a, b, clone, c, d}, func(s *site) bool { return s == victim })
		before := len(all.number)
		all.ask(fmt.Sprint("without one ", round), 4, left...)
		ended = len(all.number) == before
		victim.start()
		t.Logf("%d numbers are given, %s was killed; the clone says %q, Nord %q", len(all.number), victim.name, firstLines(clone.prints("quorum", "status")), firstLines(b.prints("quorum", "status")))
	}
	clone.stop()
	d.syncsWith(a.name)
	t.Logf("%d numbers are given; errors by device: %v", len(all.number), all.failed)
	if len(all.number) < 30 {
		t.Error("the test shows little")
	}
	until(t, time.Minute, "numbers are given, or the quorum says that it ended", func() bool {
		_, err := d.run("number", "assign", "invoices", "--item", itemsFrom("without the clone", 1)[0])
		ended = err != nil && strings.Contains(a.prints("quorum", "status"), "too few voters are left")
		return err == nil || ended
	})
	if ended { // two histories were begun, and those were told that who had heard of both
		t.Logf("%s", a.prints("quorum", "reseed", "--yes"))
		a.mustRun("number", "open", "invoices")
		all.numbers(d, itemsFrom("in the next series", 5)...)
		return
	}
	all.numbers(d, itemsFrom("without the clone", 5)...)
	all.gone = true // what the clone called its items
	all.settle(a, "invoices")
}

// firstLines returns how a quorum is, and why.
func firstLines(status string) string {
	before, _, _ := strings.Cut(status, "\nVOTER")
	return before
}
