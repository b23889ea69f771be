package p2p

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p/cpace"
	"chartmesh/trust"
)

var (
	exchangeLog  = [][]byte{[]byte("founding entry"), []byte("added")}
	exchangeSays = Newcomer{Device: trust.DeviceID{2}, HPKE: []byte("public key"), DeviceName: "reception", SiteName: fuzzing.Canary}
	exchangeHost = trust.DeviceID{1}
)

// wires are the two ends of a connection between which somebody may stand.
type wires struct {
	seenAs, dialled trust.DeviceID // the newcomer as the inviter sees it, the inviter as the newcomer does
	change          func(step int, b []byte) []byte
}

// run goes through an exchange and returns what each side thinks of the other.
func (w wires) run(asks, has JoinKey) (transcript [][]byte, entries [][]byte, errInviter, errNewcomer error) {
	pass := func(b []byte) []byte {
		if w.change != nil {
			b = w.change(len(transcript), bytes.Clone(b))
		}
		transcript = append(transcript, b)
		return b
	}
	inv := Invitation{ID: InviteID{7}, Key: asks, Spoken: true}
	terms := Terms{Key: has, Role: trust.RoleMember, Founding: sha256.Sum256(exchangeLog[0]), HPKE: [32]byte{9}}
	a := ask(inv, w.dialled, exchangeSays, [16]byte{3})
	first := pass(a.hello)
	m, err := parseHello(first)
	if err != nil {
		return transcript, nil, err, nil
	}
	b := challengeTo(first, m, terms, exchangeHost, w.seenAs)
	said, err := a.prove(pass(b.challenge), exchangeSays)
	if err != nil {
		return transcript, nil, nil, err
	}
	p, err := parseProof(pass(said))
	if err != nil {
		return transcript, nil, err, nil
	}
	if errInviter = b.judge(p); errInviter == nil && (b.newcomer.Device != exchangeSays.Device || !slices.Equal(b.newcomer.HPKE, exchangeSays.HPKE)) {
		errInviter = errors.New("another newcomer")
	}
	b.proven = errInviter == nil
	last := answer{kind: saysWelcome, entries: exchangeLog}
	entries, _, errNewcomer = a.hear(pass(b.say(last)))
	return transcript, entries, errInviter, errNewcomer
}

// TestExchangeBinds: whoever stands between the two, or changes any byte of what they agree on, has both fail. The inviter
// has judged before it says anything that depends on the secret.
func TestExchangeBinds(t *testing.T) {
	key, other := JoinKey{1}, JoinKey{2}
	straight := wires{seenAs: exchangeSays.Device, dialled: exchangeHost}
	good, entries, errI, errN := straight.run(key, key)
	if errI != nil || errN != nil || !slices.EqualFunc(entries, exchangeLog, bytes.Equal) {
		t.Fatalf("%v, %v, %d entries", errI, errN, len(entries))
	}
	fails := func(what string, w wires, asks, has JoinKey, both bool) {
		t.Helper()
		_, entries, errI, errN := w.run(asks, has)
		if entries != nil || errI == nil && errN == nil || both && (errI == nil || errN == nil) {
			t.Errorf("%s: %v, %v, %d entries", what, errI, errN, len(entries))
		}
	}
	fails("wrong secret", straight, other, key, true)
	// A man in the middle ends both connections with a device of his own.
	middle := trust.DeviceID{66}
	fails("newcomer replaced", wires{seenAs: middle, dialled: exchangeHost}, key, key, true)
	fails("inviter replaced", wires{seenAs: exchangeSays.Device, dialled: middle}, key, key, true)
	fails("both replaced", wires{seenAs: middle, dialled: middle}, key, key, true)
	for step, message := range good {
		for at := range message {
			w := straight
			w.change = func(n int, b []byte) []byte {
				if n == step {
					b[at] ^= 1
				}
				return b
			}
			if step < 2 { // what both are bound to: fields, keys, role, founding entry, shares
				_, entries, errI, errN := w.run(key, key)
				if entries != nil || errI == nil && errN == nil {
					t.Errorf("byte %d of message %d changed: %v, %v", at, step, errI, errN)
				}
			} else {
				fails("a byte of a later message", w, key, key, false)
			}
		}
	}
}

