package synthetic

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"chartmesh/fhir"
)

// subject is what the parts of one record refer to.
type subject struct {
	patient, doctor, practice, coverage fhir.Object // references
	born                                time.Time
	name                                string
}

// record draws a whole record: the person, what stays, and visits with what came of them.
func (g *generator) record(i int) {
	s := g.lasting(i)
	for n := range 2 + g.IntN(3) {
		at := today.AddDate(-n, -g.IntN(11), -g.IntN(28)).Add(time.Duration(7*60+g.IntN(540)) * time.Minute)
		g.visit(s, at, n == 0)
	}
}

// lasting draws the person and what stays from visit to visit.
func (g *generator) lasting(i int) subject {
	s := g.person(i)
	var lasting []fhir.Object
	for _, d := range some(g, chronic, 1+g.IntN(3)) {
		lasting = append(lasting, g.condition(s, d, s.born.AddDate(30+g.IntN(10), g.IntN(12), 0), nil))
	}
	for n, d := range some(g, longTerm, 1+g.IntN(2)) {
		g.medication(s, d, lasting[n%len(lasting)])
	}
	for range g.IntN(3) {
		g.allergy(s)
	}
	for range 1 + g.IntN(2) {
		g.immunization(s)
	}
	if g.IntN(4) == 0 {
		g.add("Flag", fhir.Object{
			"status": "active", "subject": s.patient, "code": fhir.Object{"text": "Braucht Dolmetscher (" + g.of.language + ")"},
		})
	}
	return s
}

func (g *generator) person(i int) subject {
	s := subject{
		born:     today.AddDate(-42-g.IntN(50), -g.IntN(12), -g.IntN(28)),
		practice: g.share(g.practice.organization),
		doctor:   g.share(pick(g, g.practice.doctors)),
	}
	gender, names := "female", g.of.female
	if g.IntN(2) == 0 {
		gender, names = "male", g.of.male
	}
	given := []any{}
	for _, n := range some(g, names, 1+g.IntN(2)) {
		given = append(given, n)
	}
	family := pick(g, g.of.family)
	s.name = given[0].(string) + " " + family
	number := insuranceNumber(g)
	p := fhir.Object{
		"identifier": []any{
			identifier(charts, strconv.Itoa(10000+i)),
			fhir.Object{"type": status("v2-0203", "KVZ10"), "system": insured, "value": number},
		},
		"active": true, "gender": gender, "birthDate": day(s.born),
		"name":                []any{fhir.Object{"use": "official", "family": family, "given": given}},
		"telecom":             []any{phone(g), fhir.Object{"system": "email", "value": "patient" + strconv.Itoa(10000+i) + "@example.org"}},
		"address":             []any{address(g, g.of)},
		"communication":       []any{fhir.Object{"language": fhir.Object{"coding": []any{fhir.Object{"system": "urn:ietf:bcp:47", "code": g.of.language}}}, "preferred": true}},
		"generalPractitioner": []any{s.doctor}, "managingOrganization": s.practice,
	}
	if g.IntN(3) == 0 {
		p["name"] = append(p["name"].([]any), fhir.Object{"use": "maiden", "family": pick(g, g.of.family)})
	}
	if g.IntN(3) == 0 {
		p["contact"] = []any{fhir.Object{
			"relationship": []any{status("v2-0131", "N")},
			"name":         fhir.Object{"family": family, "given": []any{pick(g, g.of.female)}},
			"telecom":      []any{phone(g)},
		}}
	}
	if g.IntN(5) == 0 {
		p["_birthDate"] = fhir.Object{"extension": []any{fhir.Object{
			"url":           "http://hl7.org/fhir/StructureDefinition/patient-birthTime",
			"valueDateTime": moment(s.born.Add(time.Duration(g.IntN(86400)) * time.Second)),
		}}}
	}
	s.patient = g.add("Patient", p)
	insurer := g.share(pick(g, g.practice.insurers))
	s.coverage = g.add("Coverage", fhir.Object{
		"status": "active", "beneficiary": s.patient, "payor": []any{insurer}, "subscriberId": number,
		"type":   fhir.Object{"coding": []any{fhir.Object{"system": "http://fhir.de/CodeSystem/versicherungsart-de-basis", "code": "GKV"}}},
		"period": fhir.Object{"start": day(s.born.AddDate(18, 0, 0))},
	})
	return s
}

