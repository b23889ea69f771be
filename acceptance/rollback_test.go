package acceptance

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// machine is a site on a machine of its own: what belongs to the machine stands in a folder of its own, outside of the data.
func machine(t testing.TB, root, name string) *site {
	s := newSite(t, root, name).steady()
	s.env = []string{"XDG_STATE_HOME=" + filepath.Join(root, name+"-state")}
	return s
}

// anchorMachine is an anchor on a machine of its own.
func anchorMachine(t testing.TB, root, name string) *running {
	a := &running{t: t, name: name, dir: filepath.Join(root, name), listen: []string{overQUIC, overTCP}, env: []string{"XDG_STATE_HOME=" + filepath.Join(root, name+"-state")}}
	a.open()
	return a
}

// folders are what a machine has of a device: its data, and what stands outside of that.
func (s *site) folders() []string    { return []string{s.dir, s.dir + "-state"} }
func (a *running) folders() []string { return []string{a.dir, a.dir + "-state"} }

// yesterday copies folders as they are at this moment, and returns what puts them back in place, as who puts back a machine's disk does.
func yesterday(t testing.TB, folders ...string) (putBack func()) {
	t.Helper()
	copied := make([]string, len(folders))
	for i, f := range folders {
		copied[i] = filepath.Join(t.(*testing.T).TempDir(), "copy")
		copyFolder(t, f, copied[i])
	}
	return func() {
		t.Helper()
		for i, f := range folders {
			inside, err := os.ReadDir(f)
			must(t, err)
			for _, e := range inside { // the folder itself stays the one that it was
				must(t, os.RemoveAll(filepath.Join(f, e.Name())))
			}
			copyFolder(t, copied[i], f)
		}
	}
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(to, 0o700))
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
}

// numbers gives a number to each of some items, by command, and notes it. It is asked again while there is no quorum for a moment.
func (a *told) numbers(s *site, items ...string) {
	a.t.Helper()
	for _, item := range items {
		var out string
		until(a.t, time.Minute, s.name+" is given a number for "+item, func() bool {
			var err error
			if out, err = s.run("--json", "number", "assign", "invoices", "--item", item); err != nil {
				a.t.Logf("%s: %v", s.name, err)
			}
			return err == nil
		})
		var n api.Number
		must(a.t, json.Unmarshal([]byte(out), &n))
		a.takes(item, n)
	}
}

func itemsFrom(what string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("Invoice/%s-%d", what, i))
	}
	return list
}

// prints returns all that a command prints, whether it succeeds or not.
func (s *site) prints(args ...string) string {
	s.t.Helper()
	out, _ := s.command(args...).CombinedOutput()
	return string(out)
}

// tells waits until the text of a command has some words, and returns it.
func (s *site) tells(words []string, args ...string) (text string) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s says\n%s", s.name, text)
		}
	}()
	until(s.t, time.Minute, fmt.Sprintf("%s says %q", s.name, words), func() bool {
		text = s.prints(args...)
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	})
	return text
}

// trio is a practice of which three machines keep numbers, and a workstation does not.
type trio struct {
	anchor     *running // by which those meet that know no address of each other
	a, b, c, d *site
	all        *told
}

func newTrio(t *testing.T, root string) *trio {
	a := machine(t, root, "Mitte")
	a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
	a.start()
	anchor := anchorMachine(t, root, "anker")
	anchor.takes(a)
	p := &trio{anchor: anchor, a: a, b: machine(t, root, "Nord"), c: machine(t, root, "Sued"), d: machine(t, root, "Labor"), all: newTold(t)}
	for _, s := range []*site{p.b, p.c, p.d} {
		s.mustRun("join", a.invitesServer(), "--site", s.name, "--device", s.name)
		s.start()
		s.syncsWith(a.name)
	}
	for _, s := range []*site{p.b, p.c} {
		p.d.syncsWith(s.name)
	}
	a.mustRun("number", "open", "invoices")
	a.mustRun("quorum", "add", "Nord", "Sued")
	return p
}

