package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/trust"
)

var now = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

func create(t testing.TB) *Keyring {
	t.Helper()
	k, err := Create("", nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func foundPractice(t testing.TB, k *Keyring) (*trust.State, string) {
	t.Helper()
	e, code, err := k.Found(FoundOptions{Practice: "Praxis Çelik", Device: "Anmeldung", Site: "Hauptsitz", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	st, err := trust.Found(e)
	if err != nil {
		t.Fatal(err)
	}
	return st, code
}

func admit(t testing.TB, st *trust.State, by, k *Keyring, role trust.Role) *trust.State {
	t.Helper()
	e, err := by.Admit(st, Newcomer{Device: k.Device(), HPKE: k.HPKEPublic(), Role: role,
		DeviceName: "Sprechzimmer 2", SiteName: "Filiale Süd", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if st, err = st.With(e); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestFoundAdmitLearn(t *testing.T) {
	a, b, stranger := create(t), create(t), create(t)
	st, _ := foundPractice(t, a)
	clinical, _ := st.ScopeNamed(trust.ScopeClinical)
	billing, _ := st.ScopeNamed(trust.ScopeBilling)
	st = admit(t, st, a, b, 0)
	if m, _ := st.Member(b.Device()); m.Role != trust.RoleMember {
		t.Errorf("role %v, want member", m.Role)
	}
	if _, err := b.DocumentID(clinical, "x"); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("document ID before Learn: %v", err)
	}
	for _, k := range []*Keyring{a, b, stranger} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stranger.Tag(clinical, [32]byte{}); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("a stranger learnt a key: %v", err)
	}
	if got := stranger.PracticeName(st); got != "" {
		t.Error("a stranger reads the practice's name")
	}
	for _, k := range []*Keyring{a, b} {
		if got := k.PracticeName(st); got != "Praxis Çelik" {
			t.Errorf("practice %q", got)
		}
		if d, s := k.Names(st, b.Device()); d != "Sprechzimmer 2" || s != "Filiale Süd" {
			t.Errorf("names %q, %q", d, s)
		}
		if d, s := k.Names(st, a.Device()); d != "Anmeldung" || s != "Hauptsitz" {
			t.Errorf("names %q, %q", d, s)
		}
	}
	ids := map[[32]byte]bool{}
	for _, scope := range []trust.ScopeID{clinical, billing} {
		for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {}} {
			x, err := a.DocumentID(scope, parts...)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := b.DocumentID(scope, parts...); err != nil || x != y {
				t.Error("two members derive different document IDs")
			}
			ids[x] = true
		}
	}
	if len(ids) != 10 {
		t.Errorf("%d document IDs, want 10", len(ids))
	}
	if _, err := b.Admit(st, Newcomer{Device: stranger.Device(), HPKE: stranger.HPKEPublic(), Now: now}); !errors.Is(err,
		ErrNotAdmin) {
		t.Errorf("a member admits: %v", err)
	}
	if _, err := a.Admit(st, Newcomer{Device: b.Device(), HPKE: b.HPKEPublic(), Now: now}); !errors.Is(err,
		trust.ErrMemberAlready) {
		t.Errorf("admitted twice: %v", err)
	}
	if _, err := a.Admit(st, Newcomer{Device: stranger.Device(), HPKE: []byte("short"), Now: now}); err == nil {
		t.Error("admitted without an HPKE key")
	}
	// An administrator that was admitted admits the next.
	st = admit(t, st, a, stranger, trust.RoleAdmin)
	if err := stranger.Learn(st); err != nil {
		t.Fatal(err)
	}
	last := create(t)
	st = admit(t, st, stranger, last, trust.RoleMember)
	if err := last.Learn(st); err != nil {
		t.Fatal(err)
	}
	if got := last.PracticeName(st); got != "Praxis Çelik" {
		t.Errorf("practice %q", got)
	}
}

// A box with other keys than the log commits to is refused, so that no administrator can split the practice unseen.
func TestLearnChecksCommitment(t *testing.T) {
	a, b := create(t), create(t)
	st, _ := foundPractice(t, a)
	billing, _ := st.ScopeNamed(trust.ScopeBilling)
	clinical, _ := st.ScopeNamed(trust.ScopeClinical)
	a.put(billing, st.CurrentEpoch(billing), [32]byte{1}, [32]byte{2})
	st = admit(t, st, a, b, 0)
	if err := b.Learn(st); !errors.Is(err, trust.ErrSealBroken) {
		t.Errorf("keys that differ from the commitment: %v", err)
	}
	if _, err := b.Tag(billing, [32]byte{}); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("such a key is used: %v", err)
	}
	if _, err := b.Tag(clinical, [32]byte{}); err != nil {
		t.Errorf("the other scope's key was not learnt: %v", err)
	}
}

func TestBodies(t *testing.T) {
	k := create(t)
	st, _ := foundPractice(t, k)
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	other, _ := st.ScopeNamed(trust.ScopeBilling)
	epoch := st.CurrentEpoch(scope)
	plain, info, aad := []byte("body"), []byte("info"), []byte("header")
	sealed, err := k.SealBody(scope, epoch, [16]byte{}, info, plain, aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenBody(scope, epoch, [16]byte{}, info, sealed, aad); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("opened %q, %v", got, err)
	}
	if _, err := k.OpenBody(scope, epoch, [16]byte{}, info, sealed, []byte("other")); !errors.Is(err, trust.ErrSealBroken) {
		t.Errorf("other header: %v", err)
	}
	if _, err := k.OpenBody(scope, epoch, [16]byte{}, []byte("x"), sealed, aad); !errors.Is(err, trust.ErrSealBroken) {
		t.Errorf("other info: %v", err)
	}
	if _, err := k.OpenBody(other, epoch, [16]byte{}, info, sealed, aad); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("other scope: %v", err)
	}
	if _, err := k.OpenBody(scope, trust.EpochID{1}, [16]byte{}, info, sealed, aad); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("unknown epoch: %v", err)
	}
	if _, err := k.OpenBody(scope, epoch, [16]byte{1}, info, sealed, aad); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("unknown document secret: %v", err)
	}
}

