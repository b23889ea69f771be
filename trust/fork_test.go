package trust_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"chartmesh/trust"
)

// people are the keys that stories speak of; "root2" is that of a second recovery code.
var people = map[string]signer{
	"root": root, "root2": newSigner("root2"), "root3": newSigner("root3"), "ada": ada, "ben": ben, "cem": cem, "dan": dan,
	"eva": eva, "fin": newSigner("fin"), "gus": newSigner("gus"),
}

var roles = map[string]trust.Role{
	"admin": trust.RoleAdmin, "member": trust.RoleMember, "reader": trust.RoleReader, "server": trust.RoleServer,
	"anchor": trust.RoleAnchor,
}

// log is a membership log that a story draws as arrows.
type log struct {
	t       tb
	names   []string
	entries map[string]trust.Entry
}

// draw makes the entries of a story. Each line is one:
//
//	0 -> 1      ada adds ben admin
//	1 -> 2 3    (not allowed: an arrow leads to one entry)
//	2,3 -> 4    cem removes dan
//
// 0 is the founding by ada. An author has seen what its arrow comes from and all before that.
func draw(t tb, story string) *log {
	t.Helper()
	l := &log{t: t, names: []string{"0"}, entries: map[string]trust.Entry{"0": found(t, root, ada)}}
	for line := range strings.Lines(story) {
		if words := strings.Fields(line); len(words) > 0 {
			l.add(words[2], strings.Split(words[0], ","), words[3:])
		}
	}
	return l
}

func (l *log) add(name string, parents, words []string) {
	l.t.Helper()
	st := l.before(parents)
	var ids []trust.EntryID
	for _, p := range parents {
		ids = append(ids, l.entries[p].ID())
	}
	e, err := sentence(l, st, ids, words)
	if err != nil {
		l.t.Fatalf("%s %v: %v", name, words, err)
	}
	l.names, l.entries[name] = append(l.names, name), e
}

// before returns what somebody knows who has seen some entries.
func (l *log) before(names []string) *trust.State {
	l.t.Helper()
	var all []trust.Entry
	var take func(e trust.Entry)
	take = func(e trust.Entry) {
		if slices.ContainsFunc(all, func(f trust.Entry) bool { return f.ID() == e.ID() }) {
			return
		}
		all = append(all, e)
		for _, p := range e.Parents() {
			for _, f := range l.entries {
				if f.ID() == p {
					take(f)
				}
			}
		}
	}
	for _, n := range names {
		e, ok := l.entries[n]
		if !ok {
			l.t.Fatalf("the story knows no %q yet", n)
		}
		take(e)
	}
	st, rejected := trust.Replay(all)
	if len(rejected) > 0 {
		l.t.Fatalf("before %v: %v", names, rejected[0].Err)
	}
	return st
}

