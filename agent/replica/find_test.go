package replica_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/storage"
)

// findSlowly is Find's slow and obvious twin: it reads everything, and sorts what matches.
func (d *device) findSlowly(text string, limit int) []api.Match {
	d.t.Helper()
	words := fhir.Query(text)
	matches := []api.Match{}
	for line := range strings.Lines(d.export()) {
		obj, err := fhir.Parse([]byte(strings.TrimSpace(line)))
		must(d.t, err)
		terms := fhir.Terms(obj)
		all := true
		for _, w := range words {
			all = all && slices.ContainsFunc(terms, func(t string) bool { return strings.HasPrefix(t, w) })
		}
		if all {
			name, born, ids := fhir.Summary(obj)
			matches = append(matches, api.Match{Ref: obj.Type() + "/" + obj.ID(), Name: name, BirthDate: born, Identifier: ids})
		}
	}
	slices.SortFunc(matches, func(a, b api.Match) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Ref, b.Ref)) })
	return matches[:min(limit, len(matches))]
}

func (d *device) sameFinds(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		for _, limit := range []int{1, 7, 1000} {
			got, err := d.Find(d.t.Context(), text, limit)
			must(d.t, err)
			if want := d.findSlowly(text, limit); fmt.Sprint(got) != fmt.Sprint(want) {
				d.t.Fatalf("%s: the first %d of %q are\n%v\nand should be\n%v", d.name, limit, text, got, want)
			}
		}
	}
}

var (
	families = []string{"Müller", "Mueller", "Schmidt", "Schmitt", "Ångström", "Łukasz", "O’Neill", "Meyer-Lindenberg",
		strings.Repeat("Ellenlang ", 9) + "Ende", strings.Repeat("Ellenlang ", 9) + "Anfang"}
	givens  = []string{"Anna", "Anne", "Şeyma", "Bernd", "Hans Peter"}
	queries = []string{"m", "mu", "muller", "Müller anna", "s", "schmi 19", "19", "1954", "19 a", "ellenlang", "ellenlang e",
		"anna", "p1", "qq", "a o", "peter meyer"}
)

func madePerson(random *rand.Rand, typ, id, of string) string {
	patient := ""
	if of != "" {
		patient = fmt.Sprintf(`,"patient":{"reference":"Patient/%s"}`, of)
	}
	return fmt.Sprintf(`{"resourceType":%q,"id":%q,"birthDate":"19%02d-0%d-01","identifier":[{"value":"P%d"}],"name":[{"family":%q,"given":[%q]}]%s}`,
		typ, id, 20+random.IntN(70), 1+random.IntN(9), random.IntN(1000), families[random.IntN(len(families))],
		givens[random.IntN(len(givens))], patient)
}

// TestFindIsItsTwin changes people at two devices, together and apart, and looks for them at every step.
func TestFindIsItsTwin(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	random := rand.New(rand.NewPCG(1, 2))
	var batch api.ImportBatch
	for i := range 600 {
		batch.Resources = append(batch.Resources, []byte(madePerson(random, "Patient", fmt.Sprintf("p%d", i), "")))
	}
	_, err := a.Import(t.Context(), "importer", batch)
	must(t, err)
	sync(t, a, b)
	a.sameFinds(queries...)
	b.sameFinds(queries...)
	for range 4 {
		for _, d := range p {
			for range 12 {
				id := fmt.Sprintf("p%d", random.IntN(30))
				switch random.IntN(4) {
				case 0:
					_, _ = d.Delete(t.Context(), "user", api.Ref{Type: "Patient", ID: id}) // perhaps deleted already
				case 1: // one relative, made apart as two patients': two documents, and a conflict
					d.put(madePerson(random, "RelatedPerson", fmt.Sprintf("r%d", random.IntN(5)), fmt.Sprintf("p%d", random.IntN(3))), true)
				default:
					d.put(madePerson(random, "Patient", id, ""), true)
				}
			}
			d.sameFinds(queries[random.IntN(len(queries))])
		}
		sync(t, a, b)
		alike(t, a, b)
		a.sameFinds(queries...)
		b.sameFinds(queries[random.IntN(len(queries))])
	}
	open := 0
	for _, c := range a.conflicts() {
		if strings.HasPrefix(c.Resource, "RelatedPerson/") && c.Path == "" {
			open++
			_, err := a.Resolve(t.Context(), "user", c.ID, api.Decision{Choose: new(int)})
			must(t, err)
			a.sameFinds(queries...)
		}
	}
	if open == 0 {
		t.Error("no relative stood in two documents")
	}
	sync(t, a, b)
	b.sameFinds(queries...)
}

// TestFindInAnOldFolder opens a folder whose search terms hold nothing but themselves.
func TestFindInAnOldFolder(t *testing.T) {
	a := practice(t, "surgery")[0]
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 40 {
		a.put(madePerson(random, "Patient", fmt.Sprintf("p%d", i), ""), false)
	}
	terms := func() (named, empty int) {
		must(t, a.twin.View(func(v storage.Reader) error {
			return v.Scan(storage.Term.All(), nil, func(_, value []byte) error {
				if len(value) > 0 {
					named++
				} else {
					empty++
				}
				return nil
			})
		}))
		return named, empty
	}
	all, _ := terms()
	var b storage.Batch
	must(t, a.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Term.All(), nil, func(key, _ []byte) error {
			b.Put(bytes.Clone(key), nil)
			return nil
		})
	}))
	must(t, a.twin.Commit(t.Context(), &b))
	a.sameFinds(queries...) // slow, and right
	a.open()
	if named, empty := terms(); named != all || empty != 0 {
		t.Errorf("%d of %d terms have a name, %d none", named, all, empty)
	}
	a.sameFinds(queries...)
}

// TestFindWhileEdited looks for people whose names change all the time: who is listed is listed as they were at one moment.
func TestFindWhileEdited(t *testing.T) {
	a := practice(t, "surgery")[0]
	const n = 20
	put := func(i int, family string) {
		a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"p%02d","name":[{"family":%q,"given":["Kim"]}]}`, i, family), true)
	}
	for i := range n {
		put(i, "Albers")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := range 4 {
			for i := range n {
				put(i, []string{"Zander", "Albers"}[round%2])
			}
		}
	}()
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
		}
		m, err := a.Find(t.Context(), "kim", 1000)
		must(t, err)
		if len(m) != n || !slices.IsSortedFunc(m, func(a, b api.Match) int { return cmp.Compare(a.Name, b.Name) }) {
			t.Fatalf("%d of %d people: %v", len(m), n, m)
		}
	}
}