// TestVotersPutBack: an anchor and two devices vote. The anchor, then a server, is put back to a copy with all that stands outside of its folder; then the disk of the server is wiped. The
// others go on and give no number twice, every device names the voter that stays out and what to do, and made a voter anew it votes.
func TestVotersPutBack(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := machine(t, root, "Mitte")
	a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
	a.start()
	anchor := anchorMachine(t, root, "anker")
	anchor.takes(a)
	b, d := machine(t, root, "Nord"), machine(t, root, "Labor")
	for _, s := range []*site{b, d} {
		s.mustRun("join", a.invitesServer(), "--site", s.name, "--device", s.name)
		s.start()
		s.syncsWith(a.name)
		s.syncsWith("anker")
	}
	d.syncsWith(b.name)
	all := newTold(t)
	a.mustRun("number", "open", "invoices")
	a.mustRun("quorum", "add", "anker", "Nord")
	all.numbers(d, itemsFrom("before", 5)...)
	out := func(voter, why string, told ...*site) {
		t.Helper()
		for _, s := range told {
			text := s.tells([]string{"ok\n", why, "quorum remove", "quorum add"}, "quorum", "status")
			if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return strings.HasPrefix(line, voter) && strings.Contains(line, why) }) {
				t.Errorf("%s says\n%s", s.name, text)
			}
		}
		t.Logf("%s says\n%s", told[0].name, told[0].prints("quorum", "status"))
	}
	anew := func() {
		t.Helper()
		if text := a.prints("quorum", "remove", "Nord"); !strings.Contains(text, "From three, remove two at once") {
			t.Errorf("one of three removed: %s", text)
		}
		a.mustRun("quorum", "remove", "anker", "Nord")
		a.mustRun("quorum", "add", "anker", "Nord")
		for _, s := range []*site{a, b, d} {
			if text := s.prints("quorum", "status"); !strings.HasPrefix(text, "ok\n") || strings.Contains(text, stays) || strings.Contains(text, "quorum remove") {
				t.Errorf("%s says then\n%s", s.name, text)
			}
		}
	}

	// A voter has to have what it is to forget.
	catchesUp := func(index func() uint64) {
		t.Helper()
		status, err := a.client.Quorum(t.Context())
		must(t, err)
		until(t, time.Minute, "the voter has what was given", func() bool { return index() >= status.Index })
	}
	anchor.stop()
	putBack := yesterday(t, anchor.folders()...)
	anchor.start()
	d.syncsWith("anker")
	all.numbers(d, itemsFrom("forgotten by the anchor", 5)...)
	catchesUp(func() uint64 { return anchor.status().Practices[0].Voter.Index })
	anchor.kill()
	putBack()
	anchor.start()
	d.syncsWith("anker")
	all.numbers(d, itemsFrom("after the anchor was put back", 5)...)
	out("anker", stays, a, b, d)
	if v := anchor.status().Practices[0].Voter; !strings.Contains(v.Out, "quorum remove, add") {
		t.Errorf("the anchor says %+v", v)
	}
	anew()
	all.numbers(d, itemsFrom("once the anchor votes again", 5)...)

	b.stop()
	putBack = yesterday(t, b.folders()...)
	b.start()
	d.syncsWith("Nord")
	all.numbers(d, itemsFrom("forgotten by the server", 5)...)
	catchesUp(func() uint64 {
		status, err := b.client.Quorum(t.Context())
		must(t, err)
		return status.Index
	})
	b.kill()
	putBack()
	b.start()
	d.syncsWith("Nord")
	all.numbers(d, itemsFrom("after the server was put back", 5)...)
	all.numbers(b, itemsFrom("by the server that was put back", 5)...)
	out("Nord", stays, a, d)
	t.Logf("Nord says\n%s", b.tells([]string{"stopped\n", "lost something that it stored", "quorum remove"}, "quorum", "status"))
	anew()
	all.numbers(b, itemsFrom("once the server votes again", 5)...)

	all.settle(a, "invoices") // whose names are on Nord alone until somebody asks
	b.kill()
	must(t, os.RemoveAll(filepath.Join(b.dir, "records")))
	b.start()
	b.repaired()
	all.numbers(d, itemsFrom("after the disk was wiped", 5)...)
	all.numbers(b, itemsFrom("by the server that was wiped", 5)...)
	out("Nord", "no voter runs there", a, b, d)
	anew()
	all.numbers(b, itemsFrom("once it votes again", 5)...)
	for _, s := range []*site{a, b, d} {
		all.settle(s, "invoices")
	}
}