// sentence makes an entry of words like "ben removes ada".
func sentence(l *log, st *trust.State, parents []trust.EntryID, words []string) (trust.Entry, error) {
	by, verb, rest := people[words[0]], words[1], words[2:]
	d := trust.Draft{Parents: parents, TimeMillis: int64(len(l.names))}
	var others []trust.Signer
	switch verb {
	case "adds":
		if rest[1] == "anchor" {
			d.Kind = trust.KindAnchor
			d.Payload = trust.Anchor{ID: people[rest[0]].Device(), Addresses: []string{"/ip4/192.0.2.1/tcp/1"}}.Encode()
			break
		}
		d.Kind, d.Payload = trust.KindAdd, addition(st, people[rest[0]], roles[rest[1]]).Encode()
	case "removes":
		d.Kind = trust.KindRemove
		d.Payload = trust.Removal{Device: people[rest[0]].Device(), Cut: cutOf(rest[1:])}.Encode()
	case "makes":
		d.Kind = trust.KindRole
		d.Payload = trust.Promotion{Device: people[rest[0]].Device(), Role: roles[rest[1]], Cut: cutOf(rest[2:])}.Encode()
	case "names":
		m := trust.Renaming{Names: []byte(rest[1])}
		if rest[0] != "practice" {
			m.Device = people[rest[0]].Device()
		}
		d.Kind, d.Payload = trust.KindRename, m.Encode()
	case "rotates":
		d.Kind, d.Payload = trust.KindRotate, rotation(st, scopeOf(st, rest[0])).Encode()
	case "creates":
		m := trust.ScopeCreation{Name: []byte(rest[0]), Commitment: [32]byte(fill(rest[0], 32))}
		m.Boxes = boxesFor(append([]trust.DeviceID{{}}, devices(rest[1:])...))
		d.Kind, d.Payload = trust.KindScope, m.Encode()
	case "reseeds":
		d.Kind, d.Payload = trust.KindReseed, trust.Reseed{Voters: devices(rest)}.Encode()
	case "checks":
		d.Kind, d.Payload = trust.KindCheckpoint, trust.Checkpoint{}.Encode()
	case "agrees":
		d.Kind, d.Payload = trust.KindCheckpoint, trust.Checkpoint{Of: l.entries[rest[0]].ID()}.Encode()
	case "replaces":
		m := trust.Recovery{Replaced: people[rest[0]].Device(), Root: people[rest[1]].Device(),
			Key: fill(rest[1], trust.HPKEPublicSize)}
		d.Kind, d.Payload = trust.KindRecovery, m.Encode()
		others = append(others, people[rest[1]])
		if len(rest) > 2 { // "signed"
			others = append(others, people[rest[0]])
		}
	default:
		return trust.Entry{}, fmt.Errorf("no verb %q", verb)
	}
	return d.Sign(by, others...)
}

