package keyring

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"chartmesh/trust"
)

// misseal begins an epoch with boxes that hold nothing for all but some.
func misseal(t testing.TB, by *Keyring, st *trust.State, scope trust.ScopeID, good ...*Keyring) *trust.State {
	t.Helper()
	index, err := by.indexKey(scope)
	if err != nil {
		t.Fatal(err)
	}
	body := [32]byte(bytes.Repeat([]byte{7}, 32))
	m := trust.Rotation{Scope: scope, Commitment: trust.Commit(scope, body, index)}
	sc, _ := st.Scope(scope)
	for _, epoch := range sc.Newest {
		m.Previous = append(m.Previous, trust.PreviousEpoch{Epoch: epoch, Sealed: make([]byte, trust.PreviousEpochSize)})
	}
	for _, id := range append([]trust.DeviceID{{}}, st.Readers(scope)...) {
		box := make([]byte, trust.KeyBoxSize)
		if at := slices.IndexFunc(good, func(k *Keyring) bool { return k.Device() == id }); at >= 0 {
			if box, err = sealBox(scope, body, index, good[at].HPKEPublic()); err != nil {
				t.Fatal(err)
			}
		}
		m.Boxes = append(m.Boxes, trust.ScopeBox{Recipient: id, Sealed: box})
	}
	e, err := by.sign(st, trust.KindRotate, m.Encode(), now)
	return take(t, st, e, err)
}

// An administrator may begin an epoch whose keys he gives to nobody, or to some. Whoever cannot open it rotates over it, and nothing
// is lost that was written under it by somebody who could: he joins it again.
func TestRotatesOverWhatDoesNotOpen(t *testing.T) {
	a, b, c, x := create(t), create(t), create(t), create(t)
	st, code := foundPractice(t, a)
	for _, k := range []*Keyring{b, c, x} {
		st = admit(t, st, a, k, trust.RoleAdmin)
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	before, old := sealedIn(t, a, st, scope)
	st = misseal(t, x, st, scope, c, x)
	for _, k := range []*Keyring{a, b} {
		if err := k.Learn(st); !errors.Is(err, trust.ErrSealBroken) {
			t.Fatalf("a box without keys: %v", err)
		}
		if due := k.RotationsDue(st); !slices.Equal(due, []trust.ScopeID{scope}) {
			t.Fatalf("who cannot open the newest epoch is to rotate %v", due)
		}
	}
	_ = c.Learn(st) // the epoch before does not open by this one, but is held
	epoch, sealed := sealedIn(t, c, st, scope)
	if len(st.RotationsDue()) > 0 {
		t.Fatal("a box that holds nothing shows without its key")
	}

	e, err := b.Rotate(st, scope, now)
	st = take(t, st, e, err)
	late := create(t)
	st = admit(t, st, b, late, trust.RoleMember)
	for _, k := range []*Keyring{a, b, c, late} {
		_ = k.Learn(st)
		after, fresh := sealedIn(t, b, st, scope)
		if !opens(k, scope, after, fresh) || !opens(k, scope, before, old) {
			t.Fatal("not everybody reads what was written before and after")
		}
	}
	if opens(a, scope, epoch, sealed) || len(b.RotationsDue(st)) > 0 || !slices.Equal(c.RotationsDue(st), []trust.ScopeID{scope}) {
		t.Fatal("who alone opens an epoch does not know that he has to join it")
	}

	e, err = c.Rotate(st, scope, now)
	st = take(t, st, e, err)
	recovered, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Keyring{a, b, c, late} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
		if !opens(k, scope, epoch, sealed) || !opens(k, scope, before, old) {
			t.Fatal("what was written under the epoch that was not given to all is lost")
		}
		if due := k.RotationsDue(st); len(due) > 0 {
			t.Fatalf("to be rotated in the end: %v", due)
		}
	}
	if !opens(recovered, scope, epoch, sealed) {
		t.Error("the recovery code does not open it")
	}
}

