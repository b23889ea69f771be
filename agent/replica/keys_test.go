package replica_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// parked returns how many chunks wait for something.
func (d *device) parked() int { return d.Status().Parked }

// rotateDue begins the epochs that are due, as an administrator's agent does.
func (d *device) rotateDue() (n int) {
	d.t.Helper()
	must(d.t, d.Enter(d.t.Context(), func(st *trust.State) (list []trust.Entry, err error) {
		for _, scope := range d.keys.RotationsDue(st) {
			e, err := d.keys.Rotate(st, scope, time.Now())
			if err != nil {
				return nil, err
			}
			list = append(list, e)
			if st, err = st.With(e); err != nil {
				return nil, err
			}
		}
		n = len(list)
		return list, nil
	}))
	d.applyAll()
	return n
}

// forget starts a device anew with nothing in memory: what it knows of keys comes from its keyring's file, the membership log and the
// store.
func (d *device) forget(dir string) {
	d.t.Helper()
	keys, err := keyring.Open(dir, nil)
	must(d.t, err)
	d.keys = keys
	d.crash()
	d.applyAll()
}

// admitAt has a device of the practice add another, whose keyring is in a folder.
func admitAt(t *testing.T, by *device, name string) (d *device, dir string) {
	t.Helper()
	dir = t.TempDir() + "/keys"
	keys, err := keyring.Create(dir, nil)
	must(t, err)
	return admitWith(t, by, keys, name), dir
}

// parted makes a practice of which an administrator was removed while apart, with a member that went on writing under an epoch that no
// administrator opens. The member's edit is of Patient/p.
func parted(t *testing.T) (admin, member *device, dir string) {
	devices := practice(t, "first", "second")
	admin, second := devices[0], devices[1]
	member, dir = admitAt(t, admin, "member")
	must(t, admin.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := admin.keys.SetRole(st, second.Device(), trust.RoleAdmin, nil, time.Now())
		return []trust.Entry{e}, err
	}))
	admin.put(`{"resourceType":"Patient","id":"p","birthDate":"1970-01-01"}`, false)
	meet(t, admin, second, member)

	admin.remove(second)
	second.remove(admin)
	sync(t, second, member)
	member.edit("Patient/p", func(o map[string]any) { o["name"] = []any{map[string]any{"family": "written-apart"}} })
	// Whose heads are both unknown to the other would wait for each other for a while.
	must(t, admin.AddEntries(t.Context(), member.Device(), member.EntriesSince(nil)))
	must(t, member.AddEntries(t.Context(), admin.Device(), admin.EntriesSince(nil)))
	sync(t, admin, member)
	return admin, member, dir
}

