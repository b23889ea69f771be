package keyring

import (
	"errors"
	"fmt"
	"testing"

	"chartmesh/trust"
)

func take(t testing.TB, st *trust.State, e trust.Entry, err error) *trust.State {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	next, err := st.With(e)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// rotateAll begins a new epoch of every scope.
func rotateAll(t testing.TB, st *trust.State, by *administrator) *trust.State {
	t.Helper()
	for _, sc := range st.Scopes() {
		e, err := by.Rotate(st, sc.ID, now)
		st = take(t, st, e, err)
	}
	return st
}

// sealedIn seals a body under an epoch, as a chunk does.
func sealedIn(t testing.TB, k *Keyring, st *trust.State, scope trust.ScopeID) (trust.EpochID, []byte) {
	t.Helper()
	epoch := st.CurrentEpoch(scope)
	sealed, err := k.SealBody(scope, epoch, [16]byte{}, []byte("place"), []byte("body"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return epoch, sealed
}

func opens(k interface {
	OpenBody(trust.ScopeID, trust.EpochID, [16]byte, []byte, []byte, []byte) ([]byte, error)
}, scope trust.ScopeID, epoch trust.EpochID, sealed []byte) bool {
	plain, err := k.OpenBody(scope, epoch, [16]byte{}, []byte("place"), sealed, nil)
	return err == nil && string(plain) == "body"
}

func TestRemovedDeviceOpensNothingNew(t *testing.T) {
	a, b, c := create(t), create(t), create(t)
	st, code := foundPractice(t, a)
	st = admit(t, admit(t, st, a, b, trust.RoleMember), a, c, trust.RoleMember)
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	before, old := sealedIn(t, a, st, scope)

	e, err := a.Remove(st, c.Device(), trust.Cut{{Scope: scope, Log: [32]byte{1}, Counter: 3}}, now)
	st = take(t, st, e, err)
	if due := st.RotationsDue(); len(due) != 2 {
		t.Errorf("%d scopes to be rotated after a removal, want 2", len(due))
	}
	st = rotateAll(t, st, &a.administrator)
	if due := st.RotationsDue(); len(due) != 0 {
		t.Errorf("%d scopes to be rotated after the rotations", len(due))
	}
	after, fresh := sealedIn(t, a, st, scope)
	if before == after {
		t.Fatal("a rotation has not begun an epoch")
	}
	late := create(t)
	st = admit(t, st, a, late, trust.RoleMember)
	if got := len(st.Boxes(late.Device())); got != 2 {
		t.Errorf("%d boxes for a newcomer, want one a scope", got)
	}
	for _, k := range []*Keyring{a, b, c, late} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	recovered, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	if !opens(b, scope, after, fresh) || !opens(b, scope, before, old) || !opens(late, scope, before, old) ||
		!opens(late, scope, after, fresh) || !opens(recovered, scope, after, fresh) {
		t.Error("a remaining device, a newcomer or the recovery code does not open everything")
	}
	if opens(c, scope, after, fresh) {
		t.Error("the removed device opens what came later")
	}
	if cut, gone := st.Removed(c.Device()); !gone || len(cut) != 1 || cut[0].Counter != 3 {
		t.Errorf("cut %v", cut)
	}
	if e, err := a.Admit(st, Newcomer{Device: c.Device(), HPKE: c.HPKEPublic(), Now: now}); err != nil {
		t.Fatal(err)
	} else if _, err := st.With(e); !errors.Is(err, trust.ErrRemoved) {
		t.Errorf("a removed device comes back under its key: %v", err)
	}
}

func TestRotationsApartAreJoined(t *testing.T) {
	a, b := create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleAdmin)
	if err := b.Learn(st); err != nil {
		t.Fatal(err)
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	byA, err := a.Rotate(st, scope, now)
	if err != nil {
		t.Fatal(err)
	}
	byB, err := b.Rotate(st, scope, now)
	if err != nil {
		t.Fatal(err)
	}
	st = take(t, take(t, st, byA, nil), byB, nil)
	if sc, _ := st.Scope(scope); len(sc.Newest) != 2 || len(st.RotationsDue()) != 1 {
		t.Fatal("two rotations apart are not two newest epochs")
	}
	if err := a.Learn(st); err != nil {
		t.Fatal(err)
	}
	c := create(t)
	st = admit(t, st, a, c, trust.RoleMember)
	if err := c.Learn(st); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Learn(st), b.Learn(st)); err != nil {
		t.Fatal(err)
	}
	st = rotateAll(t, st, &b.administrator)
	if err := errors.Join(a.Learn(st), c.Learn(st)); err != nil {
		t.Fatal(err)
	}
	epoch, sealed := sealedIn(t, a, st, scope)
	if !opens(b, scope, epoch, sealed) || !opens(c, scope, epoch, sealed) || len(st.RotationsDue()) != 0 {
		t.Error("the joining epoch is not everybody's")
	}
	for _, e := range func() []trust.Epoch { sc, _ := st.Scope(scope); return sc.Epochs }() {
		if !c.has(e.ID) {
			t.Errorf("epoch %v is closed to a newcomer", e.ID)
		}
	}
}

func TestRecoveryGetsBackIn(t *testing.T) {
	a := create(t)
	st, code := foundPractice(t, a)
	for range 12 {
		st = rotateAll(t, st, &a.administrator)
	}
	r, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	fresh := create(t)
	e, err := r.Admit(st, Newcomer{Device: fresh.Device(), HPKE: fresh.HPKEPublic(), Role: trust.RoleAdmin, DeviceName: "new",
		SiteName: "site", Now: now})
	st = take(t, st, e, err)
	if err := fresh.Learn(st); err != nil {
		t.Fatal(err)
	}
	for _, sc := range st.Scopes() {
		for _, ep := range sc.Epochs {
			if !fresh.has(ep.ID) {
				t.Errorf("epoch %v is closed to the recovered device", ep.ID)
			}
		}
	}
	e, err = r.Remove(st, a.Device(), nil, now)
	st = take(t, st, e, err)
	st = rotateAll(t, st, &fresh.administrator)
	if _, ok := st.Member(a.Device()); ok {
		t.Error("the lost device belongs")
	}
	if got := fresh.PracticeName(st); got != "Praxis Çelik" {
		t.Errorf("practice %q", got)
	}
}

func TestReplacedRecoveryCode(t *testing.T) {
	a := create(t)
	st, code := foundPractice(t, a)
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	before, old := sealedIn(t, a, st, scope)
	thief, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	_, other := foundPractice(t, create(t))
	if _, _, err := a.ReplaceRecovery(st, other, now); !errors.Is(err, ErrWrongRecovery) {
		t.Errorf("another practice's code: %v", err)
	}
	atFirst := st
	e, next, err := a.ReplaceRecovery(st, code, now)
	st = take(t, st, e, err)
	if len(st.RotationsDue()) != 2 {
		t.Error("nothing to be rotated after the code was replaced")
	}
	st = rotateAll(t, st, &a.administrator)
	after, fresh := sealedIn(t, a, st, scope)
	if opens(thief, scope, after, fresh) || !opens(thief, scope, before, old) {
		t.Error("the old code opens what came later, or not what came before")
	}
	c, err := ParseRecoveryCode(code)
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := c.keys()
	if err != nil {
		t.Fatal(err)
	}
	if err := thief.learn(private, st, trust.DeviceID{}); err != nil || opens(thief, scope, after, fresh) {
		t.Errorf("the old code learns what came later: %v", err)
	}
	if _, err := OpenWithRecovery(code, st); !errors.Is(err, ErrReplacedRecovery) {
		t.Errorf("the old code: %v", err)
	}
	r, err := OpenWithRecovery(next, st)
	if err != nil || !opens(r, scope, before, old) || !opens(r, scope, after, fresh) {
		t.Errorf("the new code does not open everything: %v", err)
	}
	// The thief's entries, made apart, do not stand.
	mine := create(t)
	stolen, err := thief.Admit(atFirst, Newcomer{Device: mine.Device(), HPKE: mine.HPKEPublic(), Role: trust.RoleAdmin, Now: now})
	st = take(t, st, stolen, err)
	if v, void := st.Void(stolen.ID()); !void || v.Why != trust.WhyReplaced {
		t.Errorf("an entry by the old code: %v", v)
	}
}

func TestRenamed(t *testing.T) {
	a, b := create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleMember)
	if err := b.Learn(st); err != nil {
		t.Fatal(err)
	}
	e, err := a.Rename(st, b.Device(), "Labor", "Keller", now)
	st = take(t, st, e, err)
	e, err = a.Rename(st, trust.DeviceID{}, "Praxis Neu", "", now)
	st = take(t, st, e, err)
	e, err = a.AddAnchor(st, trust.DeviceID{7}, []string{"/dns4/anchor.example/tcp/443"}, "Anker", now)
	st = take(t, st, e, err)
	name, site := b.Names(st, b.Device())
	anchor, _ := b.Names(st, trust.DeviceID{7})
	if name != "Labor" || site != "Keller" || b.PracticeName(st) != "Praxis Neu" || anchor != "Anker" {
		t.Errorf("names %q, %q, %q, %q", name, site, b.PracticeName(st), anchor)
	}
	if got := st.Anchors(); len(got) != 1 || st.MayRead(trust.DeviceID{7}, st.Scopes()[0].ID) {
		t.Error("an anchor is none, or may read")
	}
	if _, err := b.Rename(st, a.Device(), "x", "y", now); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("a member renames another: %v", err)
	}
}