// A random source that repeats itself repeats no salt, as long as body or predecessor differ.
func TestSaltOutlivesItsRandomness(t *testing.T) {
	stuck := bytes.NewReader(bytes.Repeat([]byte{7}, 144))
	k, err := Create("", stuck)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.rand = zeros{}
	seen := map[[16]byte]bool{}
	for body := range byte(3) {
		for previous := range byte(3) {
			s, err := k.Salt([32]byte{body}, [32]byte{previous})
			if err != nil {
				t.Fatal(err)
			}
			seen[s] = true
		}
	}
	if len(seen) != 9 {
		t.Errorf("%d salts, want 9", len(seen))
	}
	k.mu.rand = bytes.NewReader(nil)
	if _, err := k.Salt([32]byte{}, [32]byte{}); err == nil {
		t.Error("a salt without randomness")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Open(dir, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("open an empty folder: %v", err)
	}
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, nil); !errors.Is(err, ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	path := filepath.Join(dir, FileName)
	if runtime.GOOS != "windows" {
		for _, p := range []string{dir, path} {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v, %v", p, info.Mode(), err)
			}
		}
	}
	got, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Device() != k.Device() || got.LogNonce() != k.LogNonce() || got.StoreKey() != k.StoreKey() || got.Moved() ||
		!bytes.Equal(got.HPKEPublic(), k.HPKEPublic()) || got.Derive("x") != k.Derive("x") {
		t.Error("opened keyring differs")
	}
	if got.Derive("x") == got.Derive("y") || got.StoreKey() == got.Derive("x") {
		t.Error("derived secrets are not apart")
	}
	before := k.LogNonce()
	if err := k.MintLog(); err != nil {
		t.Fatal(err)
	}
	if k.LogNonce() == before {
		t.Error("the log is the old one")
	}
	if got.Fresh() || !k.Fresh() {
		t.Error("which of them began the log is not told")
	}
	if got, err = Open(dir, nil); err != nil || got.LogNonce() != k.LogNonce() {
		t.Errorf("the new log is not durable: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%d files in the folder, want 1 (%v)", len(files), err)
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, nil); !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
}