func (g *generator) condition(s subject, d diagnosis, onset time.Time, encounter fhir.Object) fhir.Object {
	c := fhir.Object{
		"clinicalStatus": status("condition-clinical", "active"), "verificationStatus": status("condition-ver-status", "confirmed"),
		"category": []any{status("condition-category", "problem-list-item")},
		"code":     concept(icd10, d.code, d.text), "subject": s.patient, "recorder": s.doctor,
		"onsetDateTime": day(onset), "recordedDate": day(onset.AddDate(0, 0, g.IntN(20))),
	}
	if encounter != nil {
		c["encounter"] = encounter
		c["clinicalStatus"] = status("condition-clinical", "resolved")
		c["category"] = []any{status("condition-category", "encounter-diagnosis")}
		c["abatementDateTime"] = day(onset.AddDate(0, 0, 5+g.IntN(20)))
	}
	if g.IntN(3) == 0 {
		c["note"] = []any{g.note(s, onset)}
	}
	return g.add("Condition", c)
}

func (g *generator) note(s subject, at time.Time) fhir.Object {
	return fhir.Object{"authorReference": s.doctor, "time": moment(at), "text": pick(g, remarks)}
}

// dosage writes a scheme of morning, noon, evening and night as text and, where it can be, as a timing.
func dosage(d drug) fhir.Object {
	o := fhir.Object{
		"text":        d.scheme,
		"route":       concept("http://standardterms.edqm.eu", "20053000", "zum Einnehmen"),
		"doseAndRate": []any{fhir.Object{"doseQuantity": quantity(fhir.Number(d.dose), d.unit)}},
	}
	when := []any{}
	for i, part := range strings.Split(d.scheme, "-") {
		if part != "0" {
			when = append(when, []string{"MORN", "NOON", "EVE", "NIGHT"}[i])
		}
	}
	o["timing"] = fhir.Object{"repeat": fhir.Object{"frequency": fhir.Number("1"), "period": fhir.Number("1"), "periodUnit": "d", "when": when}}
	return o
}

func quantity(value fhir.Number, unit string) fhir.Object {
	return fhir.Object{"value": value, "unit": unit, "system": ucum, "code": unit}
}

func (g *generator) medication(s subject, d drug, reason fhir.Object) {
	since := today.AddDate(-1-g.IntN(8), -g.IntN(12), 0)
	g.add("MedicationStatement", fhir.Object{
		"status": "active", "subject": s.patient, "medicationCodeableConcept": concept(atc, d.code, d.text),
		"effectivePeriod": fhir.Object{"start": day(since)}, "dateAsserted": day(since),
		"reasonReference": []any{reason}, "dosage": []any{dosage(d)},
	})
	g.prescription(s, d, since.AddDate(0, 3*g.IntN(4), 0).Add(9*time.Hour), nil)
}

func (g *generator) prescription(s subject, d drug, at time.Time, encounter fhir.Object) {
	o := fhir.Object{
		"status": "active", "intent": "order", "subject": s.patient, "requester": s.doctor, "authoredOn": moment(at),
		"contained": []any{fhir.Object{
			"resourceType": "Medication", "id": "drug", "code": concept(atc, d.code, d.text),
			"ingredient": []any{fhir.Object{
				"itemCodeableConcept": fhir.Object{"text": d.ingredients},
				"strength": fhir.Object{
					"numerator": quantity(fhir.Number(d.dose), d.unit), "denominator": quantity("1", "1"),
				},
			}},
		}},
		"medicationReference": fhir.Object{"reference": "#drug"},
		"dosageInstruction":   []any{dosage(d)},
		"dispenseRequest":     fhir.Object{"quantity": quantity(fhir.Number(d.quantity), "1"), "numberOfRepeatsAllowed": fhir.Number(strconv.Itoa(g.IntN(3)))},
		"substitution":        fhir.Object{"allowedBoolean": g.IntN(5) > 0},
	}
	if encounter != nil {
		o["encounter"] = encounter
	}
	g.add("MedicationRequest", o)
}