// TestTranscriptTellsNothing: what crosses the wire is group elements, public values, and what is made under the key of that
// very run. The same secret says something else each time, and a transcript of a right secret cannot be told from that of a
// wrong one by trying secrets on it: whoever tries has no exponent, and with one of its own gets another key.
func TestTranscriptTellsNothing(t *testing.T) {
	key, other := JoinKey{1}, JoinKey{2}
	w := wires{seenAs: exchangeSays.Device, dialled: exchangeHost}
	one, _, _, _ := w.run(key, key)
	two, _, _, _ := w.run(key, key)
	wrong, _, errI, _ := w.run(other, key)
	if errI == nil {
		t.Fatal("a wrong secret was taken")
	}
	for i := range one {
		if bytes.Equal(one[i], two[i]) {
			t.Errorf("message %d is the same in two runs", i)
		}
		if len(one[i]) != len(wrong[i]) {
			t.Errorf("message %d has %d bytes with the right secret, %d with a wrong one", i, len(one[i]), len(wrong[i]))
		}
		if bytes.Contains(one[i], []byte(exchangeSays.DeviceName)) || bytes.Contains(one[i], []byte(exchangeSays.SiteName)) || bytes.Contains(one[i], key[:]) {
			t.Errorf("message %d holds what is not public", i)
		}
	}
	// A listener who guesses right: it has every message, and the secret, and still not the key of the run.
	m, err := parseHello(one[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseChallenge(one[1])
	if err != nil {
		t.Fatal(err)
	}
	p, err := parseProof(one[2])
	if err != nil {
		t.Fatal(err)
	}
	guess := cpace.Begin(key[:], channel(w.seenAs, w.dialled), m.session[:])
	for _, try := range []func() (cpace.Key, error){
		func() (cpace.Key, error) { return guess.Initiated(one[0], c.share, one[1]) },
		func() (cpace.Key, error) { return guess.Responded(one[1], m.share, one[0]) },
	} {
		k, err := try()
		if err != nil {
			t.Fatal(err)
		}
		keys, err := keysFrom(k)
		if err != nil {
			t.Fatal(err)
		}
		if mac(keys.newcomer, p.names) == p.mac {
			t.Error("a listener verified a guess")
		}
	}
}

func TestWords(t *testing.T) {
	if len(wordList) != 1<<wordBits || !slices.IsSorted(wordList) {
		t.Fatalf("%d words", len(wordList))
	}
	w, err := NewWords(strings.NewReader("\xff\xff\xff\xff\xff\xff\xff\xff"))
	if err != nil {
		t.Fatal(err)
	}
	const text = "zoo zoo zoo zoo"
	if got := w.Text(); !strings.HasPrefix(got, text) || LocatorWords(w.Locator) != "zoo-zoo" {
		t.Errorf("%s, %s", got, LocatorWords(w.Locator))
	}
	w, err = NewWords(strings.NewReader("01234567"))
	if err != nil {
		t.Fatal(err)
	}
	full := w.Text()
	if want := "shadow edit box sugar wait"; full != want {
		t.Errorf("the words are now %q", full)
	}
	short := ""
	for i, f := range strings.Fields(full) {
		short += strings.ToUpper(f[:min(4, len(f))]) + []string{" ", "-", ", ", "  \t", "\n"}[i]
	}
	for _, typed := range []string{full, short} {
		if got, err := ParseWords(typed); err != nil || got != w {
			t.Errorf("%q: %v", typed, err)
		}
	}
	if a, b := w.Invitation(), w.Invitation(); a.ID != b.ID || a.Key != b.Key || !a.Spoken || a.Key == (JoinKey{}) {
		t.Error("an invitation is not what the words say")
	}
	// A misheard word, and two that were exchanged, are noticed but for one in 256.
	missed, tried := 0, 0
	fields := strings.Fields(full)
	for i := range fields {
		for _, other := range wordList {
			if other == fields[i] {
				continue
			}
			heard := slices.Clone(fields)
			heard[i] = other
			tried++
			if _, err := ParseWords(strings.Join(heard, " ")); err == nil {
				missed++
			} else if !errors.Is(err, ErrWords) {
				t.Fatal(err)
			}
		}
	}
	if missed*128 > tried {
		t.Errorf("%d of %d misheard words were not noticed", missed, tried)
	}
	for _, bad := range []string{"", "zoo", full + " zoo", "a b c d e", "zzz zoo zoo zoo zoo", strings.Repeat("zoo ", 400)} {
		if _, err := ParseWords(bad); !errors.Is(err, ErrWords) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseWords(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := ParseWords(string(b)); return err },
		[]byte(Words{}.Text()), []byte(Words{Locator: 1<<22 - 1, secret: 1<<25 - 1}.Text()), []byte(strings.ToUpper(Words{Locator: 5, secret: 77}.Text())))
	f.Add([]byte(fuzzing.Canary))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w Words
		var err error
		fuzzing.Allocates(t, len(b), 80, 16<<10, func() { w, err = ParseWords(string(b)) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again, err := ParseWords(w.Text()); err != nil || again != w {
			t.Errorf("%q becomes %q", b, w.Text())
		}
	})
}

func FuzzJoinMessages(f *testing.F) {
	forms := []func([]byte) ([]byte, error){
		func(b []byte) ([]byte, error) { m, err := parseHello(b); return m.encode(), err },
		func(b []byte) ([]byte, error) {
			m, err := parseChallenge(b)
			if why, ok := errors.AsType[Refusal](err); ok {
				return encodeRefusal(why), nil
			}
			return m.encode(), err
		},
		func(b []byte) ([]byte, error) { m, err := parseProof(b); return m.encode(), err },
		func(b []byte) ([]byte, error) {
			m, said, err := parseAnswer(b)
			if m.kind == saysRefused {
				return encodeRefusal(m.why), err
			}
			return slices.Concat([]byte{m.kind}, said[:], m.body()), err
		},
	}
	messages, _, _, _ := wires{seenAs: exchangeSays.Device, dialled: exchangeHost}.run(JoinKey{1}, JoinKey{1})
	var seeds [][]byte
	for i, m := range messages {
		seeds = append(seeds, append([]byte{byte(i)}, m...))
	}
	var a answering
	seeds = append(seeds, append([]byte{3}, a.say(answer{kind: saysWaiting})...), append([]byte{3}, a.say(answer{kind: saysDenied, why: RefusedUsed})...),
		append([]byte{1}, encodeRefusal(RefusedTries)...), append([]byte{3}, encodeRefusal(RefusedUnknown)...))
	fuzzing.Seeds(f, func(b []byte) error {
		again, err := forms[b[0]](b[1:])
		if err == nil && !bytes.Equal(again, b[1:]) {
			err = errors.New("comes back as something else")
		}
		return err
	}, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || int(b[0]) >= len(forms) {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 80, 8<<10, func() { again, err = forms[b[0]](b[1:]) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b[1:]) {
			t.Fatalf("%x becomes %x", b, again)
		}
	})
}