// What is written under an epoch that turns out not to stand is open to those who come later, too.
func TestEpochThatDoesNotStandIsJoined(t *testing.T) {
	a, b, x := create(t), create(t), create(t)
	st, _ := foundPractice(t, a)
	for _, k := range []*Keyring{b, x} {
		st = admit(t, st, a, k, trust.RoleAdmin)
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	rotated, err := x.Rotate(st, scope, now)
	if err != nil {
		t.Fatal(err)
	}
	behind := take(t, st, rotated, nil)
	if err := b.Learn(behind); err != nil {
		t.Fatal(err)
	}
	epoch, sealed := sealedIn(t, b, behind, scope)
	e, err := a.Remove(st, x.Device(), nil, now)
	st = rotateAll(t, take(t, st, e, err), &a.administrator)
	st = take(t, st, rotated, nil)
	if _, void := st.Void(rotated.ID()); !void {
		t.Fatal("a rotation apart from its author's removal stands")
	}
	for _, k := range []*Keyring{a, b} { // whoever knows it
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
		for _, due := range k.RotationsDue(st) {
			e, err := k.Rotate(st, due, now)
			st = take(t, st, e, err)
		}
	}
	late := create(t)
	st = admit(t, st, a, late, trust.RoleMember)
	if err := late.Learn(st); err != nil {
		t.Fatal(err)
	}
	if !opens(late, scope, epoch, sealed) {
		t.Error("a newcomer cannot read what somebody wrote who did not know of the removal")
	}
}

// An administrator makes as many heads as an entry has parents, beside an epoch that does not stand. A rotation leaves out that one rather
// than to be refused, and the next one joins it.
func TestEpochThatDoesNotStandAndManyHeads(t *testing.T) {
	a, b, x := create(t), create(t), create(t)
	st, _ := foundPractice(t, a)
	for _, k := range []*Keyring{b, x} {
		st = admit(t, st, a, k, trust.RoleAdmin)
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	rotated, err := x.Rotate(st, scope, now)
	if err != nil {
		t.Fatal(err)
	}
	behind := take(t, st, rotated, nil)
	if err := b.Learn(behind); err != nil {
		t.Fatal(err)
	}
	epoch, sealed := sealedIn(t, b, behind, scope)
	e, err := a.Remove(st, x.Device(), nil, now)
	before := take(t, st, e, err)
	st = before
	for i := range trust.MaxParents {
		e, err := b.Rename(before, b.Device(), "branch", "", now.Add(time.Duration(i)*time.Millisecond))
		st = take(t, st, e, err)
	}
	if st = take(t, st, rotated, nil); len(st.Parents()) != trust.MaxParents {
		t.Fatalf("%d heads stand", len(st.Parents()))
	}
	if err := a.Learn(st); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, due := range a.RotationsDue(st) {
			e, err := a.Rotate(st, due, now)
			st = take(t, st, e, err)
		}
	}
	if due := a.RotationsDue(st); len(due) > 0 {
		t.Errorf("to be rotated in the end: %v", due)
	}
	late := create(t)
	st = admit(t, st, a, late, trust.RoleMember)
	if err := late.Learn(st); err != nil {
		t.Fatal(err)
	}
	if !opens(late, scope, epoch, sealed) {
		t.Error("a newcomer cannot read what was written under the epoch that does not stand")
	}
}

// Of two additions of one device, apart, one holds. What was sealed to the key of the other is rotated.
func TestAddedTwiceUnderTwoKeys(t *testing.T) {
	a, b, c, other := create(t), create(t), create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleAdmin)
	if err := b.Learn(st); err != nil {
		t.Fatal(err)
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	for at := now; ; at = at.Add(time.Millisecond) { // until the first addition holds
		byA, err := a.Admit(st, Newcomer{Device: c.Device(), HPKE: c.HPKEPublic(), Now: at})
		if err != nil {
			t.Fatal(err)
		}
		byB, err := b.Admit(st, Newcomer{Device: c.Device(), HPKE: other.HPKEPublic(), Now: now})
		if err != nil {
			t.Fatal(err)
		}
		both := take(t, take(t, st, byA, nil), byB, nil)
		if m, _ := both.Member(c.Device()); !bytes.Equal(m.HPKE, c.HPKEPublic()) {
			continue
		}
		apart := take(t, st, byB, nil)
		rotated, err := b.Rotate(apart, scope, now)
		both = take(t, both, rotated, err)
		if err := errors.Join(a.Learn(both), c.Learn(both)); err != nil {
			t.Fatal(err)
		}
		if c.has(both.CurrentEpoch(scope)) || !slices.Contains(both.RotationsDue(), scope) {
			t.Fatal("an epoch that was sealed to a key that does not hold is not rotated")
		}
		e, err := a.Rotate(both, scope, now)
		both = take(t, both, e, err)
		if err := c.Learn(both); err != nil {
			t.Fatal(err)
		}
		if !c.has(both.CurrentEpoch(scope)) || len(a.RotationsDue(both)) > 0 {
			t.Error("the device whose addition holds does not read on")
		}
		return
	}
}