func (g *generator) allergy(s subject) {
	a := pick(g, allergies)
	o := fhir.Object{
		"clinicalStatus": status("allergyintolerance-clinical", "active"), "category": []any{a.category},
		"criticality": pick(g, []string{"low", "high", "unable-to-assess"}), "patient": s.patient,
		"code": fhir.Object{"text": a.substance}, "recordedDate": strconv.Itoa(today.Year() - 1 - g.IntN(20)),
		"reaction": []any{fhir.Object{"manifestation": []any{fhir.Object{"text": a.reaction}}, "severity": pick(g, []string{"mild", "moderate", "severe"})}},
	}
	if g.IntN(2) == 0 {
		o["_onsetString"] = fhir.Object{"extension": []any{fhir.Object{
			"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "asked-unknown",
		}}}
	}
	g.add("AllergyIntolerance", o)
}

func (g *generator) immunization(s subject) {
	v := pick(g, vaccines)
	at := today.AddDate(-g.IntN(9), -g.IntN(12), -g.IntN(28))
	g.add("Immunization", fhir.Object{
		"status": "completed", "patient": s.patient, "vaccineCode": concept(atc, v.code, v.text), "occurrenceDateTime": day(at),
		"lotNumber": fmt.Sprintf("%c%05d", 'A'+rune(g.IntN(26)), g.IntN(100000)), "expirationDate": day(at.AddDate(1, 0, 0)),
		"doseQuantity":    quantity("0.5", "mL"),
		"performer":       []any{fhir.Object{"actor": s.doctor}},
		"protocolApplied": []any{fhir.Object{"doseNumberPositiveInt": fhir.Number(strconv.Itoa(1 + g.IntN(3)))}},
	})
}

// visit draws an encounter with its diagnosis, measurements, prescription and bill.
func (g *generator) visit(s subject, at time.Time, newest bool) {
	d := pick(g, acute)
	end := at.Add(time.Duration(8+g.IntN(25)) * time.Minute)
	encounter := g.add("Encounter", fhir.Object{
		"status": "finished", "class": fhir.Object{"system": hl7 + "v3-ActCode", "code": "AMB", "display": "ambulatory"},
		"subject": s.patient, "period": fhir.Object{"start": moment(at), "end": moment(end)},
		"participant":     []any{fhir.Object{"individual": s.doctor}},
		"reasonCode":      []any{fhir.Object{"text": d.text}},
		"serviceProvider": s.practice,
	})
	g.condition(s, d, at, encounter)
	results := []any{g.pressure(s, at, encounter)}
	for _, m := range some(g, vitals, 1) {
		results = append(results, g.observation(s, m, at, encounter))
	}
	if g.IntN(2) == 0 {
		results = results[:0]
		for _, m := range some(g, laboratory, 2) {
			results = append(results, g.observation(s, m, at, encounter))
		}
		g.add("DiagnosticReport", fhir.Object{
			"status": "final", "code": concept(loinc, "11502-2", "Laborbefund"), "subject": s.patient, "encounter": encounter,
			"effectiveDateTime": moment(at), "issued": moment(at.Add(26 * time.Hour)), "result": results, "performer": []any{s.practice},
			"conclusion": "Siehe Einzelwerte.",
		})
	}
	if g.IntN(2) == 0 {
		g.prescription(s, pick(g, shortTerm), end, encounter)
	}
	if newest {
		g.invoice(s, at, encounter)
	} else if g.IntN(2) == 0 {
		g.claim(s, d, at, encounter)
	}
}

