package certificate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
)

// change is one of a history that is written as "a b<a c<a,b@1.7": what it builds on, and its token.
type change struct {
	name  string
	deps  []string
	token lockquorum.Token
}

func named(name string) certificate.Hash { return certificate.Hash{name[0]} }

func history(t *testing.T, text string) (list []change) {
	t.Helper()
	for _, field := range strings.Fields(text) {
		var c change
		rest, token, _ := strings.Cut(field, "@")
		c.name, rest, _ = strings.Cut(rest, "<")
		if rest != "" {
			c.deps = strings.Split(rest, ",")
		}
		if token != "" {
			if _, err := fmt.Sscanf(token, "%d.%d", &c.token.Epoch, &c.token.Index); err != nil {
				t.Fatalf("%s: %v", field, err)
			}
		}
		list = append(list, c)
	}
	return list
}

func dependencies(list []change) func(certificate.Hash) ([]certificate.Hash, bool) {
	return func(h certificate.Hash) (deps []certificate.Hash, held bool) {
		i := slices.IndexFunc(list, func(c change) bool { return named(c.name) == h })
		if i < 0 {
			return nil, false
		}
		for _, d := range list[i].deps {
			deps = append(deps, named(d))
		}
		return deps, true
	}
}

// say returns a statement, written as "place token how heads@under.at": "1.9 1.5 held b@1.5/1.7".
func say(t *testing.T, text string) certificate.Certified {
	t.Helper()
	var c certificate.Certified
	fields := strings.Fields(text)
	number := func(s string) (p lockquorum.Place) {
		if _, err := fmt.Sscanf(s, "%d.%d", &p.Epoch, &p.Index); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return p
	}
	c.Place = number(fields[0])
	if fields[1] != "-" {
		c.Token = number(fields[1])
	}
	if end, ended := strings.CutPrefix(fields[2], "ended:"); ended {
		c.How, c.EndedAt = lockquorum.SealReleased, number(end)
	}
	if len(fields) > 3 {
		names, rest, _ := strings.Cut(fields[3], "@")
		under, at, _ := strings.Cut(rest, "/")
		for n := range strings.SplitSeq(names, ",") {
			c.Plain = append(c.Plain, named(n))
		}
		c.Heads, c.Under, c.At = heads(c.Plain...), number(under), number(at)
	}
	c.Document, c.Lock, c.Practice = key.Document(document), key.Lock(lock), practice
	return c
}

// shown writes a judgement as "a:accepted b:pending".
func shown(changes []change, j *certificate.Judgement) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.name+":"+j.Of(named(c.name), c.token).String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, changes string
		says          []string
		want          string
	}{
		{"nothing is certified", "a@1.5 b<a@1.5", nil, "a:pending b:pending"},
		{"without a lease", "a b@1.5", nil, "a:late b:pending"},
		{"a lease is held", "a@1.5 b<a@1.5 c<b@1.4", []string{"1.6 1.5 held"}, "a:pending b:pending c:late"},
		{"heads are certified", "a@1.5 b<a@1.5 c<b@1.5", []string{"1.8 1.5 held b@1.5/1.7"}, "a:accepted b:accepted c:pending"},
		{"the lease has ended", "a@1.5 b<a@1.5 c<b@1.5", []string{"1.9 1.5 ended:1.9 b@1.5/1.7"}, "a:accepted b:accepted c:late"},
		{"another has a lease", "a@1.5 c<a@1.5 d<a@1.10 e<a@1.11", []string{"1.10 1.10 held a@1.5/1.7"}, "a:accepted c:late d:pending e:pending"},
		{"late work that somebody built on", "a@1.5 c<a@1.5 d<c@1.10", []string{"1.12 1.10 held d@1.10/1.12"}, "a:accepted c:accepted d:accepted"},
		{"a certificate before its changes", "a@1.5 b<a@1.5 c<a@1.4",
			[]string{"1.8 1.5 held a@1.5/1.7", "1.12 1.10 held z@1.10/1.12"}, "a:accepted b:pending c:pending"},
		{"without an ancestor", "a@1.5 z<y@1.10", []string{"1.8 1.5 held a@1.5/1.7", "1.12 1.10 held z@1.10/1.12"}, "a:accepted z:pending"},
		{"taken back by a break", "a@1.5 b<a@1.8", []string{"1.9 1.8 held b@1.8/1.9", "1.10 1.8 ended:1.10 a@1.8/1.10"}, "a:accepted b:late"},
		{"of an epoch that is over", "a@1.5 b<a@1.9 c<a@2.3", []string{"1.8 1.5 held a@1.5/1.7", "2.1 - held"}, "a:accepted b:late c:pending"},
		{"a quorum that knows less", "a@1.5 b<a@1.5", []string{"1.8 1.5 held b@1.5/1.8", "2.3 2.3 held a@1.5/1.7"}, "a:accepted b:accepted"},
		{"packed", "a b<a c<b", []string{"1.8 1.5 ended:1.8 b@1.5/1.7"}, "a:accepted b:accepted c:late"},
		{"two say otherwise", "a@1.5 b<a@1.8 c<a@1.8",
			[]string{"1.6 1.5 held a@1.5/1.6", "1.9 1.8 held b@1.8/1.9", "1.9 1.8 held c@1.8/1.9"}, "a:accepted b:pending c:pending"},
		{"and a third settles it", "a@1.5 b<a@1.8 c<a@1.8",
			[]string{"1.6 1.5 held a@1.5/1.6", "1.9 1.8 held b@1.8/1.9", "1.9 1.8 held c@1.8/1.9", "1.11 1.8 ended:1.11 b@1.8/1.10"},
			"a:accepted b:accepted c:late"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := history(t, c.changes)
			var list []certificate.Certified
			for _, s := range c.says {
				list = append(list, say(t, s))
			}
			if got := shown(changes, certificate.Judge(dependencies(changes), list)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			slices.Reverse(list)
			if got := shown(changes, certificate.Judge(dependencies(changes), list)); got != c.want {
				t.Errorf("the other way round: %s, want %s", got, c.want)
			}
		})
	}
}

