// Package synthetic makes patients who never lived, for the demonstration and for tests.
//
// Nouns: a practice with its practitioners and insurers, which is the same for one seed; a patient's record, one
// transaction Bundle of about thirty FHIR R4 resources over some years ([Patients]). The practice's resources stand in every
// Bundle in which they are referred to, as in exports of real systems, and are equal there. [Practice] and [Lifelong] make
// records of the sizes that a store has to bear.
//
// Guarantees: the same seed and number make the same Bundle, byte for byte, in every build; the ith patient does not
// depend on how many are made. Names, addresses and numbers come from this package's own small lists; telephone numbers
// are from the range that Germany reserves for fiction, and insurance numbers carry a check digit that is wrong.
//
// Medical plausibility is as good as it needs to look, no better; the distribution of anything is of no use to research.
package synthetic

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"time"

	"chartmesh/fhir"
)

// today is the last day on which anything happens, so that Bundles do not change with the calendar.
var today = time.Date(2026, 10, 30, 0, 0, 0, 0, time.UTC)

// Patients returns the first n patients of a seed.
func Patients(seed uint64, n int) iter.Seq[fhir.Object] { return records(seed, n, (*generator).record) }

// Patient returns the ith patient of a seed, from 0.
func Patient(seed uint64, i int) fhir.Object {
	return newPractice(seed).patient(i, (*generator).record)
}

// records returns the first n patients of a seed, each with the record that draw makes.
func records(seed uint64, n int, draw func(*generator, int)) iter.Seq[fhir.Object] {
	return func(yield func(fhir.Object) bool) {
		p := newPractice(seed)
		for i := range n {
			if !yield(p.patient(i, draw)) {
				return
			}
		}
	}
}

// practice is what the patients of one seed share.
type practice struct {
	seed         uint64
	organization fhir.Object
	doctors      []fhir.Object
	insurers     []fhir.Object
}

func newPractice(seed uint64) *practice {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1<<63))}
	p := &practice{seed: seed}
	home := peoples[0]
	p.organization = fhir.Object{
		"resourceType": "Organization", "id": g.uuid(), "active": true,
		"identifier": []any{identifier("urn:chartmesh:synthetic:site", strconv.Itoa(100000+g.IntN(900000)))},
		"name":       "Gemeinschaftspraxis " + pick(g, home.family) + " & " + pick(g, home.family),
		"alias":      []any{"Praxis am Mühlbach"},
		"telecom":    []any{phone(g)},
		"address":    []any{address(g, home)},
	}
	for i := range 3 {
		of := peoples[i%len(peoples)]
		p.doctors = append(p.doctors, fhir.Object{
			"resourceType": "Practitioner", "id": g.uuid(), "active": true,
			"identifier": []any{identifier("urn:chartmesh:synthetic:doctor-number", strconv.Itoa(100000000+g.IntN(900000000)))},
			"name":       []any{fhir.Object{"use": "official", "family": pick(g, of.family), "given": []any{pick(g, of.female)}, "prefix": []any{"Dr. med."}}},
			"gender":     "female",
		})
	}
	for _, name := range []string{"Gesundkasse Nord", "Betriebskasse Süd", "Ersatzkasse Zukünftig", "Mutuelle Générale de l’Est", "Kasa Zdrowia Śląsk"} {
		p.insurers = append(p.insurers, fhir.Object{
			"resourceType": "Organization", "id": g.uuid(), "active": true, "name": name,
			"identifier": []any{identifier(insurers, "1099"+strconv.Itoa(10000+g.IntN(90000)))},
			"type":       []any{concept(hl7+"organization-type", "ins", "Insurance Company")},
		})
	}
	return p
}

// generator draws one patient's record.
type generator struct {
	*rand.Rand
	practice *practice
	of       people
	entries  []any
	shared   map[string]bool // ids of the practice's resources that are in the Bundle already
}

func (p *practice) patient(i int, draw func(*generator, int)) fhir.Object {
	g := &generator{Rand: p.patientRand(i), practice: p, of: peoples[0], shared: map[string]bool{}}
	if g.IntN(2) == 0 {
		g.of = pick(g, peoples)
	}
	draw(g, i)
	// A clone, since one reference stands in many resources.
	return fhir.Clone(fhir.Object{"resourceType": "Bundle", "type": "transaction", "entry": g.entries})
}

