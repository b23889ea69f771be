package fhir

import "testing"

func TestLock(t *testing.T) {
	for in, want := range map[string]string{
		`{"resourceType":"Patient","id":"p"}`:                                        "",
		`{"resourceType":"CodeSystem","id":"c","status":"draft"}`:                    LockCodeLists,
		`{"resourceType":"ValueSet","id":"c"}`:                                       LockCodeLists,
		`{"resourceType":"ConceptMap","id":"c"}`:                                     LockCodeLists,
		`{"resourceType":"NamingSystem","id":"c"}`:                                   LockCodeLists,
		`{"resourceType":"Basic","id":"b"}`:                                          "",
		`{"resourceType":"Basic","code":{"coding":[{"code":"settings"}]}}`:           "",
		`{"resourceType":"Basic","code":{"coding":[{"system":"urn:other"},1]}}`:      "",
		`{"resourceType":"Basic","code":{"coding":"settings"}}`:                      "",
		`{"resourceType":"Invoice","date":"2026-11-27"}`:                             "",
		`{"resourceType":"Invoice","status":"draft","date":"2026-11-27"}`:            "",
		`{"resourceType":"Invoice","status":7,"date":"2026-11-27"}`:                  "",
		`{"resourceType":"Invoice","status":"issued","date":"2026-11-27"}`:           "invoices/2026",
		`{"resourceType":"Invoice","status":"balanced","date":"2026-11-27"}`:         "invoices/2026",
		`{"resourceType":"Invoice","status":"cancelled"}`:                            "invoices/undated",
		`{"resourceType":"Invoice","status":"entered-in-error","date":"0000-01-01"}`: "invoices/undated",
		`{"resourceType":"Basic","code":{"coding":[{"system":"urn:x","code":"settings"},{"system":"urn:chartmesh:basic","code":"settings"}]}}`: LockSettings,
		`{"resourceType":"Basic","code":{"coding":[{"system":"urn:chartmesh:basic","code":"billing-run"}]}}`:                                   LockBilling,
	} {
		if got := Lock(parse(t, in)); got != want {
			t.Errorf("Lock(%s) = %q, want %q", in, got, want)
		}
	}
	for lock, want := range map[string]string{LockSettings: Clinical, LockCodeLists: Clinical, LockBilling: Billing, LockInvoices + "2026": Billing} {
		if got := LockScope(lock); got != want {
			t.Errorf("LockScope(%q) = %q, want %q", lock, got, want)
		}
	}
	for name := range codeLists {
		if !KnownType(name) {
			t.Errorf("codeLists names %s", name)
		}
	}
}