// BenchmarkRemoval is a removal as a device of an administrator makes it: the entry, and one rotation a scope.
func BenchmarkRemoval(b *testing.B) {
	for _, members := range []int{20, 500} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			admin := create(b)
			st, _ := foundPractice(b, admin)
			var last *Keyring
			for range members - 1 {
				last = create(b)
				st = admit(b, st, admin, last, trust.RoleMember)
			}
			scope, _ := st.ScopeNamed(trust.ScopeClinical)
			e, err := admin.Remove(st, last.Device(), nil, now)
			st = take(b, st, e, err)
			size := 0
			for b.Loop() {
				rotated, err := admin.Rotate(st, scope, now)
				if take(b, st, rotated, err); err == nil {
					size = len(rotated.Bytes())
				}
			}
			b.ReportMetric(float64(size), "bytes/scope")
			b.ReportMetric(float64(len(e.Bytes())), "bytes/removal")
		})
	}
}

// An administrator who begins an epoch and seals nothing to anybody else cannot keep the others, or the recovery code, from
// removing him and from opening everything else.
func TestHostileRotation(t *testing.T) {
	a, b := create(t), create(t)
	st, code := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleAdmin)
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	sc, _ := st.Scope(scope)
	m := trust.Rotation{Scope: scope, Previous: []trust.PreviousEpoch{{Epoch: sc.Newest[0], Sealed: make([]byte, trust.PreviousEpochSize)}}}
	for _, id := range append([]trust.DeviceID{{}}, st.Readers(scope)...) {
		m.Boxes = append(m.Boxes, trust.ScopeBox{Recipient: id, Sealed: make([]byte, trust.KeyBoxSize)})
	}
	e, err := b.sign(st, trust.KindRotate, m.Encode(), now)
	st = take(t, st, e, err)
	if err := a.Learn(st); !errors.Is(err, trust.ErrSealBroken) {
		t.Errorf("boxes of nothing: %v", err)
	}
	r, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Opens(sc.Newest[0]) || r.Opens(st.CurrentEpoch(scope)) {
		t.Error("the recovery code opens something else than what was sealed to it")
	}
	e, err = r.Remove(st, b.Device(), nil, now)
	st = take(t, st, e, err)
	if _, ok := st.Member(b.Device()); ok {
		t.Error("the administrator belongs")
	}
}