const stays = "does not have all that it said, and stays out"

// TestAllVotersPutBack: all three voters are put back to yesterday's copies, with all that stands outside of their folders. Where somebody has seen the later state no number is given any more,
// and the way on is named; where nobody has, numbers are given twice: the one case that quorum status names for three voters.
func TestAllVotersPutBack(t *testing.T) {
	heavy(t)
	for _, seen := range []bool{true, false} {
		t.Run(fmt.Sprintf("seen %v", seen), func(t *testing.T) {
			p := newTrio(t, t.TempDir())
			voters := []*site{p.a, p.b, p.c}
			p.all.numbers(p.d, itemsFrom("before", 5)...)
			for _, s := range []*site{p.a, p.d} {
				if text := s.prints("quorum", "status"); !strings.Contains(text, "if the folders of all voters are put back from copies") {
					t.Errorf("%s says\n%s", s.name, text)
				}
			}
			if !seen { // neither the workstation nor the anchor is there
				p.d.stop()
				p.anchor.stop()
			}
			var putBack []func()
			for _, s := range voters {
				s.stop()
				putBack = append(putBack, yesterday(t, s.folders()...))
			}
			for _, s := range voters {
				s.start()
			}
			by := p.a
			if seen {
				by = p.d
			}
			p.all.numbers(by, itemsFrom("forgotten", 5)...)
			for _, s := range voters {
				s.kill()
			}
			for i, s := range voters {
				putBack[i]()
				s.start()
			}
			if !seen {
				var n api.Number
				until(t, time.Minute, "a number is given", func() bool {
					out, err := p.b.run("--json", "number", "assign", "invoices", "--item", "Invoice/next")
					return err == nil && json.Unmarshal([]byte(out), &n) == nil
				})
				number := fmt.Sprintf("%s/%d", n.Series, n.Number)
				t.Logf("nobody has seen it: %s is the number of %q, and of Invoice/next", number, p.all.item[number])
				if p.all.item[number] == "" {
					t.Error("no number was doubled: is that seen now?")
				}
				if text := p.a.prints("quorum", "status"); !strings.Contains(text, "if the folders of all voters are put back from copies") {
					t.Errorf("it says\n%s", text)
				}
				return
			}
			text := p.d.tells([]string{"does not have all that", "quorum reseed"}, "number", "assign", "invoices", "--item", "Invoice/next")
			t.Logf("seen by a workstation: %s", text)
			t.Logf("Mitte says\n%s", p.a.tells([]string{"quorum reseed"}, "quorum", "status"))
			p.reseeds()
		})
	}
}

// reseeds founds the quorum anew at the administrator's device, begins the next series and gives numbers from it. What has a number keeps it.
func (p *trio) reseeds(gone ...string) {
	t := p.a.t
	t.Helper()
	args := []string{"quorum", "reseed", "--yes"}
	for _, g := range gone {
		args = append(args, "--gone", g)
	}
	t.Logf("%s", p.a.prints("quorum", "reseed", "--plan"))
	t.Logf("%s", p.a.mustRun(args...))
	p.d.tells([]string{"ok\n", "founded anew by Mitte"}, "quorum", "status")
	if text := p.d.prints("number", "assign", "invoices", "--item", "Invoice/in the series of before"); !strings.Contains(text, "the circle is closed") {
		t.Errorf("the series of before: %s", text)
	}
	p.a.mustRun("number", "open", "invoices")
	p.all.numbers(p.d, itemsFrom("in the next series", 5)...)
	p.all.numbers(p.d, itemsFrom("before", 5)...) // what has one keeps it
	epochs := map[string]bool{}
	for number := range p.all.item {
		epoch, _, _ := strings.Cut(number, ".")
		epochs[epoch] = true
	}
	if len(epochs) != 2 {
		t.Errorf("numbers were given in the epochs %v", epochs)
	}
	t.Logf("numbers were given in the epochs %v, none of them twice: %d", slices.Sorted(maps.Keys(epochs)), len(p.all.item))
}

