package chunk

import (
	"bytes"
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

func someKeys(n int) *Keys {
	k := &Keys{}
	for i := range n {
		k.Epochs = append(k.Epochs, trust.PreviousEpoch{Epoch: trust.EpochID{byte(i)}, Sealed: bytes.Repeat([]byte{7}, trust.PreviousEpochSize)})
	}
	return k
}

func marshalKeys(k *Keys) []byte {
	var w wire.Writer
	k.append(&w)
	return w.Bytes()
}

// TestParseKeysRefuses holds each rule of docs/spec/chunk.md on the body of a KEYS chunk.
func TestParseKeysRefuses(t *testing.T) {
	whole := marshalKeys(someKeys(2))
	if k, err := parseKeys(whole); err != nil || len(k.Epochs) != 2 {
		t.Fatal(k, err)
	}
	if _, err := parseKeys(marshalKeys(someKeys(MaxKeys))); err != nil {
		t.Error(err)
	}
	for name, bend := range map[string]func(*Keys){
		"none":         func(k *Keys) { k.Epochs = nil },
		"too many":     func(k *Keys) { *k = *someKeys(MaxKeys + 1) },
		"out of order": func(k *Keys) { k.Epochs[0].Epoch[0] = 9 },
		"twice":        func(k *Keys) { k.Epochs[1].Epoch = k.Epochs[0].Epoch },
		"a short key":  func(k *Keys) { k.Epochs[1].Sealed = k.Epochs[1].Sealed[1:] },
	} {
		k := someKeys(2)
		bend(k)
		if k.check() == nil {
			t.Errorf("%s: it would be sealed", name)
		}
		if _, err := parseKeys(marshalKeys(k)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range whole {
		if _, err := parseKeys(whole[:i]); err == nil {
			t.Fatalf("the first %d bytes parse", i)
		}
	}
	if _, err := parseKeys(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte more parses")
	}
	ofDocument := bytes.Clone(whole)
	ofDocument[0] = 1
	if _, err := parseKeys(ofDocument); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("keys of a document: %v", err)
	}
	later := bytes.Clone(whole)
	later[32] = keysVersion + 1
	if _, err := parseKeys(later); !errors.Is(err, ErrNewer) || errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a later version's keys: %v", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	named := someKeys(2)
	copy(named.Epochs[1].Epoch[1:], fuzzing.Canary)
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := parseKeys(b)
		return err
	}, marshalKeys(named), marshalKeys(someKeys(1)))
	claims := marshalKeys(someKeys(1))
	f.Add(append(claims[:33:33], MaxKeys)) // and nothing behind
	f.Fuzz(func(t *testing.T, b []byte) {
		var k *Keys
		var err error
		fuzzing.Allocates(t, len(b), 8, 16<<10, func() { k, err = parseKeys(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(marshalKeys(k), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
