package fhir

import (
	"fmt"
	"slices"
	"sync/atomic"
	"unicode/utf16"
	"unicode/utf8"
)

// SyntaxError says why Parse refused its input, and where. It carries nothing of the input.
type SyntaxError struct {
	Offset int // in bytes from the start
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("parse JSON at byte %d: %s", e.Offset, e.Reason)
}

// Parse reads one JSON object and nothing after it. It refuses what readers disagree about: a key that comes twice,
// invalid UTF-8, half a surrogate pair; and what exceeds MaxResource, MaxDepth or MaxNumber.
func Parse(data []byte) (Object, error) { return parseObject(data, MaxResource, MaxDepth) }

func parseObject(data []byte, maxSize, maxDepth int) (Object, error) {
	v, err := parseValue(data, maxSize, maxDepth)
	if err != nil {
		return nil, err
	}
	o, ok := v.(Object)
	if !ok {
		return nil, &SyntaxError{Reason: "not an object"}
	}
	return o, nil
}

// ParseValue reads one JSON value of any kind under the same rules as Parse.
func ParseValue(data []byte) (any, error) { return parseValue(data, MaxResource, MaxDepth) }

func parseValue(data []byte, maxSize, maxDepth int) (any, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("parse JSON of %d bytes: %w", len(data), ErrTooLarge)
	}
	p := parser{in: data, depth: maxDepth}
	p.space()
	v, ok := p.value()
	if !ok {
		return nil, &p.err
	}
	p.space()
	if p.at != len(p.in) {
		return nil, &SyntaxError{Offset: p.at, Reason: "bytes after the value"}
	}
	return v, nil
}

type parser struct {
	in    []byte
	at    int
	depth int   // levels left
	stack []any // elements of the arrays that are open
	err   SyntaxError
}

func (p *parser) fail(reason string) bool {
	p.err = SyntaxError{Offset: p.at, Reason: reason}
	return false
}

func (p *parser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\n', '\t', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) value() (any, bool) {
	if p.at >= len(p.in) {
		return nil, p.fail("unexpected end")
	}
	switch c := p.in[p.at]; {
	case c == '"':
		s, ok := p.str()
		return s, ok
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	case c == 't':
		return true, p.word("true")
	case c == 'f':
		return false, p.word("false")
	case c == 'n':
		return nil, p.word("null")
	}
	return nil, p.fail("no JSON value begins so")
}

func (p *parser) word(w string) bool {
	if len(p.in)-p.at < len(w) || string(p.in[p.at:p.at+len(w)]) != w {
		return p.fail("no JSON value begins so")
	}
	p.at += len(w)
	return true
}

func (p *parser) object() (any, bool) {
	if p.depth == 0 {
		return nil, p.fail("nested too deeply")
	}
	p.depth--
	p.at++
	o := make(Object)
	p.space()
	if p.at < len(p.in) && p.in[p.at] == '}' {
		p.at++
		p.depth++
		return o, true
	}
	for {
		if p.at >= len(p.in) || p.in[p.at] != '"' {
			return nil, p.fail("expected a key")
		}
		start := p.at
		key, ok := p.key()
		if !ok {
			return nil, false
		}
		p.space()
		if p.at >= len(p.in) || p.in[p.at] != ':' {
			return nil, p.fail("expected a colon")
		}
		p.at++
		p.space()
		v, ok := p.value()
		if !ok {
			return nil, false
		}
		before := len(o)
		if o[key] = v; len(o) == before {
			p.at = start
			return nil, p.fail("a key comes twice")
		}
		p.space()
		if p.at >= len(p.in) {
			return nil, p.fail("unexpected end")
		}
		switch p.in[p.at] {
		case ',':
			p.at++
			p.space()
		case '}':
			p.at++
			p.depth++
			return o, true
		default:
			return nil, p.fail("expected a comma or the end of the object")
		}
	}
}

func (p *parser) array() (any, bool) {
	if p.depth == 0 {
		return nil, p.fail("nested too deeply")
	}
	p.depth--
	p.at++
	p.space()
	if p.at < len(p.in) && p.in[p.at] == ']' {
		p.at++
		p.depth++
		return []any{}, true
	}
	base := len(p.stack)
	for {
		v, ok := p.value()
		if !ok {
			return nil, false
		}
		p.stack = append(p.stack, v)
		p.space()
		if p.at >= len(p.in) {
			return nil, p.fail("unexpected end")
		}
		switch p.in[p.at] {
		case ',':
			p.at++
			p.space()
		case ']':
			p.at++
			p.depth++
			out := slices.Clone(p.stack[base:])
			clear(p.stack[base:])
			p.stack = p.stack[:base]
			return out, true
		default:
			return nil, p.fail("expected a comma or the end of the array")
		}
	}
}