// TestSingleVoterPutBack: the machine of the only voter is put back to yesterday's copy, with what stands outside of the folder. Where a workstation was connected since, that ends the voter,
// and the way on is named; where nobody was, numbers are given twice, which quorum status names before and after.
func TestSingleVoterPutBack(t *testing.T) {
	heavy(t)
	for _, seen := range []bool{true, false} {
		t.Run(fmt.Sprintf("seen %v", seen), func(t *testing.T) {
			root := t.TempDir()
			a := machine(t, root, "Mitte")
			a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
			a.start()
			d := machine(t, root, "Labor")
			d.mustRun("join", a.invitesServer(), "--site", d.name, "--device", d.name)
			d.start()
			d.syncsWith(a.name)
			a.mustRun("number", "open", "invoices")
			p := &trio{a: a, d: d, all: newTold(t)}
			p.all.numbers(a, itemsFrom("before", 5)...)
			d.syncsWith(a.name)
			named := func() {
				t.Helper()
				if text := a.prints("quorum", "status"); !strings.Contains(text, "there is one voter: if its folder is put back from a copy") {
					t.Errorf("it says\n%s", text)
				}
			}
			named()
			if !seen {
				d.stop()
			}
			a.stop()
			putBack := yesterday(t, a.folders()...)
			a.start()
			if seen {
				d.syncsWith(a.name)
			}
			p.all.numbers(a, itemsFrom("forgotten", 5)...)
			if seen { // it need not ask: it hears how far the quorum came when they meet
				d.stop()
				d.start()
				d.syncsWith(a.name)
			}
			a.kill()
			putBack()
			a.start()
			if !seen {
				var n api.Number
				must(t, json.Unmarshal([]byte(a.mustRun("--json", "number", "assign", "invoices", "--item", "Invoice/next")), &n))
				number := fmt.Sprintf("%s/%d", n.Series, n.Number)
				t.Logf("nobody has seen it: %s is the number of %q, and of Invoice/next", number, p.all.item[number])
				if p.all.item[number] == "" {
					t.Error("no number was doubled: is that seen now?")
				}
				named()
				return
			}
			t.Logf("Mitte says\n%s", a.tells([]string{"stopped\n", "lost something that it stored", "quorum reseed"}, "quorum", "status"))
			t.Logf("a number at Mitte: %s", a.tells([]string{"lost something that it stored", "quorum reseed"}, "number", "assign", "invoices", "--item", "Invoice/next"))
			t.Logf("a number at Labor: %s", d.tells([]string{"does not have all that", "quorum reseed"}, "number", "assign", "invoices", "--item", "Invoice/next"))
			p.reseeds()
		})
	}
}

