package crdt

import (
	"slices"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	h := func(b ...byte) (h ChangeHash) { copy(h[:], b); return h }
	four := []ChangeHash{h(1), h(2), h(3), h(4)}
	for _, tt := range []struct {
		heads []ChangeHash
		want  string
	}{
		{nil, ""},
		{[]ChangeHash{h(0xab, 1)}, "ab01000000000000"},
		{[]ChangeHash{h(2), h(1), h(2)}, "0100000000000000.0200000000000000"},
		{four, "x" + Version(four)[1:]},
		{four[:3], "0100000000000000.0200000000000000.0300000000000000"},
	} {
		got := Version(tt.heads)
		if got != tt.want {
			t.Errorf("version %q, want %q", got, tt.want)
		}
		prefixes, ok := ParseVersion(got)
		if ok != (len(tt.heads) > 0) {
			t.Errorf("version %q parsed: %v", got, ok)
		}
		different := map[ChangeHash]bool{}
		for _, h := range tt.heads {
			different[h] = true
		}
		if n := len(different); n <= 3 && len(prefixes) != n {
			t.Errorf("version %q has %d prefixes", got, len(prefixes))
		}
	}
	if len(Version(four)) != 33 {
		t.Errorf("folded version %q", Version(four))
	}
	one := "0100000000000000"
	for _, bad := range []string{
		"", "x", "x12", "0", one + ".", "." + one, "0200000000000000." + one, strings.ToUpper("ab01000000000000"), "1",
		one + "00", strings.Join([]string{one, one, one, one}, "."), "x" + strings.Repeat("AB", 16),
		"W/" + one,
	} {
		if _, ok := ParseVersion(bad); ok {
			t.Errorf("%q parsed", bad)
		}
	}
}

func TestResolveVersion(t *testing.T) {
	x := NewIndex(DocumentID{})
	same := func(actor byte, seq, start uint64, deps ...ChangeHash) ChangeHash {
		return added(t, x, newChange(actor, seq, start, deps, makeAt(OpID{}, "Patient/1", Map)))
	}
	a := same(1, 1, 1)
	b, c := same(2, 1, 2, a), same(3, 1, 2, a)
	d := added(t, x, newChange(4, 1, 2, []ChangeHash{a}, makeAt(OpID{}, "Patient/2", Map)))
	sorted := x.HeadsOf([]ChangeHash{c, b})
	for _, heads := range [][]ChangeHash{{a}, {b}, {c}, sorted} {
		if got, ok := x.ResolveVersion("Patient/1", Version(heads)); !ok || !slices.Equal(got, heads) {
			t.Errorf("version of %v: %v, %v", heads, got, ok)
		}
	}
	for _, heads := range [][]ChangeHash{{d}, {a, b}, {{9}}, nil, {a, b, c, d}} {
		if got, ok := x.ResolveVersion("Patient/1", Version(heads)); ok {
			t.Errorf("version of %v: %v", heads, got)
		}
	}
	e, f := same(5, 1, 2, a), same(6, 1, 2, a)
	folded := Version([]ChangeHash{b, c, e, f})
	if got, ok := x.ResolveVersion("Patient/1", folded); !ok || len(got) != 4 {
		t.Errorf("present folded version: %v, %v", got, ok)
	}
	same(1, 2, 3, b, c, e, f)
	if got, ok := x.ResolveVersion("Patient/1", folded); ok {
		t.Errorf("past folded version: %v", got)
	}
}
