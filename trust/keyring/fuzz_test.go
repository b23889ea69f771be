package keyring

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

// FuzzDecode reads keyring files; what is bent gets a sum that fits, or nothing would get past it.
func FuzzDecode(f *testing.F) {
	k := create(f)
	plain, err := k.mu.secrets.encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	by := &passphrase{time: 1, memory: 8, threads: 1}
	by.stretch([]byte("a passphrase"))
	sealed, err := k.mu.secrets.encode(by)
	if err != nil {
		f.Fatal(err)
	}
	chain := &fakeKeychain{held: map[string][]byte{}}
	key, err := newKeychained(chain)
	if err != nil {
		f.Fatal(err)
	}
	chained, err := k.mu.secrets.encode(key)
	if err != nil {
		f.Fatal(err)
	}
	changed := k.mu.secrets
	changed.next, changed.rotated = [32]byte{1}, 7
	rotated, err := changed.encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	fuzzing.Seeds(f, func(b []byte) error {
		if bytes.Equal(b, sealed) || bytes.Equal(b, chained) {
			return nil // locked, without anybody to ask
		}
		_, _, err := decode(b, access{})
		return err
	}, plain, sealed, chained, rotated)
	f.Fuzz(func(t *testing.T, b []byte) {
		summed := bytes.Clone(b)
		if n := len(b) - sha256.Size; n > 0 {
			sum := sha256.Sum256(b[:n])
			copy(summed[n:], sum[:])
		}
		for _, b := range [][]byte{b, summed} {
			var s secrets
			var err error
			fuzzing.Allocates(t, len(b), 2, 4<<10, func() { s, _, err = decode(b, access{}) })
			if err != nil {
				_, _, _ = decode(b, access{nil, chain}) // by a key that is there
				continue
			}
			if again, err := s.encode(nil); err != nil || !bytes.Equal(again, b) {
				t.Fatal("does not re-encode to the same bytes")
			}
		}
	})
}

func FuzzParseRecoveryCode(f *testing.F) {
	c, err := create(f).newRecoveryCode()
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{c.Reveal(), strings.ToLower(strings.ReplaceAll(c.Reveal(), "-", " "))} {
		if again, err := ParseRecoveryCode(text); err != nil || again != c {
			f.Fatalf("the seed is refused: %v", err)
		}
		f.Add(text)
	}
	f.Add(fuzzing.Canary)
	f.Fuzz(func(t *testing.T, text string) {
		var c RecoveryCode
		var err error
		fuzzing.Allocates(t, min(len(text), maxCodeText), 16, 4<<10, func() { c, err = ParseRecoveryCode(text) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again, err := ParseRecoveryCode(c.Reveal()); err != nil || again != c {
			t.Fatal("does not survive being written down")
		}
	})
}

// FuzzNames seals arbitrary bytes in place of names, as a member could that has the key. What a name may do to a terminal is
// for who prints it.
func FuzzNames(f *testing.F) {
	k := create(f)
	st, _ := foundPractice(f, k)
	if err := k.Learn(st); err != nil {
		f.Fatal(err)
	}
	o := &k.opened
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok {
		f.Fatal("no scope")
	}
	index, err := o.indexKey(scope)
	if err != nil {
		f.Fatal(err)
	}
	cipher, err := chacha20poly1305.NewX(derive(index[:], "chartmesh names 1", chacha20poly1305.KeySize))
	if err != nil {
		f.Fatal(err)
	}
	device := trust.DeviceID{7}
	open := func(plain []byte) (first, second string) {
		nonce := make([]byte, chacha20poly1305.NonceSizeX)
		sealed := cipher.Seal(nonce, nonce, plain, namesContext(st.Founding().Nonce, device))
		return o.openNames(st, device, sealed)
	}
	var w wire.Writer
	w.String(fuzzing.Canary)
	w.String("Filiale Süd")
	w.Raw(make([]byte, namesPad-len(w.Bytes())))
	if first, second := open(w.Bytes()); first != fuzzing.Canary || second != "Filiale Süd" {
		f.Fatalf("the seed opens as %q, %q", first, second)
	}
	f.Add(w.Bytes())
	f.Add([]byte("\x05\x1b[2Jx\x00"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		first, second := open(plain)
		for _, name := range []string{first, second} {
			if len(name) > trust.MaxName {
				t.Errorf("a name is %q", name)
			}
		}
		if first+second == "" {
			return
		}
		var w wire.Writer
		w.String(first)
		w.String(second)
		if !bytes.HasPrefix(plain, w.Bytes()) || strings.Trim(string(plain[len(w.Bytes()):]), "\x00") != "" {
			t.Errorf("%x was read as %q and %q", plain, first, second)
		}
	})
}