func (p *practice) patientRand(i int) *rand.Rand { return rand.New(rand.NewPCG(p.seed, uint64(i))) }

// add puts a new resource into the Bundle and returns the reference to it.
func (g *generator) add(resourceType string, o fhir.Object) fhir.Object {
	o["resourceType"] = resourceType
	if o["id"] == nil {
		o["id"] = g.uuid()
	}
	url := "urn:uuid:" + o.ID()
	g.entries = append(g.entries, fhir.Object{
		"fullUrl": url, "resource": o, "request": fhir.Object{"method": "POST", "url": resourceType},
	})
	return fhir.Object{"reference": url}
}

// share refers to one of the practice's resources, and puts a copy of it into the Bundle the first time.
func (g *generator) share(o fhir.Object) fhir.Object {
	if !g.shared[o.ID()] {
		g.shared[o.ID()] = true
		return g.add(o.Type(), fhir.Clone(o))
	}
	return fhir.Object{"reference": "urn:uuid:" + o.ID()}
}

func (g *generator) uuid() string {
	a, b := g.Uint64(), g.Uint64()
	a = a&^0xf000 | 0x4000
	b = b&^(3<<62) | 2<<62
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", a>>32, a>>16&0xffff, a&0xffff, b>>48, b&(1<<48-1))
}

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// some returns n different ones.
func some[T any](g *generator, from []T, n int) []T {
	var out []T
	for _, i := range g.Perm(len(from))[:n] {
		out = append(out, from[i])
	}
	return out
}

// decimal writes a number of hundredths with so many digits behind the point.
func decimal(hundredths, digits int) fhir.Number {
	switch digits {
	case 0:
		return fhir.Number(strconv.Itoa(hundredths / 100))
	case 1:
		return fhir.Number(fmt.Sprintf("%d.%d", hundredths/100, hundredths%100/10))
	}
	return fhir.Number(fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100))
}

func day(t time.Time) string { return t.Format("2006-01-02") }

// moment writes a time of day in the practice's zone, summer time or not by the month.
func moment(t time.Time) string {
	zone := time.FixedZone("", 3600)
	if m := t.Month(); m >= time.April && m <= time.October {
		zone = time.FixedZone("", 7200)
	}
	return t.In(zone).Format("2006-01-02T15:04:05-07:00")
}

func identifier(system, value string) fhir.Object {
	return fhir.Object{"system": system, "value": value}
}

func concept(system, code, text string) fhir.Object {
	return fhir.Object{"coding": []any{fhir.Object{"system": system, "code": code, "display": text}}, "text": text}
}

func status(system, code string) fhir.Object {
	return fhir.Object{"coding": []any{fhir.Object{"system": hl7 + system, "code": code}}}
}

func money(cents int) fhir.Object { return fhir.Object{"value": decimal(cents, 2), "currency": "EUR"} }

// phone is from the range 030 23125 that the regulator keeps free for films.
func phone(g *generator) fhir.Object {
	return fhir.Object{"system": "phone", "value": fmt.Sprintf("+49 30 23125 %03d", g.IntN(1000)), "use": pick(g, []string{"home", "work", "mobile"})}
}

func address(g *generator, of people) fhir.Object {
	c := pick(g, of.cities)
	return fhir.Object{
		"use": "home", "line": []any{pick(g, of.streets) + " " + strconv.Itoa(1+g.IntN(140))},
		"city": c.name, "postalCode": c.code, "country": of.country,
	}
}

// insuranceNumber has the form of a German one, a letter and nine digits, but the last digit checks nothing: it is the
// right one plus one, so that the number is nobody's.
func insuranceNumber(g *generator) string {
	letter := g.IntN(26)
	digits := fmt.Sprintf("%02d%08d", letter+1, g.IntN(100000000))
	sum := 0
	for i, d := range digits {
		n := int(d-'0') * (1 + i%2)
		sum += n/10 + n%10
	}
	return string(rune('A'+letter)) + digits[2:] + strconv.Itoa((sum+1)%10)
}