func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Create(dir, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	valid, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte, what string) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, nil)
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrProtected) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil {
			for i := 5; i+8 <= len(valid)-32; i += 8 {
				if strings.Contains(err.Error(), hex.EncodeToString(valid[i:i+8])) {
					t.Errorf("%s: the error holds key bytes", what)
				}
			}
		}
	}
	for i := range valid {
		b := bytes.Clone(valid)
		b[i] ^= 0x10
		check(b, fmt.Sprintf("byte %d changed", i))
	}
	for _, n := range []int{0, 3, 4, 5, 100, len(valid) - 1} {
		check(valid[:n], fmt.Sprintf("cut to %d", n))
	}
	check(append(bytes.Clone(valid), 0), "one byte more")
	check(make([]byte, 8192), "large")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("a folder in its place: %v", err)
	}
}

// A copied folder begins a new log before it can write, and only once.
func TestCopiedFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(copied, FileName), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(copied, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Moved() || !c.Fresh() || c.LogNonce() == k.LogNonce() || c.Device() != k.Device() {
		t.Errorf("moved %v, same log %v", c.Moved(), c.LogNonce() == k.LogNonce())
	}
	again, err := Open(copied, nil)
	if err != nil || again.Moved() || again.LogNonce() != c.LogNonce() {
		t.Errorf("opened again: moved %v, %v", again.Moved(), err)
	}
	if orig, err := Open(dir, nil); err != nil || orig.Moved() || orig.LogNonce() != k.LogNonce() {
		t.Errorf("the original: moved %v, %v", orig.Moved(), err)
	}
}

func TestRecoveryCode(t *testing.T) {
	k := create(t)
	st, code := foundPractice(t, k)
	if len(code) != 35 || strings.Count(code, "-") != 5 {
		t.Errorf("code has %d characters", len(code))
	}
	other := create(t)
	st = admit(t, st, k, other, trust.RoleMember)
	for _, typed := range []string{
		code, strings.ToLower(code), strings.ReplaceAll(code, "-", ""), strings.ReplaceAll(code, "-", " "),
		strings.ReplaceAll(strings.ReplaceAll(code, "0", "O"), "1", "l"), " \n" + strings.ReplaceAll(code, "1", "i") + "\t",
		strings.ReplaceAll(code, "-", "\u2013"),
	} {
		r, err := OpenWithRecovery(typed, st)
		if err != nil {
			t.Fatal(err)
		}
		if r.PracticeName(st) != "Praxis Çelik" {
			t.Error("recovery does not read names")
		}
		for _, sc := range st.Scopes() {
			body, err := k.SealBody(sc.ID, st.CurrentEpoch(sc.ID), [16]byte{}, []byte("i"), []byte("text"), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.OpenBody(sc.ID, st.CurrentEpoch(sc.ID), [16]byte{}, []byte("i"), body, nil)
			if err != nil || string(got) != "text" {
				t.Errorf("recovery does not open scope %s: %v", sc.Name, err)
			}
		}
	}
	unnoticed := 0
	for i := range code {
		for _, c := range crockford {
			if byte(c) == code[i] || code[i] == '-' {
				continue
			}
			typo := code[:i] + string(c) + code[i+1:]
			if _, err := ParseRecoveryCode(typo); err == nil {
				unnoticed++
			} else if !errors.Is(err, ErrRecoveryCode) || strings.Contains(err.Error(), code[:5]) {
				t.Fatalf("unhelpful error: %v", err)
			}
		}
	}
	if unnoticed > 1 {
		t.Errorf("%d of %d mistypings not noticed", unnoticed, 30*31)
	}
	for _, bad := range []string{"", "abc", code + "0", code[:30], strings.Replace(code, code[:1], "U", 1), "é" + code} {
		if _, err := ParseRecoveryCode(bad); !errors.Is(err, ErrRecoveryCode) {
			t.Errorf("parsed a bad code: %v", err)
		}
	}
	_, foreign := foundPractice(t, create(t))
	if _, err := OpenWithRecovery(foreign, st); !errors.Is(err, ErrWrongRecovery) {
		t.Errorf("another practice's code: %v", err)
	}
}

func TestNothingPrintsKeys(t *testing.T) {
	k := create(t)
	st, code := foundPractice(t, k)
	r, err := OpenWithRecovery(code, st)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseRecoveryCode(code)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := parsed.CallerKey()
	if err != nil {
		t.Fatal(err)
	}
	chained, err := newKeychained(&fakeKeychain{held: map[string][]byte{}})
	if err != nil {
		t.Fatal(err)
	}
	s := k.mu.secrets
	secret := [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], k.salting, parsed.symbols[:], caller.secret, caller.root.private.Seed(),
		chained.key[:]}
	for _, e := range k.epochs.keys {
		secret = append(secret, bytes.Clone(e.body[:]))
	}
	for _, x := range k.epochs.index {
		secret = append(secret, bytes.Clone(x[:]))
	}
	var out bytes.Buffer
	for _, v := range []any{k, r, parsed, &parsed, caller, chained, struct{ K *Keyring }{k}, []any{k, r, parsed, caller, chained}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		b, _ := json.Marshal(v)
		out.Write(b)
	}
	text := strings.ToLower(out.String())
	for _, b := range secret {
		decimal := strings.Trim(fmt.Sprint(b[:8]), "[]")
		for _, form := range []string{hex.EncodeToString(b[:8]), decimal, strings.ReplaceAll(decimal, " ", ","),
			fmt.Sprintf("%o", b[:4]), strings.ToLower(string(b[:8]))} {
			if strings.Contains(text, form) {
				t.Errorf("key bytes are printed")
			}
		}
	}
	if !strings.Contains(text, "keyring of device "+k.Device().String()) {
		t.Error("a keyring does not print its device")
	}
}

