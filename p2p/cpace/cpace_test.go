package cpace

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bwesterb/go-ristretto"

	"chartmesh/internal/fuzzing"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type party struct{ Said, Secret, Share hexBytes }

// TestVectors holds every step against the draft's vectors.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/ristretto255.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Password, Channel, SID, Hash, Generator, Transcript, Key hexBytes

		GeneratorString hexBytes `json:"generator_string"`
		Initiator       party
		Responder       party
		Multiplied      struct{ Secret, Element, Product hexBytes }
		Invalid         []hexBytes
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	same := func(what string, got, want []byte) {
		t.Helper()
		if len(want) == 0 || string(got) != string(want) {
			t.Errorf("%s is %x, not %x", what, got, want)
		}
	}
	text := generatorString(v.Password, v.Channel, v.SID)
	same("generator string", text, v.GeneratorString)
	hash := sha512.Sum512(text)
	same("its hash", hash[:], v.Hash)
	var g ristretto.Point
	same("generator", g.DeriveDalek(text).Bytes(), v.Generator)

	scalar := func(b hexBytes) (s ristretto.Scalar) {
		if !s.SetBytesStrict((*[32]byte)(b)) {
			t.Fatal("a vector's scalar does not read")
		}
		return s
	}
	a := begin(v.Password, v.Channel, v.SID, scalar(v.Initiator.Secret))
	b := begin(v.Password, v.Channel, v.SID, scalar(v.Responder.Secret))
	same("initiator's share", a.share[:], v.Initiator.Share)
	same("responder's share", b.share[:], v.Responder.Share)
	same("transcript", transcript(a.share, v.Initiator.Said, b.share, v.Responder.Said), v.Transcript)
	keyA, errA := a.Initiated(v.Initiator.Said, b.Share(), v.Responder.Said)
	keyB, errB := b.Responded(v.Responder.Said, a.Share(), v.Initiator.Said)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	same("initiator's key", keyA[:], v.Key)
	same("responder's key", keyB[:], v.Key)

	var p ristretto.Point
	if !p.SetBytes((*[32]byte)(v.Multiplied.Element)) {
		t.Fatal("a vector's element does not read")
	}
	s := scalar(v.Multiplied.Secret)
	same("product", p.ScalarMult(&p, &s).Bytes(), v.Multiplied.Product)
	if len(v.Invalid) != 2 {
		t.Fatal("the vectors have lost the invalid shares")
	}
	for _, share := range v.Invalid {
		if _, err := a.Initiated(nil, Share(share), nil); !errors.Is(err, ErrShare) {
			t.Errorf("share %x: %v", share, err)
		}
	}
}

// TestBound: whatever one side has otherwise than the other, their keys differ.
func TestBound(t *testing.T) {
	type side struct{ password, channel, sid, a, b string }
	keys := func(x, y side, tamper func(*Share)) (Key, Key) {
		t.Helper()
		first := Begin([]byte(x.password), []byte(x.channel), []byte(x.sid))
		second := Begin([]byte(y.password), []byte(y.channel), []byte(y.sid))
		seen := first.Share()
		tamper(&seen)
		keyX, errX := first.Initiated([]byte(x.a), second.Share(), []byte(x.b))
		keyY, errY := second.Responded([]byte(y.b), seen, []byte(y.a))
		if errX != nil || errY != nil {
			t.Fatal(errX, errY)
		}
		return keyX, keyY
	}
	keep := func(*Share) {}
	base := side{"password", "channel", "session", "said a", "said b"}
	if x, y := keys(base, base, keep); x != y {
		t.Fatal("two who know the same have different keys")
	}
	x1, _ := keys(base, base, keep)
	if x2, _ := keys(base, base, keep); x1 == x2 {
		t.Error("two runs have the same key")
	}
	for name, other := range map[string]side{
		"password": {"passwore", "channel", "session", "said a", "said b"},
		"channel":  {"password", "channek", "session", "said a", "said b"},
		"session":  {"password", "channel", "sessiom", "said a", "said b"},
		"said a":   {"password", "channel", "session", "said A", "said b"},
		"said b":   {"password", "channel", "session", "said a", "said B"},
		"borders":  {"passwordc", "hannel", "session", "said a", "said b"},
	} {
		if x, y := keys(base, other, keep); x == y {
			t.Errorf("%s differs, and the keys do not", name)
		}
	}
	stranger := Begin([]byte("guess"), []byte("channel"), []byte("session"))
	if x, y := keys(base, base, func(s *Share) { *s = stranger.Share() }); x == y {
		t.Error("a share was replaced, and the keys are the same")
	}
}

// TestQuiet: no verb prints a secret.
func TestQuiet(t *testing.T) {
	e := Begin([]byte("password"), nil, []byte("sid"))
	key, err := e.Initiated(nil, Begin([]byte("password"), nil, []byte("sid")).Share(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
		if got := fmt.Sprintf(verb+verb, e, key); got != "[exchange][key]" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if strings.Contains(fmt.Sprint(ErrShare), "[") {
		t.Error("an error quotes what came")
	}
}

// FuzzShare takes shares from anybody: what is taken is the one encoding of an element, and not the neutral one.
func FuzzShare(f *testing.F) {
	e := Begin([]byte("password"), []byte("channel"), []byte("session"))
	good := Begin([]byte("guess"), nil, nil).Share()
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := e.Responded(nil, Share(b), nil)
		return err
	}, good[:])
	f.Add(make([]byte, ShareSize))
	f.Add([]byte(strings.Repeat("\xff", ShareSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != ShareSize {
			return
		}
		key, err := e.Responded(nil, Share(b), nil)
		fuzzing.Quiet(t, err)
		if err != nil {
			if key != (Key{}) {
				t.Error("a key beside an error")
			}
			return
		}
		var p ristretto.Point
		if !p.SetBytes((*[ShareSize]byte)(b)) || string(p.Bytes()) != string(b) || p.Equals(new(ristretto.Point).SetZero()) {
			t.Errorf("%x was taken", b)
		}
	})
}