// TestHonestVotersDoNotContradict: what is said along one log goes together.
func TestHonestVotersDoNotContradict(t *testing.T) {
	list := life(t)
	j := certificate.Judge(func(certificate.Hash) ([]certificate.Hash, bool) { return nil, true }, list)
	for i, bad := range j.Contradicted {
		if bad {
			t.Errorf("statement %d is contradicted", i)
		}
	}
	if !j.Accepted(certificate.Hash{1}) || j.Accepted(certificate.Hash{2}) {
		t.Error("a break did not take the last heads back")
	}
}

// draw draws a well-formed statement out of few, so that many meet.
func draw(rng *rand.Rand, plain []certificate.Hash) certificate.Certified {
	for {
		c := drawAny(rng, plain)
		if _, err := certificate.Parse(c.Marshal()); err == nil {
			return c
		}
	}
}

func drawAny(rng *rand.Rand, plain []certificate.Hash) (c certificate.Certified) {
	small := func() lockquorum.Place { return lockquorum.Place{Epoch: 1 + rng.Uint64N(2), Index: 1 + rng.Uint64N(6)} }
	c.Place, c.Token = small(), small()
	if c.Chain[0] = byte(rng.IntN(8) / 7); rng.IntN(2) == 0 {
		c.How, c.EndedAt = lockquorum.How(1+rng.IntN(2)), small()
	}
	if rng.IntN(3) > 0 {
		c.Plain = []certificate.Hash{plain[rng.IntN(len(plain))]}
		c.Heads, c.Under, c.At = heads(c.Plain...), small(), small()
		c.Previous[0] = byte(rng.IntN(8) / 7)
	}
	return c
}

// TestContradictedTwin holds the fast way to find contradictions against that of looking at all pairs.
func TestContradictedTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	plain := []certificate.Hash{{1}, {2}, {3}}
	none := func(certificate.Hash) ([]certificate.Hash, bool) { return nil, true }
	found := 0
	for n := range 4_000 {
		list := make([]certificate.Certified, rng.IntN(6))
		for i := range list {
			list[i] = draw(rng, plain)
		}
		if len(list) > 2 {
			list[0] = list[1]
		}
		j := certificate.Judge(none, list)
		for i := range list {
			want := slices.ContainsFunc(list, func(o certificate.Certified) bool { return certificate.Contradict(&list[i].Statement, &o.Statement) })
			if j.Contradicted[i] != want {
				t.Fatalf("round %d: statement %d of %+v is contradicted: %v", n, i, list, want)
			}
			if want {
				found++
			}
		}
	}
	if found < 500 {
		t.Errorf("%d contradictions", found)
	}
}

// TestOrderDoesNotMatter (I3): whatever order changes and statements come in, lying ones among them, all that hold the same say the same; and
// accepted is exactly what the certified heads have among their ancestors.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var changes []change
		names := "abcdefghijklmnop"
		for i := range 4 + rng.IntN(10) {
			c := change{name: names[i : i+1], token: lockquorum.Token{Epoch: 1 + rng.Uint64N(2), Index: 1 + rng.Uint64N(6)}}
			if rng.IntN(8) == 0 {
				c.token = lockquorum.Token{}
			}
			for range rng.IntN(3) {
				if i > 0 {
					d := rng.IntN(i)
					c.deps = append(c.deps, names[d:d+1])
				}
			}
			changes = append(changes, c)
		}
		var plain []certificate.Hash
		for _, c := range changes {
			plain = append(plain, named(c.name))
		}
		list := make([]certificate.Certified, rng.IntN(5))
		for i := range list {
			list[i] = draw(rng, plain)
		}
		want := shown(changes, certificate.Judge(dependencies(changes), list))
		j := certificate.Judge(dependencies(changes), list)
		for range 8 {
			rng.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
			rng.Shuffle(len(changes), func(i, k int) { changes[i], changes[k] = changes[k], changes[i] })
			if got := shown(changes, certificate.Judge(dependencies(changes), list)); got != want {
				t.Fatalf("seed %d: %s, and in another order %s", seed, want, got)
			}
		}
		accepted := map[certificate.Hash]bool{}
		var walk func(h certificate.Hash)
		walk = func(h certificate.Hash) {
			accepted[h] = true
			deps, _ := dependencies(changes)(h)
			for _, d := range deps {
				walk(d)
			}
		}
		for _, h := range j.Heads {
			walk(h)
		}
		if j.Len() != len(accepted) {
			t.Fatalf("seed %d: %d are accepted, and %d certified", seed, j.Len(), len(accepted))
		}
		for h := range accepted {
			if !j.Accepted(h) {
				t.Fatalf("seed %d: %v is certified, and not accepted", seed, h)
			}
		}
	}
}