func devices(names []string) (ids []trust.DeviceID) {
	for _, n := range names {
		ids = append(ids, people[n].Device())
	}
	slices.SortFunc(ids, func(a, b trust.DeviceID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

func boxesFor(recipients []trust.DeviceID) (boxes []trust.ScopeBox) {
	for _, id := range recipients {
		boxes = append(boxes, trust.ScopeBox{Recipient: id, Sealed: fill("box", trust.KeyBoxSize)})
	}
	return boxes
}

func scopeOf(st *trust.State, name string) trust.ScopeID {
	for _, sc := range st.Scopes() {
		if sc.Name == name || sc.Name == "" && string(sc.Sealed) == name {
			return sc.ID
		}
	}
	return trust.ScopeID{}
}

func rotation(st *trust.State, scope trust.ScopeID) trust.Rotation {
	m := trust.Rotation{Scope: scope, Commitment: [32]byte(fill("rotated", 32))}
	sc, _ := st.Scope(scope)
	for _, id := range sc.Newest {
		m.Previous = append(m.Previous, trust.PreviousEpoch{Epoch: id, Sealed: fill("previous", trust.PreviousEpochSize)})
	}
	m.Boxes = boxesFor(append([]trust.DeviceID{{}}, st.Readers(scope)...))
	return m
}

// cutOf reads words like "a7" as position 7 of a log that the letter stands for.
func cutOf(words []string) (cut trust.Cut) {
	for _, w := range words {
		p := trust.CutPosition{Log: [32]byte{w[0]}}
		if _, err := fmt.Sscanf(w[1:], "%d", &p.Counter); err != nil {
			panic(err)
		}
		cut = append(cut, p)
	}
	return cut
}

func cutWords(cut trust.Cut) string {
	var words []string
	for _, p := range cut {
		words = append(words, fmt.Sprintf("%c%d", p.Log[0], p.Counter))
	}
	return strings.Join(words, " ")
}

// state replays the whole story.
func (l *log) state() *trust.State {
	l.t.Helper()
	var all []trust.Entry
	for _, e := range l.entries {
		all = append(all, e)
	}
	st, rejected := trust.Replay(all)
	for _, r := range rejected {
		l.t.Fatalf("%s: %v", l.name(r.Entry.ID()), r.Err)
	}
	return st
}

func (l *log) name(id trust.EntryID) string {
	for n, e := range l.entries {
		if e.ID() == id {
			return n
		}
	}
	return id.String()
}

var forks = []struct {
	name, story string
	void        string // which entries do not stand, and against which others
	members     string // who belongs, with roles
}{
	{"nobody acts apart", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem member
		2 -> 3  ada removes cem`, "", "ada:admin ben:admin"},
	{"two additions apart", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem member
		1 -> 3  ben adds dan reader`, "", "ada:admin ben:admin cem:member dan:reader"},
	{"what a removed administrator does meanwhile", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada removes ben
		1 -> 3  ben adds cem admin
		3 -> 4  cem adds dan member`, "3<2 4", "ada:admin"},
	{"back-dated, after everybody knows of the removal", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada removes ben
		2 -> 3  ada adds cem admin
		3 -> 4  cem adds dan member
		1 -> 5  ben adds eva admin
		5 -> 6  eva removes ada`, "5<2 6", "ada:admin cem:admin dan:member"},
	{"what the remover had seen stands", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem member
		2 -> 3  ada removes ben`, "", "ada:admin cem:member"},
	{"each removes the other: who was added earlier prevails", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada removes ben
		1 -> 3  ben removes ada`, "3<2", "ada:admin"},
	{"a younger one removes an older one who does not strike back", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben removes ada
		1 -> 3  ada adds cem member`, "3<2", "ben:admin"},
	{"removed by one who is removed himself by a third", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  cem removes ben
		2 -> 4  ben removes ada
		2 -> 5  ada adds dan member`, "4<3", "ada:admin cem:admin dan:member"},
	{"a circle of three", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ada removes ben
		2 -> 4  ben removes cem
		2 -> 5  cem removes ada`, "5<3 4<3", "ada:admin cem:admin"},
	{"a circle that depends on another is not broken first", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ben removes cem
		2 -> 4  cem removes ben
		2 -> 5  cem removes ada
		2 -> 6  ada adds dan member`, "4<3 5<3", "ada:admin ben:admin dan:member"},
	{"recovery outranks all", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada removes ben
		2 -> 3  ada adds cem admin
		1 -> 4  root removes ada
		4 -> 5  root adds dan admin`, "2<4 3<4", "ben:admin dan:admin"},
	{"a demotion ends the right to administrate", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada makes ben member
		1 -> 3  ben adds cem member`, "3<2", "ada:admin ben:member"},
	{"of two roles given apart the lesser holds", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem reader
		2 -> 3  ada makes cem member
		2 -> 4  ben makes cem server`, "", "ada:admin ben:admin cem:member"},
	{"a promotion of somebody who is removed meanwhile", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem member
		2 -> 3  ada removes cem
		2 -> 4  ben makes cem admin
		4 -> 5  cem adds dan member`, "5<3", "ada:admin ben:admin"},
	{"a device removes itself", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben removes ben`, "", "ada:admin"},
	{"an entry beside a sealed checkpoint comes late", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ada checks
		3 -> 4  ben agrees 3
		4 -> 5  cem agrees 3
		2 -> 6  cem adds dan member`, "6<3", "ada:admin ben:admin cem:admin"},
	{"what an administrator had seen when agreeing does not come late", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada checks
		1 -> 3  ben adds dan member
		2,3 -> 4  ben agrees 2`, "", "ada:admin ben:admin dan:member"},
	{"a checkpoint to which one has not agreed seals nothing", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ada checks
		3 -> 4  ben agrees 3
		2 -> 5  cem adds dan member`, "", "ada:admin ben:admin cem:admin dan:member"},
	{"removed, and back-dated beside a checkpoint, by the oldest", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ben removes ada
		3 -> 4  ben checks
		4 -> 5  cem agrees 4
		2 -> 6  ada removes ben`, "6<3", "ben:admin cem:admin"},
	{"nor helps a checkpoint of his own", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ben removes ada
		3 -> 4  ben checks
		4 -> 5  cem agrees 4
		2 -> 6  ada removes ben
		6 -> 7  ada removes cem
		7 -> 8  ada adds dan admin
		8 -> 9  ada adds eva admin
		9 -> 10 ada checks
		10 -> 11 dan agrees 10
		11 -> 12 eva agrees 10`, "6<3 7<3 8<3 9<3 10<3 11 12", "ben:admin cem:admin"},
	{"nor one from when he was alone", `
		0 -> 1  ada adds ben admin
		1 -> 2  ben adds cem admin
		2 -> 3  ben removes ada
		3 -> 4  ben checks
		4 -> 5  cem agrees 4
		0 -> 6  ada checks
		0 -> 7  ada adds eva admin
		7 -> 8  ada checks
		8 -> 9  eva agrees 8`, "6<3 7<3 8<3 9", "ben:admin cem:admin"},
	{"the recovery code comes late nowhere", `
		0 -> 1  ada checks
		0 -> 2  root adds dan admin`, "", "ada:admin dan:admin"},
	{"a replaced code that was typed in ends at once", `
		0 -> 1  ada replaces root root2 signed
		0 -> 2  root adds dan admin
		1 -> 3  root2 adds eva admin`, "2<1", "ada:admin eva:admin"},
	{"one that was not ends for those who know", `
		0 -> 1  ada replaces root root2
		0 -> 2  root adds dan admin
		1 -> 3  root2 adds eva admin`, "", "ada:admin dan:admin eva:admin"},
	{"two codes apart: that of the older one holds", `
		0 -> 1  ada adds ben admin
		1 -> 2  ada replaces root root2
		1 -> 3  ben replaces root root3
		3 -> 4  root3 adds dan admin`, "3<2 4", "ada:admin ben:admin"},
}

func TestForks(t *testing.T) {
	for _, f := range forks {
		t.Run(f.name, func(t *testing.T) {
			l := draw(t, f.story)
			st := l.state()
			var void []string
			for _, n := range l.names {
				if v, ok := st.Void(l.entries[n].ID()); ok {
					s := n
					if v.By != (trust.EntryID{}) {
						s += "<" + l.name(v.By)
					}
					void = append(void, s)
				}
			}
			want := strings.Fields(f.void)
			slices.Sort(void)
			slices.Sort(want)
			if !slices.Equal(void, want) {
				t.Errorf("void are %v, want %v", void, want)
			}
			var members []string
			for name, s := range people {
				if m, ok := st.Member(s.Device()); ok {
					members = append(members, name+":"+m.Role.String())
				}
			}
			if slices.Sort(members); strings.Join(members, " ") != f.members {
				t.Errorf("members are %v, want %v", members, f.members)
			}
		})
	}
}

// A device that was added apart from a rotation has no box of the epoch that is written under, until somebody rotates.
func TestRotationDueForWhoWasAddedApart(t *testing.T) {
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem member
		1 -> 3  ben rotates clinical`)
	st := l.state()
	clinical := scopeOf(st, "clinical")
	if due := st.RotationsDue(); !slices.Equal(due, []trust.ScopeID{clinical}) {
		t.Fatalf("to be rotated: %v", due)
	}
	l.add("4", []string{"2", "3"}, []string{"ada", "rotates", "clinical"})
	st = l.state()
	if due := st.RotationsDue(); len(due) != 0 {
		t.Errorf("to be rotated after that: %v", due)
	}
	if !slices.ContainsFunc(st.Boxes(cem.Device()), func(b trust.KeyBox) bool { return b.Epoch == st.CurrentEpoch(clinical) }) {
		t.Error("who was added apart has no box of the current epoch")
	}
}

// Some devices took what somebody wrote whose promotion turns out not to stand. So all do, and nothing of it counts: a device that
// refused it would differ, and could not take what was built on it.
func TestWrittenByRightOfAVoidPromotion(t *testing.T) {
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem reader
		2 -> 3  ben makes cem member
		2 -> 4  ada removes ben`)
	clinical := scopeOf(l.state(), "clinical")
	for _, c := range []struct {
		seen []string
		want trust.Right
	}{{[]string{"2"}, trust.RightNever}, {[]string{"3"}, trust.RightNow}, {[]string{"3", "4"}, trust.RightUntil}} {
		if right, cut := l.before(c.seen).Right(cem.Device(), clinical); right != c.want || len(cut) > 0 {
			t.Errorf("after %v: right %v up to %v, want %v", c.seen, right, cut, c.want)
		}
	}
	if st := l.state(); st.MayWrite(cem.Device(), clinical) || !slices.Contains(st.Ended(), cem.Device()) {
		t.Error("a reader writes, or what it wrote is not looked at again")
	}
}

// What an administrator enters is judged by its ancestors alone. Here ben and ada remove each other, and so do cem and ada; since ben has
// removed cem as well, all of it is one circle, in which ada prevails. Without that removal, which does not stand, cem's would have.
func TestEntryIsJudgedByWhatItsAuthorKnows(t *testing.T) {
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem admin
		2 -> 3  ada adds dan member
		3 -> 4  ben removes ada
		4 -> 5  ben rotates clinical
		3 -> 6  cem removes ada
		3 -> 7  ada removes ben
		6,7 -> 8  cem rotates clinical
		5 -> 9  ben removes cem`)
	st := l.state()
	if _, ben := st.Member(ben.Device()); ben {
		t.Fatal("the story has another end")
	}
	void := l.entries["5"].ID() // an epoch that somebody may have written under
	for _, parents := range [][]trust.EntryID{st.Parents(), st.Parents(void)} {
		e, err := sentence(l, st, parents, []string{"cem", "rotates", "clinical"})
		if err != nil {
			t.Fatal(err)
		}
		after, err := st.With(e)
		if err != nil {
			t.Fatalf("after %s: %v", parentNames(l, e), err)
		}
		if boxes := after.Boxes(ben.Device()); slices.ContainsFunc(boxes, func(b trust.KeyBox) bool {
			return b.Epoch == after.CurrentEpoch(scopeOf(st, "clinical"))
		}) {
			t.Fatal("who was removed is given the epoch that begins")
		}
	}
}

// Who was removed makes many entries that do not stand and make no difference, before the one that does. They do not keep it from the
// parents of a new entry, which would be refused without it: a scope would stay under an epoch that opens to who was removed.
func TestVoidEntriesDoNotCrowdOutWhatMakesADifference(t *testing.T) {
	var story strings.Builder
	for i := range 2 * trust.MaxParents {
		fmt.Fprintf(&story, "3 -> void%d  ben names practice p%d\n", i, i)
	}
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem admin
		2 -> 3  ada adds dan member
		3 -> 4  ben removes ada
		4 -> 5  ben rotates clinical
		3 -> 6  cem removes ada
		3 -> 7  ada removes ben
		6,7 -> 8  cem rotates clinical
		5 -> 9  ben removes cem
		`+story.String())
	st := l.state()
	if _, ben := st.Member(ben.Device()); ben {
		t.Fatal("the story has another end")
	}
	parents := st.Parents()
	if !slices.Contains(parents, l.entries["9"].ID()) || len(parents) > 4 {
		t.Errorf("%d parents, and what makes a difference among them: %v", len(parents), slices.Contains(parents, l.entries["9"].ID()))
	}
	e, err := sentence(l, st, parents, []string{"cem", "rotates", "clinical"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.With(e); err != nil {
		t.Fatal(err)
	}
}

// Nor does an entry of a kind that is not known yet hide what it follows.
func TestUndecidedEntryHidesNoParent(t *testing.T) {
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem admin
		2 -> 3  ada adds dan member
		3 -> 4  ben removes ada
		4 -> 5  ben rotates clinical
		3 -> 6  cem removes ada
		3 -> 7  ada removes ben
		6,7 -> 8  cem rotates clinical
		5 -> 9  ben removes cem`)
	d := trust.Draft{Kind: 99, Parents: []trust.EntryID{l.entries["9"].ID()}, Payload: []byte("?")}
	above, err := d.Sign(people["ben"])
	if err != nil {
		t.Fatal(err)
	}
	st, err := l.state().With(above)
	if err != nil || len(st.Unknown()) != 1 {
		t.Fatalf("%d unknown entries: %v", len(st.Unknown()), err)
	}
	e, err := sentence(l, st, st.Parents(), []string{"cem", "rotates", "clinical"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.With(e); err != nil {
		t.Fatal(err)
	}
}
