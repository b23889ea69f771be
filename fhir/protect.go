package fhir

// Names of the locks that guard what one workstation at a time changes (docs/spec/protected-documents.md). Final invoices have one for each year.
const (
	LockSettings  = "settings"
	LockCodeLists = "code-lists"
	LockBilling   = "billing"
	LockInvoices  = "invoices/" // and a year, or "undated"
)

// systemBasic is the code system of what R4 has no type for.
const systemBasic = "urn:chartmesh:basic"

// basicLocks are the codes in systemBasic that say what is protected.
var basicLocks = map[string]string{"settings": LockSettings, "billing-run": LockBilling}

var codeLists = map[string]bool{"CodeSystem": true, "ConceptMap": true, "NamingSystem": true, "ValueSet": true}

// finalInvoice names the states of an invoice that is not a draft.
var finalInvoice = map[string]bool{"issued": true, "balanced": true, "cancelled": true, "entered-in-error": true}

// Lock returns the lock that guards a new resource; "" where anybody may write it at any time. A resource that is guarded stays so, whatever
// it says later.
func Lock(o Object) string {
	switch t := o.Type(); {
	case codeLists[t]:
		return LockCodeLists
	case t == "Basic":
		lock := ""
		objects(o, "code", func(code Object) {
			objects(code, "coding", func(c Object) {
				if system, ok := c["system"].(string); !ok || system != systemBasic {
					return
				}
				if code, ok := c["code"].(string); ok && lock == "" {
					lock = basicLocks[code]
				}
			})
		})
		return lock
	case t == "Invoice":
		if status, ok := o["status"].(string); !ok || !finalInvoice[status] {
			return ""
		}
		y := year(o, mainDates[t])
		if y == "0000" {
			y = "undated"
		}
		return LockInvoices + y
	}
	return ""
}

// LockScope returns the scope of what a lock guards.
func LockScope(lock string) string {
	if lock == LockSettings || lock == LockCodeLists {
		return Clinical
	}
	return Billing
}