func TestSignTransport(t *testing.T) {
	k := create(t)
	id := k.Device()
	for _, ok := range []string{"noise-libp2p-static-key:abc", "libp2p-tls-handshake:abc", "\x12libp2p-peer-recordX",
		"\x11libp2p-relay-rsvpX"} {
		sig, err := k.SignTransport([]byte(ok))
		if err != nil || !ed25519.Verify(id[:], []byte(ok), sig) {
			t.Errorf("%q: %v", ok[:10], err)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), trust.SigningInput(trust.ContextChunk, []byte("digest"))} {
		if _, err := k.SignTransport(bad); !errors.Is(err, ErrNotTransport) {
			t.Errorf("signed %q", bad)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	a, b := create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, 0)
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := b.Learn(st); err != nil {
					t.Error(err)
				}
				if _, err := b.SealBody(scope, st.CurrentEpoch(scope), [16]byte{}, []byte("i"), nil, nil); err != nil {
					t.Error(err)
				}
				_, _ = b.Names(st, a.Device())
				_ = b.LogNonce()
				if err := b.MintLog(); err != nil {
					t.Error(err)
				}
				_ = b.StoreKey()
			}
		})
	}
	wg.Wait()
}

// TestStoreKey: until the change of the store's key is at its end the file holds both keys, and then the new one alone.
func TestStoreKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	old := k.StoreKey()
	if _, ok := k.NextStoreKey(); ok || !k.StoreKeyChanged().IsZero() || k.EndStoreKey(time.Now()) == nil || k.StoreKey() != old {
		t.Fatal("another key came from nowhere")
	}
	reopen := func() *Keyring {
		k, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if err := k.BeginStoreKey(); err != nil {
		t.Fatal(err)
	}
	next, ok := reopen().NextStoreKey()
	if mine, _ := k.NextStoreKey(); !ok || next != mine || next == old || reopen().StoreKey() != old {
		t.Fatal("the file does not hold both keys")
	}
	if err := reopen().DropStoreKey(); err != nil {
		t.Fatal(err)
	}
	// A process that has read the file before must not write over what came since.
	for what, write := range map[string]func() error{
		"end": func() error { return k.EndStoreKey(time.Now()) }, "log": k.MintLog, "protect": func() error { return k.Protect(nil) }, "look": k.Unchanged,
	} {
		if err := write(); !errors.Is(err, ErrChanged) {
			t.Errorf("%s over another process's file: %v", what, err)
		}
	}
	k = reopen()
	if _, ok := k.NextStoreKey(); ok || k.StoreKey() != old {
		t.Fatal("a key that was given up is there")
	}
	if err := k.BeginStoreKey(); err != nil {
		t.Fatal(err)
	}
	next, _ = k.NextStoreKey()
	if err := k.EndStoreKey(time.UnixMilli(7)); err != nil || k.StoreKey() != next {
		t.Fatal(err)
	}
	k = reopen()
	if _, ok := k.NextStoreKey(); ok || k.StoreKey() != next || !k.StoreKeyChanged().Equal(time.UnixMilli(7)) {
		t.Error("the file does not say what was done")
	}
}
