package fhir

import (
	"fmt"
	"strings"
)

// The scopes that a practice has from its first day.
const (
	Clinical = "clinical"
	Billing  = "billing"
)

// Placement says where a resource lives. A resource without a patient is a document of its own, and Section is empty.
type Placement struct {
	Scope   string // Clinical or Billing
	Patient string // the id of the one patient in whose compartment it is, or ""
	Section string // "core", "2019", "undated", "money-2019", "money-undated"
}

// Place returns the placement of a new resource. A resource stays where it was placed first, whatever it says later.
func Place(o Object) Placement {
	t := o.Type()
	p := Placement{Scope: Clinical}
	money := billing[t]
	if money {
		p.Scope = Billing
	}
	if p.Patient = patientOf(o, t); p.Patient == "" {
		return p
	}
	switch dates, dated := mainDates[t]; {
	case dated && money:
		p.Section = "money-" + year(o, dates)
	case dated:
		p.Section = year(o, dates)
	case money:
		p.Section = "money-undated"
	default:
		p.Section = "core"
	}
	return p
}

// Chart lists all that Place can say of a patient's resources: one section for each year that a date can have, and those without.
func Chart(patient string) []Placement {
	chart := []Placement{{Clinical, patient, "core"}, {Clinical, patient, "undated"}, {Billing, patient, "money-undated"}}
	for y := range 10_000 {
		year := fmt.Sprintf("%04d", y)
		chart = append(chart, Placement{Clinical, patient, year}, Placement{Billing, patient, "money-" + year})
	}
	return chart
}

// patientOf returns the one patient whose compartment o is in, or "" when there is none or several.
func patientOf(o Object, resourceType string) string {
	if resourceType == "Patient" {
		if id := o.ID(); ValidID(id) {
			return id
		}
		return ""
	}
	found, several := "", false
	for _, path := range resourceShape(resourceType).patients {
		references(o, path, func(reference string) {
			id := patientID(reference)
			if id == "" || id == found {
				return
			}
			several = several || found != ""
			found = id
		})
	}
	if several {
		return ""
	}
	return found
}

func references(o Object, path []string, fn func(string)) {
	objects(o, path[0], func(c Object) {
		if len(path) > 1 {
			references(c, path[1:], fn)
		} else if r, ok := c["reference"].(string); ok {
			fn(r)
		}
	})
}

// patientID returns the id of a relative reference to a patient. An absolute one names another server's patient.
func patientID(reference string) string {
	rest, ok := strings.CutPrefix(reference, "Patient/")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "/_history/")
	if !ValidID(id) {
		return ""
	}
	return id
}

// billing names the types of the billing scope. Coverage is not among them: the surgery needs it.
var billing = map[string]bool{
	"Account": true, "ChargeItem": true, "ChargeItemDefinition": true, "Claim": true, "ClaimResponse": true,
	"CoverageEligibilityRequest": true, "CoverageEligibilityResponse": true, "EnrollmentRequest": true,
	"EnrollmentResponse": true, "ExplanationOfBenefit": true, "Invoice": true, "PaymentNotice": true,
	"PaymentReconciliation": true,
}

// mainDates names the elements that say when something happened, in the order in which they are asked. Types that are
// absent here describe the patient as such (allergies, conditions, medication, immunizations, plans) and are core.
var mainDates = map[string][]string{
	"AdverseEvent":               {"date", "detected", "recordedDate"},
	"Appointment":                {"start", "requestedPeriod.start", "created"},
	"AppointmentResponse":        {"start"},
	"AuditEvent":                 {"recorded"},
	"ClinicalImpression":         {"effective", "date"},
	"Communication":              {"sent", "received"},
	"CommunicationRequest":       {"occurrence", "authoredOn"},
	"Composition":                {"date"},
	"DetectedIssue":              {"identified"},
	"DeviceRequest":              {"occurrence", "authoredOn"},
	"DiagnosticReport":           {"effective", "issued"},
	"DocumentManifest":           {"created"},
	"DocumentReference":          {"date", "context.period.start"},
	"Encounter":                  {"period.start", "period.end"},
	"ImagingStudy":               {"started"},
	"ImmunizationEvaluation":     {"date"},
	"MeasureReport":              {"period.start", "date"},
	"Media":                      {"created", "issued"},
	"MedicationAdministration":   {"effective"},
	"MedicationDispense":         {"whenHandedOver", "whenPrepared"},
	"MedicationRequest":          {"authoredOn"},
	"Observation":                {"effective", "issued"},
	"Procedure":                  {"performed"},
	"Provenance":                 {"occurred", "recorded"},
	"QuestionnaireResponse":      {"authored"},
	"RequestGroup":               {"authoredOn"},
	"RiskAssessment":             {"occurrence"},
	"ServiceRequest":             {"occurrence", "authoredOn"},
	"Specimen":                   {"collection.collected", "receivedTime"},
	"SupplyDelivery":             {"occurrence"},
	"SupplyRequest":              {"occurrence", "authoredOn"},
	"Task":                       {"authoredOn", "executionPeriod.start"},
	"VisionPrescription":         {"dateWritten", "created"},
	"ChargeItem":                 {"occurrence", "enteredDate"},
	"Claim":                      {"billablePeriod.start", "created"},
	"ClaimResponse":              {"created"},
	"CoverageEligibilityRequest": {"serviced", "created"},

	"CoverageEligibilityResponse": {"serviced", "created"},
	"EnrollmentRequest":           {"created"},
	"ExplanationOfBenefit":        {"billablePeriod.start", "created"},
	"Invoice":                     {"date"},
}

// year returns the year that the first of the dates names, by its digits, or "undated".
func year(o Object, dates []string) string {
	for _, path := range dates {
		if y := yearAt(o, path); y != "" {
			return y
		}
	}
	return "undated"
}

func yearAt(o Object, path string) string {
	if head, rest, deeper := strings.Cut(path, "."); deeper {
		found := ""
		objects(o, head, func(c Object) {
			if found == "" {
				found = yearAt(c, rest)
			}
		})
		return found
	}
	for _, suffix := range []string{"", "DateTime", "Date", "Instant"} {
		if y := yearOf(text(o, path+suffix)); y != "" {
			return y
		}
	}
	period := object(o, path+"Period")
	for _, s := range []string{text(period, "start"), text(period, "end")} {
		if y := yearOf(s); y != "" {
			return y
		}
	}
	for _, e := range list(object(o, path+"Timing"), "event") {
		if s, ok := e.(string); ok {
			return yearOf(s)
		}
	}
	return ""
}

func yearOf(date string) string {
	if len(date) < 4 || len(date) > 4 && date[4] != '-' {
		return ""
	}
	for i := range 4 {
		if date[i] < '0' || date[i] > '9' {
			return ""
		}
	}
	return date[:4]
}
