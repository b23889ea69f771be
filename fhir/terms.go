package fhir

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Summary returns what a list of people or organisations shows. Other types have none.
func Summary(o Object) (name, birthDate string, identifiers []string) {
	switch o.Type() {
	case "Patient", "Practitioner", "RelatedPerson", "Person":
		// The official name, else the first one.
		var best Object
		objects(o, "name", func(n Object) {
			if best == nil || text(n, "use") == "official" && text(best, "use") != "official" {
				best = n
			}
		})
		name = humanName(best)
	case "Organization":
		name = text(o, "name")
	default:
		return "", "", nil
	}
	objects(o, "identifier", func(i Object) {
		if v := text(i, "value"); v != "" {
			identifiers = append(identifiers, v)
		}
	})
	return name, text(o, "birthDate"), identifiers
}

func humanName(n Object) string {
	if t := text(n, "text"); t != "" {
		return t
	}
	var given []string
	for _, g := range list(n, "given") {
		if s, ok := g.(string); ok {
			given = append(given, s)
		}
	}
	return strings.TrimPrefix(strings.TrimSuffix(text(n, "family")+", "+strings.Join(given, " "), ", "), ", ")
}

// Terms returns the words under which find has to find a resource: of its names, its birth date and its identifiers, in
// the form in which Query returns them; sorted, each once.
func Terms(o Object) []string {
	var terms []string
	add := func(t string) {
		if t != "" && len(t) <= maxTermLength && len(terms) < maxTerms {
			terms = append(terms, t)
		}
	}
	words := func(s string) {
		for w := range strings.FieldsFuncSeq(strings.ToLower(s), notWord) {
			for _, form := range forms(w) {
				add(form)
			}
		}
	}
	switch o.Type() {
	case "Patient", "Practitioner", "RelatedPerson", "Person":
		objects(o, "name", func(n Object) {
			words(text(n, "family"))
			words(text(n, "text"))
			for _, g := range list(n, "given") {
				if s, ok := g.(string); ok {
					words(s)
				}
			}
		})
		if birth := text(o, "birthDate"); isDate(birth) {
			add(birth)
		}
	case "Organization":
		words(text(o, "name"))
		for _, a := range list(o, "alias") {
			if s, ok := a.(string); ok {
				words(s)
			}
		}
	default:
		return nil
	}
	objects(o, "identifier", func(i Object) {
		value := compact(text(i, "value"))
		add(value)
		add(strings.Map(func(r rune) rune {
			if r < '0' || r > '9' {
				return -1
			}
			return r
		}, value))
	})
	slices.Sort(terms)
	return slices.Compact(terms)
}

// Query returns the words of a search, all of which a match must have among its Terms (or as the beginning of one). A
// part with a digit is a date or an identifier, whole; every other part is split into words.
func Query(search string) []string {
	var terms []string
	for part := range strings.FieldsSeq(search) {
		part = strings.Trim(part, ",;")
		switch {
		case isDate(part):
			terms = append(terms, part)
		case germanDate(part) != "":
			terms = append(terms, germanDate(part))
		case strings.ContainsAny(part, "0123456789"):
			if c := compact(part); c != "" {
				terms = append(terms, c)
			}
		default:
			for w := range strings.FieldsFuncSeq(strings.ToLower(part), notWord) {
				if f := fold(w); f != "" {
					terms = append(terms, f)
				}
			}
		}
	}
	slices.Sort(terms)
	return slices.Compact(terms)
}

// notWord separates words. Marks belong to the letter before them.
func notWord(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) }

// compact folds s and leaves its letters and digits alone, without what separates them.
func compact(s string) string {
	return strings.Map(func(r rune) rune {
		if notWord(r) {
			return -1
		}
		return r
	}, fold(strings.ToLower(s)))
}

// fold takes the marks from lower-case letters and spells out those that have no plain letter under them.
func fold(s string) string {
	var out strings.Builder
	for _, r := range norm.NFKD.String(s) {
		if unicode.IsMark(r) {
			continue
		}
		if plain, ok := spelled[r]; ok {
			out.WriteString(plain)
			continue
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

var spelled = map[rune]string{
	'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'ł': "l", 'đ': "d", 'ð': "d", 'þ': "th", 'ı': "i", 'ħ': "h", 'ŧ': "t",
}

// forms returns a word folded, and the other spelling of its umlauts: Müller is found as Mueller, and Mueller as Müller.
func forms(w string) []string {
	w = norm.NFC.String(w)
	folded := fold(w)
	out := []string{folded}
	for _, other := range []string{fold(umlauts.Replace(w)), digraphs.Replace(folded)} {
		if !slices.Contains(out, other) {
			out = append(out, other)
		}
	}
	return out
}

var (
	umlauts  = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "ø", "oe", "å", "aa")
	digraphs = strings.NewReplacer("ae", "a", "oe", "o", "ue", "u", "aa", "a")
)

// isDate reports whether s is a FHIR date: a year, or one with month, or with month and day.
func isDate(s string) bool {
	if len(s) != 4 && len(s) != 7 && len(s) != 10 {
		return false
	}
	for i := range len(s) {
		if i == 4 || i == 7 {
			if s[i] != '-' {
				return false
			}
		} else if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// germanDate returns a date written as day, month and year between full stops in FHIR's form, or "".
func germanDate(s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) > 2 || len(parts[1]) > 2 || len(parts[2]) != 4 {
		return ""
	}
	for i := range 2 {
		if len(parts[i]) == 1 {
			parts[i] = "0" + parts[i]
		}
	}
	if date := parts[2] + "-" + parts[1] + "-" + parts[0]; isDate(date) {
		return date
	}
	return ""
}
