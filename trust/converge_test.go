package trust_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chartmesh/trust"
)

// FORKS is how many histories TestHistoriesConverge tries.
func TestMain(m *testing.M) {
	flag.Parse()
	if n := os.Getenv("FORKS"); n != "" {
		if err := flag.Set("rapid.checks", n); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// forked makes a membership log of several people, the root key among them, who act on anything that anybody ever knew:
// apart, late, back-dated, after they were removed.
func forked(t *rapid.T) []trust.Entry {
	l := draw(t, "")
	names := slices.Sorted(maps.Keys(people))
	anybody := func(what string) string { return rapid.SampledFrom(names).Draw(t, what) }
	states := []*trust.State{begin(t)}
	entries := states[0].Entries()
	role := func() string {
		return rapid.SampledFrom([]string{"admin", "admin", "member", "reader", "server"}).Draw(t, "role")
	}
	for i := range rapid.IntRange(1, 24).Draw(t, "entries") {
		at := rapid.IntRange(0, len(states)-1).Draw(t, "knows")
		st := states[at]
		var by string
		if admins := administrators(st); len(admins) > 0 && rapid.IntRange(0, 9).Draw(t, "right") > 0 {
			by = rapid.SampledFrom(admins).Draw(t, "author")
		} else {
			by = anybody("author")
		}
		var words []string
		switch rapid.IntRange(0, 15).Draw(t, "verb") {
		case 0, 1, 2, 3:
			words = []string{by, "adds", anybody("whom"), role()}
		case 4, 5, 6:
			words = []string{by, "removes", anybody("whom"), fmt.Sprintf("a%d", 1+i)}
		case 7:
			words = []string{by, "makes", anybody("whom"), role()}
		case 8:
			words = []string{by, "rotates", rapid.SampledFrom([]string{"billing", "clinical", "more"}).Draw(t, "scope")}
		case 9:
			words = []string{by, "creates", "more", by}
		case 10, 11:
			words = []string{by, "checks"}
		case 12, 13:
			words = []string{by, "agrees", rapid.SampledFrom(l.names).Draw(t, "of")}
		case 14:
			words = []string{by, "replaces", rapid.SampledFrom([]string{"root", "root2"}).Draw(t, "old"),
				rapid.SampledFrom([]string{"root2", "root3"}).Draw(t, "new")}
			if rapid.Bool().Draw(t, "typed in") {
				words = append(words, "signed")
			}
		default: // two who acted apart meet
			other := states[rapid.IntRange(0, len(states)-1).Draw(t, "meets")]
			for _, e := range other.Since(st.Heads()) {
				if next, err := st.With(e); err == nil {
					st = next
				}
			}
			states = append(states, st)
			continue
		}
		e, err := sentence(l, st, st.Parents(), words)
		if err != nil {
			continue // says nothing, such as a rotation without epochs
		}
		name := fmt.Sprint(i + 1)
		l.names, l.entries[name] = append(l.names, name), e
		entries = append(entries, e)
		if next, err := st.With(e); err == nil {
			t.Logf("%s -> %s: %s", parentNames(l, e), name, strings.Join(words, " "))
			states = append(states, next)
			if rapid.Bool().Draw(t, "goes on") {
				states[at] = next
			}
		}
	}
	return entries
}

func administrators(st *trust.State) (names []string) {
	for name, s := range people {
		if m, ok := st.Member(s.Device()); ok && m.Role == trust.RoleAdmin {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func parentNames(l *log, e trust.Entry) string {
	var names []string
	for _, p := range e.Parents() {
		names = append(names, l.name(p))
	}
	return strings.Join(names, ",")
}

// amount describes all that a State says.
func amount(st *trust.State, rejected []trust.Rejected) string {
	var b strings.Builder
	b.WriteString(describe(st, rejected))
	for _, e := range st.Entries() {
		if v, ok := st.Void(e.ID()); ok {
			fmt.Fprintln(&b, "void", e, v)
		}
	}
	for _, m := range st.Anchors() {
		fmt.Fprintln(&b, m.Device, m.Role, m.Entry)
	}
	for _, s := range people {
		if cut, gone := st.Removed(s.Device()); gone {
			fmt.Fprintln(&b, "removed", s.Device(), cutWords(cut))
		}
	}
	for _, sc := range st.Scopes() {
		fmt.Fprintln(&b, sc.ID, sc.Name, sc.Sealed, sc.Epochs, sc.Newest, st.CurrentEpoch(sc.ID), st.Readers(sc.ID))
	}
	lines := strings.Split(b.String(), "\n")
	slices.Sort(lines) // people come in any order
	id, key := st.Root()
	return strings.Join(lines, "\n") + fmt.Sprintln("root", id, key[:4], "due", st.RotationsDue(), "parents", st.Parents())
}

// The same entries amount to the same, whatever their order and whether they come one by one or all at once.
func TestHistoriesConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := forked(t)
		st, rejected := trust.Replay(all)
		want := amount(st, rejected)
		shuffled := rapid.Permutation(all).Draw(t, "order")
		if got := amount(trust.Replay(shuffled)); got != want {
			t.Fatalf("in another order:\n%s\nwant\n%s", got, want)
		}
		one, err := trust.Found(st.Entries()[0])
		if err != nil {
			t.Fatal(err)
		}
		for waiting, progress := shuffled, true; progress; {
			progress = false
			var still []trust.Entry
			for _, e := range waiting {
				next, err := one.With(e)
				if missing := (*trust.MissingParent)(nil); err == nil {
					one, progress = next, true
				} else if errors.As(err, &missing) {
					still = append(still, e)
				}
			}
			waiting = still
		}
		if got := amount(one, rejected); got != want {
			t.Fatalf("one by one:\n%s\nwant\n%s", got, want)
		}
		some, err := trust.Found(st.Entries()[0])
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < st.Len(); {
			n := min(rapid.IntRange(1, 6).Draw(t, "at once"), st.Len()-at)
			var errs []error
			if some, errs = some.WithAll(st.Entries()[at : at+n]); errors.Join(errs...) != nil && !errors.Is(errs[0], trust.ErrKnown) {
				t.Fatalf("some at once: %v", errs)
			}
			at += n
		}
		if got := amount(some, rejected); got != want {
			t.Fatalf("some at once:\n%s\nwant\n%s", got, want)
		}
		for _, s := range []*trust.State{st, one, some} {
			if err := s.CheckPlain(); err != nil {
				t.Fatal(err)
			}
		}
		checkStanding(t, st)
		checkRotates(t, st)
	})
}

// checkRotates has everybody who has the right rotate every scope, with and without a parent that need not stand: the entry holds, and
// gives the epoch to those who read the scope.
func checkRotates(t *rapid.T, st *trust.State) {
	id, _ := st.Root()
	authors := administrators(st)
	for name, s := range people {
		if s.Device() == id {
			authors = append(authors, name)
		}
	}
	entries := st.Entries()
	other := entries[rapid.IntRange(0, len(entries)-1).Draw(t, "other")].ID()
	for _, sc := range st.Scopes() {
		if len(sc.Newest) == 0 || len(st.Readers(sc.ID)) == 0 {
			continue
		}
		for _, by := range authors {
			for _, parents := range [][]trust.EntryID{st.Parents(), st.Parents(other)} {
				d := trust.Draft{Kind: trust.KindRotate, Parents: parents, Payload: rotation(st, sc.ID).Encode()}
				e, err := d.Sign(people[by])
				if err != nil {
					t.Fatal(err)
				}
				after, err := st.With(e)
				if err != nil {
					t.Fatalf("%s cannot rotate scope %v: %v", by, sc.ID, err)
				}
				if !slices.Equal(after.Readers(sc.ID), st.Readers(sc.ID)) || slices.Contains(after.RotationsDue(), sc.ID) {
					t.Fatalf("%s rotated scope %v, and %v read it, not %v", by, sc.ID, after.Readers(sc.ID), st.Readers(sc.ID))
				}
			}
		}
	}
}

// checkStanding holds what stands and what does not against the rules, as somebody reads them who looks at two entries at a
// time.
func checkStanding(t *rapid.T, st *trust.State) {
	entries := st.Entries()
	at := map[trust.EntryID]int{}
	before := map[trust.EntryID]map[trust.EntryID]bool{}
	for i, e := range entries {
		at[e.ID()] = i
		before[e.ID()] = map[trust.EntryID]bool{}
		for _, p := range e.Parents() {
			maps.Copy(before[e.ID()], before[p])
			before[e.ID()][p] = true
		}
	}
	apart := func(a, b trust.Entry) bool {
		return a.ID() != b.ID() && !before[a.ID()][b.ID()] && !before[b.ID()][a.ID()]
	}
	stands := func(e trust.Entry) bool {
		_, void := st.Void(e.ID())
		return !void
	}
	for _, e := range entries {
		if m, ok := e.Removal(); ok && stands(e) {
			if _, member := st.Member(m.Device); member {
				t.Fatalf("%v is removed by %v and belongs", m.Device, e)
			}
			for _, f := range entries {
				if f.Author() == m.Device && apart(e, f) && stands(f) {
					t.Fatalf("%v stands, apart from the removal %v of its author", f, e)
				}
			}
		}
		v, void := st.Void(e.ID())
		if !void {
			continue
		}
		if v.By == (trust.EntryID{}) {
			if v.Why != trust.WhyUnsupported {
				t.Fatalf("%v is void and nobody is named: %v", e, v.Why)
			}
			continue
		}
		by := entries[at[v.By]]
		if !stands(by) || !apart(e, by) {
			t.Fatalf("%v is void because of %v, which does not stand or is not apart from it", e, by)
		}
		if m, ok := by.Removal(); v.Why == trust.WhyRemoved && (!ok || m.Device != e.Author()) {
			t.Fatalf("%v is void because of %v, which does not remove its author", e, by)
		}
		if e.Author() == root.Device() && v.Why != trust.WhyReplaced {
			t.Fatalf("%v by the root key is void: %v", e, v.Why)
		}
	}
}
