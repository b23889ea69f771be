package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseRef reads "Type/id" as FHIR R4 allows it.
func ParseRef(s string) (Ref, error) {
	kind, id, ok := strings.Cut(s, "/")
	ref := Ref{Type: kind, ID: id}
	if !ok || !ref.Valid() {
		return Ref{}, invalid("a resource is named Type/id", "for example Patient/1234")
	}
	return ref, nil
}

// Valid reports whether r could name a FHIR resource: letters and digits that begin with a capital, and an id of 1 to 64
// of A–Z a–z 0–9 - and full stop.
func (r Ref) Valid() bool {
	if len(r.Type) == 0 || len(r.Type) > maxType || len(r.ID) == 0 || len(r.ID) > maxID {
		return false
	}
	for i := range len(r.Type) {
		if c := r.Type[i]; !upper(c) && (i == 0 || !lower(c) && !digit(c)) {
			return false
		}
	}
	for i := range len(r.ID) {
		if c := r.ID[i]; !upper(c) && !lower(c) && !digit(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func upper(c byte) bool { return 'A' <= c && c <= 'Z' }
func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }

// CheckUser says what is wrong with a user's name. Every write needs one: it is sealed into the change as its author.
func CheckUser(user string) error {
	switch {
	case strings.TrimSpace(user) == "":
		return invalid("a write needs the user who makes it", "name the user with --user, CHARTMESH_USER or the header Chartmesh-User")
	case len(user) > MaxUser:
		return invalid("the user's name is longer than 256 bytes", "")
	case !utf8.ValidString(user) || strings.ContainsFunc(user, unicode.IsControl):
		return invalid("the user's name is not plain text", "")
	}
	return nil
}
