package chunk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"chartmesh/chunk"
)

const decisionFile = "testdata/decision.json"

type decisionVectors struct {
	Comment   string           `json:"comment"`
	Decisions []decisionVector `json:"decisions"`
}

type decisionVector struct {
	Name     string     `json:"name"`
	Bytes    hexBytes   `json:"bytes"`
	ID       hexBytes   `json:"id"`
	Body     hexBytes   `json:"body"`
	Log      hexBytes   `json:"log"`
	Counter  uint64     `json:"counter"`
	Chunk    hexBytes   `json:"chunk"`
	Verdict  uint8      `json:"verdict"`
	Time     int64      `json:"time_millis"`
	User     string     `json:"user"`
	Reason   string     `json:"reason"`
	Replaces []hexBytes `json:"replaces"`
}

// TestDecisionVectors opens the vectors and compares every field and the plain body with the file.
func TestDecisionVectors(t *testing.T) {
	m := readMembership(t)
	if *update {
		writeDecisionVectors(t, m)
	}
	var v decisionVectors
	readJSON(t, decisionFile, &v)
	if len(v.Decisions) != 2 {
		t.Fatal("the file is not whole")
	}
	for _, x := range v.Decisions {
		s, err := chunk.Parse(x.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got := describeDecision(t, m, s)
		got.Name = x.Name
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(x)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: got\n%s\nwant\n%s", x.Name, a, b)
		}
	}
}

func describeDecision(t *testing.T, m *membership, s chunk.Sealed) decisionVector {
	t.Helper()
	if err := s.Verify(m.state); err != nil {
		t.Fatal(err)
	}
	b, err := chunk.Open(m.keys[0], s)
	if err != nil {
		t.Fatal(err)
	}
	d, id := b.(*chunk.Decision), s.ID()
	x := decisionVector{Bytes: s.Bytes(), ID: id[:], Body: chunk.Plain(b), Log: d.Log[:], Counter: d.Counter, Chunk: d.Chunk[:],
		Verdict: uint8(d.Verdict), Time: d.TimeMillis, User: d.User, Reason: d.Reason, Replaces: []hexBytes{}}
	for _, r := range d.Replaces {
		x.Replaces = append(x.Replaces, r[:])
	}
	return x
}

func writeDecisionVectors(t *testing.T, m *membership) {
	k := m.keys[1]
	params := chunk.Params{Membership: m.state, Scope: m.clinical, Log: chunk.CurrentLog(k), Counter: 1}
	v := decisionVectors{Comment: "DECISION 1. The practice is that of trust/testdata/membership-log.json; the writer is its " +
		"second device, and what is decided on is made up."}
	for i, name := range []string{"discard", "release instead"} {
		d := &chunk.Decision{Log: log(9), Counter: 300, Chunk: id(8), Verdict: chunk.VerdictDiscard, TimeMillis: now.UnixMilli(),
			User: "Dr. Özil", Reason: "a copy of what is there"}
		if i == 1 {
			d.Verdict, d.Reason, d.Replaces = chunk.VerdictRelease, "it is not", []chunk.ID{params.Previous}
		}
		s := seal(t, practice{}, k, params, d)
		x := describeDecision(t, m, s)
		x.Name = name
		v.Decisions = append(v.Decisions, x)
		params.Counter, params.Previous = params.Counter+1, s.ID()
	}
	writeJSON(t, decisionFile, v)
}

// TestSealDecision seals what a person decided; what would not parse is not sealed, and nothing prints the words.
func TestSealDecision(t *testing.T) {
	p := newPractice(t)
	d := &chunk.Decision{Log: log(1), Counter: 1, Chunk: id(1), Verdict: chunk.VerdictRelease, User: "Canary", Reason: "Canary"}
	s := seal(t, p, p.member, p.params(p.member), d)
	if s.Header().Kind != chunk.KindDecision || s.Header().Schema != 0 {
		t.Errorf("header %+v", s.Header())
	}
	b, err := chunk.Open(p.admin, s)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.(*chunk.Decision); got.Chunk != d.Chunk || got.User != "Canary" || got.Verdict != chunk.VerdictRelease {
		t.Error("it opens to something else")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if strings.Contains(fmt.Sprintf(verb, b), "Canary") {
			t.Errorf("%s prints a name", verb)
		}
	}
	d.Verdict = 9
	if _, err := chunk.Seal(p.member, p.params(p.member), d); err == nil {
		t.Error("an unknown verdict was sealed")
	}
	// Another's DECISION kind over a body that is none.
	torn := seal(t, p, p.member, p.params(p.member), &chunk.Opaque{Type: chunk.KindDecision, Content: []byte{1, 2}})
	if _, err := chunk.Open(p.admin, torn); !errors.Is(err, chunk.ErrDamaged) {
		t.Errorf("a malformed decision opens: %v", err)
	}
	later := seal(t, p, p.member, p.params(p.member), &chunk.Opaque{Type: chunk.KindDecision, Content: []byte{2}})
	if _, err := chunk.Open(p.admin, later); !errors.Is(err, chunk.ErrNewer) || errors.Is(err, chunk.ErrDamaged) {
		t.Errorf("a later version's decision: %v", err)
	}
}