// TestReseedOfThree: of three voters two are wiped for good. What is left says so, founds the quorum anew, and numbers go on in another series. New devices take the places.
func TestReseedOfThree(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	p := newTrio(t, root)
	p.all.numbers(p.d, itemsFrom("before", 20)...)
	held := p.d.mustRun("lease", "acquire", "billing")
	for _, s := range []*site{p.b, p.c} {
		s.kill()
		for _, f := range s.folders() {
			must(t, os.RemoveAll(f))
		}
	}
	t.Logf("Labor says %s", p.d.tells([]string{"1 of 3 voters can be reached; missing: "}, "number", "assign", "invoices", "--item", "Invoice/waits"))
	t.Logf("Mitte says %s", p.a.tells([]string{"no quorum\n", "quorum reseed"}, "quorum", "status"))
	if text := p.a.prints("quorum", "reseed", "--yes"); !strings.Contains(text, "cannot be asked: ") || !strings.Contains(text, "--gone") {
		t.Errorf("with two missing: %s", text)
	}
	p.reseeds("Nord", "Sued")
	if next := p.d.mustRun("lease", "acquire", "billing"); next == held {
		t.Errorf("two leases have the token %s", held)
	}
	var names []string
	for _, name := range []string{"Nord-2", "Sued-2"} {
		s := machine(t, root, name)
		s.mustRun("join", p.a.invitesServer(), "--site", name, "--device", name)
		s.start()
		s.syncsWith(p.a.name)
		names = append(names, name)
	}
	p.a.mustRun(append([]string{"quorum", "add"}, names...)...)
	p.all.numbers(p.d, itemsFrom("by three again", 5)...)
	p.all.numbers(p.d, itemsFrom("before", 20)...)
}

// TestClonedHolder: the folder of a workstation that holds a lease, and votes, is copied while it runs, and started elsewhere. Both ask for numbers at the same time and edit what the lease
// guards: no number is given twice, the copy does not vote, holds no lease and says what it is, and nothing that it writes is merged unseen.
func TestClonedHolder(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	p := newTrio(t, root)
	p.all.numbers(p.b, itemsFrom("before", 5)...)
	b := p.b
	b.mustRun("lease", "acquire", codeListLock)
	write := func(s *site, code string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "list.json")
		must(t, os.WriteFile(file, with(t, s.list(), code), 0o600))
		return s.prints("put", file)
	}
	t.Logf("Nord writes c100: %s", write(b, "c100"))
	clone := machine(t, root, "Nord-elsewhere")
	copyFolder(t, b.dir, clone.dir)
	must(t, os.RemoveAll(filepath.Join(clone.dir, "agent.sock")))
	clone.start()
	var work sync.WaitGroup
	for _, s := range []*site{b, clone} {
		work.Go(func() {
			for i := range 20 {
				for _, item := range []string{fmt.Sprintf("Invoice/of %s-%d", s.name, i), fmt.Sprintf("Invoice/of both-%d", i)} {
					if out, err := s.run("--json", "number", "assign", "invoices", "--item", item); err == nil {
						var n api.Number
						must(t, json.Unmarshal([]byte(out), &n))
						p.all.takes(item, n)
					} else {
						p.all.fails(s.name)
					}
				}
			}
		})
	}
	work.Wait()
	t.Logf("%d numbers were given to the two, %d answers said again what was known; failed: %v", len(p.all.number), p.all.again, p.all.failed)
	if len(p.all.number) < 50 {
		t.Error("the test shows little")
	}
	t.Logf("the copy says\n%s", clone.tells([]string{"stopped\n", "was copied, moved or put back", "if this folder was copied from a device that still runs, stop this agent"}, "quorum", "status"))
	clone.tells([]string{"begun anew", "the folder was copied, moved or restored"}, "status")
	clone.tells([]string{"somebody else holds the lock"}, "lease", "acquire", codeListLock, "--try")
	if text := write(clone, "c200"); !strings.Contains(text, "under a lease of the lock "+codeListLock) {
		t.Errorf("the copy writes without a lease: %s", text)
	}
	t.Logf("Nord writes while the copy runs: %s", write(b, "c101"))
	clone.stop()
	b.syncsWith(p.a.name)
	if text := write(b, "c102"); !strings.Contains(text, "CodeSystem/services changed") {
		t.Errorf("Nord writes: %s", text)
	}
	b.mustRun("lease", "release", codeListLock)
	until(t, time.Minute, "Mitte lists what Nord wrote", func() bool { return slices.Equal(codes(t, p.a), []string{"c100", "c101", "c102"}) })
	if held := p.a.held(); len(held) > 0 {
		t.Errorf("kept aside is %+v", held)
	}
	p.all.gone = true // what the copy called its items
	p.all.settle(p.a, "invoices")
}
