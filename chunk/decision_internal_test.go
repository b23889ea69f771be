package chunk

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"chartmesh/wire"
)

func decision() *Decision {
	return &Decision{
		Log: LogID{1}, Counter: 7, Chunk: ID{2}, Verdict: VerdictDiscard, TimeMillis: -5, User: "Ärztin", Reason: "doppelt",
		Replaces: []ID{{3}, {4}},
	}
}

func marshal(d *Decision) []byte {
	var w wire.Writer
	d.append(&w)
	return w.Bytes()
}

// TestParseDecisionRefuses holds each rule of docs/spec/chunk.md on the body of a DECISION.
func TestParseDecisionRefuses(t *testing.T) {
	if _, err := parseDecision(marshal(decision())); err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(*Decision){
		"no counter":              func(d *Decision) { d.Counter = 0 },
		"no verdict":              func(d *Decision) { d.Verdict = 0 },
		"unknown verdict":         func(d *Decision) { d.Verdict = 3 },
		"long user":               func(d *Decision) { d.User = strings.Repeat("u", MaxAuthor+1) },
		"user with an escape":     func(d *Decision) { d.User = "\x1b[2J" },
		"user that is no UTF-8":   func(d *Decision) { d.User = "\xff" },
		"long reason":             func(d *Decision) { d.Reason = strings.Repeat("r", MaxReason+1) },
		"reason of several lines": func(d *Decision) { d.Reason = "a\nb" },
		"replaces out of order":   func(d *Decision) { d.Replaces = []ID{{4}, {3}} },
		"replaces one twice":      func(d *Decision) { d.Replaces = []ID{{3}, {3}} },
		"replaces too many":       func(d *Decision) { d.Replaces = make([]ID, MaxReplaces+1) },
	} {
		d := decision()
		bend(d)
		if d.check() == nil {
			t.Errorf("%s: it would be sealed", name)
		}
		if _, err := parseDecision(marshal(d)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := marshal(decision())
	for i := range whole {
		if _, err := parseDecision(whole[:i]); err == nil {
			t.Fatalf("the first %d bytes parse", i)
		}
	}
	if _, err := parseDecision(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte more parses")
	}
	ofDocument := bytes.Clone(whole)
	ofDocument[0] = 1
	if _, err := parseDecision(ofDocument); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a decision of a document: %v", err)
	}
	later := bytes.Clone(whole)
	later[32] = decisionVersion + 1
	if _, err := parseDecision(later); !errors.Is(err, ErrNewer) || errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a later version's decision: %v", err)
	}
}

func FuzzParseDecision(f *testing.F) {
	least := decision()
	least.User, least.Reason, least.Replaces = "", "", nil
	for _, d := range []*Decision{decision(), least} {
		f.Add(marshal(d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDecision(b)
		if err == nil && !bytes.Equal(marshal(d), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