func (p *parser) number() (any, bool) {
	start := p.at
	digits := func() bool {
		from := p.at
		for p.at < len(p.in) && p.in[p.at] >= '0' && p.in[p.at] <= '9' {
			p.at++
		}
		return p.at > from
	}
	if p.in[p.at] == '-' {
		p.at++
	}
	if p.at < len(p.in) && p.in[p.at] == '0' {
		p.at++
	} else if !digits() {
		return nil, p.fail("not a number")
	}
	if p.at < len(p.in) && p.in[p.at] == '.' {
		p.at++
		if !digits() {
			return nil, p.fail("not a number")
		}
	}
	if p.at < len(p.in) && (p.in[p.at] == 'e' || p.in[p.at] == 'E') {
		p.at++
		if p.at < len(p.in) && (p.in[p.at] == '+' || p.in[p.at] == '-') {
			p.at++
		}
		if !digits() {
			return nil, p.fail("not a number")
		}
	}
	if p.at-start > MaxNumber {
		p.at = start
		return nil, p.fail("number has too many digits")
	}
	return Number(p.in[start:p.at]), true
}

// str reads a string whose opening quote is at p.at.
func (p *parser) str() (string, bool) {
	raw, plain, ok := p.raw()
	if !ok {
		return "", false
	}
	if plain {
		return string(raw), true
	}
	return p.unescape(raw)
}

func (p *parser) key() (string, bool) {
	raw, plain, ok := p.raw()
	if !ok {
		return "", false
	}
	if plain {
		return intern(raw), true
	}
	return p.unescape(raw)
}

// raw returns the bytes between the quotes and whether they are the string as it is.
func (p *parser) raw() (raw []byte, plain, ok bool) {
	start := p.at + 1
	plain, ascii := true, true
	for i := start; i < len(p.in); i++ {
		switch c := p.in[i]; {
		case c == '"':
			raw = p.in[start:i]
			if !ascii && !utf8.Valid(raw) {
				return nil, false, p.fail("invalid UTF-8")
			}
			p.at = i + 1
			return raw, plain, true
		case c == '\\':
			plain = false
			i++ // the escaped character cannot end the string
		case c < ' ':
			p.at = i
			return nil, false, p.fail("control character in a string")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	p.at = len(p.in)
	return nil, false, p.fail("unexpected end")
}

func (p *parser) unescape(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] { // raw never ends with an unescaped backslash
		case '"', '\\', '/':
			out = append(out, raw[i])
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(raw[i+1:])
			if !ok {
				return "", p.fail("bad escape in the string before")
			}
			i += 4
			if utf16.IsSurrogate(r) {
				if len(raw) < i+7 || raw[i+1] != '\\' || raw[i+2] != 'u' {
					return "", p.fail("half a surrogate pair in the string before")
				}
				low, ok := hex4(raw[i+3:])
				if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
					return "", p.fail("half a surrogate pair in the string before")
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", p.fail("bad escape in the string before")
		}
	}
	return string(out), true
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// interned holds key strings by a hash of their bytes: field names are few and come again and again. A clash replaces.
var interned [4096]atomic.Pointer[string]

func intern(b []byte) string {
	if len(b) > 40 {
		return string(b)
	}
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	slot := &interned[(h^h>>16)%uint32(len(interned))]
	if s := slot.Load(); s != nil && *s == string(b) {
		return *s
	}
	s := string(b)
	slot.Store(&s)
	return s
}

// Canonical returns v in its canonical form.
func Canonical(v any) []byte { return AppendCanonical(nil, v) }

// AppendCanonical appends v's canonical form: no white space, keys sorted by their bytes, numbers by their digits, and
// in strings only the quote, the backslash and the control characters escaped. It panics on a value that is none of
// Object's.
func AppendCanonical(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		if v {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case string:
		return appendString(dst, v)
	case Number:
		return append(dst, v...)
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendCanonical(dst, e)
		}
		return append(dst, ']')
	case Object:
		var room [24]string
		keys := room[:0]
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			dst = AppendCanonical(dst, v[k])
		}
		return append(dst, '}')
	}
	panic(fmt.Sprintf("fhir: %T is no JSON value", v))
}

func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// Equal reports whether a and b are the same JSON value: numbers by their digits, keys in any order.
func Equal(a, b any) bool {
	switch a := a.(type) {
	case Object:
		b, ok := b.(Object)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			w, ok := b[k]
			if !ok || !Equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, Equal)
	case nil, bool, string, Number:
		switch b.(type) {
		case Object, []any:
			return false
		}
		return a == b
	}
	return false
}

// Clone returns a copy of v that shares no Object or array with it.
func Clone[T any](v T) T { return clone(v).(T) }

func clone(v any) any {
	switch v := v.(type) {
	case Object:
		if v == nil {
			return v
		}
		out := make(Object, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}