// What a member wrote under an epoch that a removed administrator began, and gave to no administrator who remains, is read by everybody
// once the member has said the key. See docs/decisions/0054.
func TestKeysSaid(t *testing.T) {
	admin, member, dir := parted(t)
	if admin.parked() == 0 || strings.Contains(admin.get("Patient/p"), "written-apart") {
		t.Fatal("the administrator opens what was written apart; the test shows nothing")
	}
	for range 2 { // whatever happens first: an epoch that is due, or the member's word
		admin.rotateDue()
		sync(t, admin, member)
	}
	if admin.parked() == 0 {
		t.Fatal("the administrator found a key that nobody gave him")
	}
	if due, err := member.KeysToSay(); err != nil || !due {
		t.Fatalf("the member has nothing to say: %v", err)
	}
	must(t, member.SayKeys(t.Context()))
	if due, err := member.KeysToSay(); err != nil || due {
		t.Errorf("the member says it again: %v", err)
	}
	member.forget(dir)
	if due, err := member.KeysToSay(); err != nil || due {
		t.Errorf("the member says it again after a start: %v", err)
	}
	sync(t, admin, member)
	if n := admin.parked(); n != 0 || !strings.Contains(admin.get("Patient/p"), "written-apart") {
		t.Errorf("%d chunks wait: %s", n, admin.get("Patient/p"))
	}
	if n := admin.rotateDue(); n == 0 {
		t.Error("the administrator does not join what he can read now")
	}
	newcomer := admit(t, admin, "newcomer")
	sync(t, admin, newcomer)
	agree(t, admin, newcomer)
	if n := newcomer.parked(); n != 0 {
		t.Errorf("%d chunks wait at a newcomer", n)
	}
	sync(t, admin, member)
	agree(t, admin, member)
	if due, err := member.KeysToSay(); err != nil || due || admin.rotateDue() != 0 {
		t.Errorf("something is left to do: %v, %v", due, err)
	}
	for _, d := range []*device{admin, member, newcomer} {
		report, err := d.Verify(t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
		if must(t, err); !report.Clean {
			t.Errorf("%s: %+v", d.name, report.Findings)
		}
	}
}

// Who was told a key, and has not seen it joined yet, still has it after a start; and a wrong word keeps nobody from the right one.
func TestKeysSaidKept(t *testing.T) {
	admin, member, _ := parted(t)
	other, dir := admitAt(t, admin, "other")
	liar := admit(t, admin, "liar")
	for _, d := range []*device{member, other} {
		must(t, d.AddEntries(t.Context(), admin.Device(), admin.EntriesSince(nil)))
	}
	sync(t, other, member)
	if other.parked() == 0 {
		t.Fatal("the newcomer opens what was written apart; the test shows nothing")
	}
	// Somebody who holds no such key makes one up.
	scope, epoch := lone(t, member)
	st := liar.State()
	wrong, err := liar.keys.SealUnder(scope, st.CurrentEpoch(scope), st.CurrentEpoch(scope))
	must(t, err)
	wrong.Epoch = epoch
	last := trust.EpochID(bytes.Repeat([]byte{255}, len(trust.EpochID{})))
	word := forge(liar).Seal(&chunk.Keys{Epochs: []trust.PreviousEpoch{wrong, {Epoch: last, Sealed: wrong.Sealed}}})
	for _, d := range []*device{admin, member, other} {
		d.take(liar, word)
	}
	if due, err := member.KeysToSay(); err != nil || !due {
		t.Fatalf("a wrong word silences the member: %v", err)
	}
	must(t, member.SayKeys(t.Context()))
	sync(t, other, member)
	if n := other.parked(); n != 0 {
		t.Errorf("%d chunks wait", n)
	}
	other.forget(dir)
	if !other.keys.Opens(epoch) || other.parked() != 0 {
		t.Error("the key is gone after a start")
	}
	sync(t, admin, other) // which has it from other, too
	if admin.parked() != 0 || admin.rotateDue() == 0 {
		t.Errorf("the administrator does not read it: %d chunks wait", admin.parked())
	}
}

// lone returns the epoch that a member alone opens.
func lone(t *testing.T, member *device) (trust.ScopeID, trust.EpochID) {
	t.Helper()
	for _, sc := range member.State().Scopes() {
		if epochs := member.keys.Loose(member.State(), sc.ID); sc.Name == "clinical" && len(epochs) == 1 {
			return sc.ID, epochs[0]
		}
	}
	t.Fatal("there is no such epoch")
	return trust.ScopeID{}, trust.EpochID{}
}

// An epoch that is newest may be open to members alone: who began it, apart from the joining of the administrator who remains, was
// removed. He begins another without it, and the members say its key.
func TestNewestEpochOfMembersAlone(t *testing.T) {
	p := practice(t, "founder", "second", "member", "leaver")
	f, b, m, x := p[0], p[1], p[2], p[3]
	f.promote(b)
	f.put(`{"resourceType":"Patient","id":"p","birthDate":"1970-01-01"}`, false)
	meet(t, f, b, m, x)
	b.remove(x)
	sync(t, b, m)
	a := admit(t, f, "newcomer")
	f.promote(a)
	sync(t, f, a)
	must(t, m.AddEntries(t.Context(), a.Device(), a.EntriesSince(nil)))
	must(t, a.AddEntries(t.Context(), m.Device(), m.EntriesSince(nil)))
	sync(t, a, m)
	for _, gone := range []*device{f, b} {
		cut, err := a.CutOf(gone.Device())
		must(t, err)
		must(t, a.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
			e, err := a.keys.Remove(st, gone.Device(), cut, time.Now())
			return []trust.Entry{e}, err
		}))
	}
	sync(t, a, m)
	m.edit("Patient/p", func(o map[string]any) { o["birthDate"] = "1971-01-01" })
	sync(t, a, m)
	if a.parked() == 0 {
		t.Fatal("the administrator has the key; the test shows nothing")
	}
	if a.rotateDue() == 0 {
		t.Fatal("the only administrator begins no keys without those who were removed")
	}
	sync(t, a, m)
	if due, err := m.KeysToSay(); err != nil || !due {
		t.Fatalf("the member has nothing to say: %v", err)
	}
	must(t, m.SayKeys(t.Context()))
	sync(t, a, m)
	if n := a.parked(); n != 0 || !strings.Contains(a.get("Patient/p"), "1971-01-01") {
		t.Errorf("the only administrator does not read %d chunks", n)
	}
	if a.rotateDue() == 0 {
		t.Error("the key is not joined")
	}
}