func (g *generator) finding(s subject, code fhir.Object, category string, at time.Time, encounter fhir.Object) fhir.Object {
	o := fhir.Object{
		"status": "final", "category": []any{status("observation-category", category)}, "code": code, "subject": s.patient,
		"encounter": encounter, "effectiveDateTime": moment(at), "performer": []any{s.doctor},
	}
	if g.IntN(6) == 0 {
		o["note"] = []any{g.note(s, at)}
	}
	return o
}

func (g *generator) observation(s subject, m measured, at time.Time, encounter fhir.Object) fhir.Object {
	o := g.finding(s, concept(loinc, m.code, m.text), m.category, at, encounter)
	o["valueQuantity"] = quantity(decimal(m.mean-m.spread+g.IntN(2*m.spread+1), m.digits), m.unit)
	bounds := fhir.Object{}
	if m.low != "" {
		bounds["low"] = quantity(fhir.Number(m.low), m.unit)
	}
	if m.high != "" {
		bounds["high"] = quantity(fhir.Number(m.high), m.unit)
	}
	if len(bounds) > 0 {
		o["referenceRange"] = []any{bounds}
	}
	return g.add("Observation", o)
}

func (g *generator) pressure(s subject, at time.Time, encounter fhir.Object) fhir.Object {
	o := g.finding(s, concept(loinc, "85354-9", "Blutdruck"), "vital-signs", at, encounter)
	part := func(code, text string, from, spread int) fhir.Object {
		return fhir.Object{
			"code":          concept(loinc, code, text),
			"valueQuantity": quantity(fhir.Number(strconv.Itoa(from+g.IntN(spread))), "mm[Hg]"),
		}
	}
	o["component"] = []any{part("8480-6", "Systolisch", 105, 55), part("8462-4", "Diastolisch", 62, 35)}
	return g.add("Observation", o)
}

func (g *generator) invoice(s subject, at time.Time, encounter fhir.Object) {
	total := 0
	lines := []any{}
	for i, c := range some(g, charges, 2+g.IntN(2)) {
		total += c.cents
		lines = append(lines, fhir.Object{
			"sequence":                  fhir.Number(strconv.Itoa(i + 1)),
			"chargeItemCodeableConcept": concept("urn:chartmesh:synthetic:fee-schedule", c.code, c.text),
			"priceComponent":            []any{fhir.Object{"type": "base", "factor": fhir.Number("1.00"), "amount": money(c.cents)}},
		})
	}
	g.add("Invoice", fhir.Object{
		"status": "draft", "subject": s.patient, "recipient": s.patient, "date": day(at), "issuer": s.practice,
		"lineItem": lines, "totalNet": money(total), "totalGross": money(total),
		"note": []any{fhir.Object{"text": "Behandlung vom " + at.Format("02.01.2006")}},
	})
}

func (g *generator) claim(s subject, d diagnosis, at time.Time, encounter fhir.Object) {
	c := pick(g, charges)
	g.add("Claim", fhir.Object{
		"status": "active", "use": "claim", "type": status("claim-type", "professional"), "patient": s.patient, "provider": s.practice,
		"created": day(at.AddDate(0, 0, 3)), "billablePeriod": fhir.Object{"start": day(at), "end": day(at)},
		"priority":  status("processpriority", "normal"),
		"diagnosis": []any{fhir.Object{"sequence": fhir.Number("1"), "diagnosisCodeableConcept": concept(icd10, d.code, d.text)}},
		"insurance": []any{fhir.Object{"sequence": fhir.Number("1"), "focal": true, "coverage": s.coverage}},
		"item": []any{fhir.Object{
			"sequence": fhir.Number("1"), "productOrService": concept("urn:chartmesh:synthetic:fee-schedule", c.code, c.text),
			"encounter": []any{encounter}, "unitPrice": money(c.cents), "net": money(c.cents),
		}},
		"total": money(c.cents),
	})
}
