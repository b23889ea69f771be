package fhir

import (
	"bytes"
	"errors"
)

// The scanner finds where values begin and end without looking into them, so that a file can be cut into resources and
// each be parsed (and refused) by itself. It trusts nothing: what it cuts out is parsed strictly afterwards.

var errScan = errors.New("not well formed")

// skip returns where the value that begins at data[at] ends.
func skip(data []byte, at int) (end int, ok bool) {
	depth := 0
	for at < len(data) {
		switch data[at] {
		case '"':
			if at = skipString(data, at); at < 0 {
				return 0, false
			}
		case '{', '[':
			depth++
			at++
		case '}', ']':
			if depth--; depth < 0 {
				return 0, false
			}
			at++
		case ' ', '\t', '\n', '\r', ',', ':':
			if depth == 0 {
				return 0, false
			}
			at++
			continue
		default:
			for at < len(data) && !delimiter(data[at]) {
				at++
			}
		}
		if depth == 0 {
			return at, true
		}
	}
	return 0, false
}

func skipString(data []byte, at int) int {
	for at++; ; at++ {
		i := bytes.IndexByte(data[at:], '"')
		if i < 0 {
			return -1
		}
		at += i
		escapes := 0
		for data[at-1-escapes] == '\\' { // ends at the latest at the opening quote
			escapes++
		}
		if escapes%2 == 0 {
			return at + 1
		}
	}
}

func delimiter(c byte) bool {
	switch c {
	case ' ', '\t', '\n', '\r', ',', ':', '{', '}', '[', ']', '"':
		return true
	}
	return false
}

func skipSpace(data []byte, at int) int {
	for at < len(data) && (data[at] == ' ' || data[at] == '\t' || data[at] == '\n' || data[at] == '\r') {
		at++
	}
	return at
}

// complete reports whether data is one object, by its braces, with nothing but white space around it.
func complete(data []byte) bool {
	at := skipSpace(data, 0)
	if at == len(data) || data[at] != '{' {
		return false
	}
	end, ok := skip(data, at)
	return ok && skipSpace(data, end) == len(data)
}

// members calls fn with each key of the object in data and where its value begins and ends.
func members(data []byte, fn func(key string, from, to int) error) error {
	return each(data, '{', '}', func(at int) (int, error) {
		if data[at] != '"' {
			return 0, errScan
		}
		p := parser{in: data, at: at}
		key, ok := p.key()
		if !ok {
			return 0, errScan
		}
		at = skipSpace(data, p.at)
		if at == len(data) || data[at] != ':' {
			return 0, errScan
		}
		at = skipSpace(data, at+1)
		end, ok := skip(data, at)
		if !ok {
			return 0, errScan
		}
		return end, fn(key, at, end)
	})
}

// elements calls fn with where each element of the array in data begins and ends.
func elements(data []byte, fn func(from, to int) error) error {
	return each(data, '[', ']', func(at int) (int, error) {
		end, ok := skip(data, at)
		if !ok {
			return 0, errScan
		}
		return end, fn(at, end)
	})
}

func each(data []byte, open, shut byte, one func(at int) (end int, err error)) error {
	at := skipSpace(data, 0)
	if at == len(data) || data[at] != open {
		return errScan
	}
	at = skipSpace(data, at+1)
	if at < len(data) && data[at] == shut {
		return nil
	}
	for at < len(data) {
		end, err := one(at)
		if err != nil {
			return err
		}
		if at = skipSpace(data, end); at == len(data) {
			break
		}
		switch data[at] {
		case ',':
			at = skipSpace(data, at+1)
		case shut:
			return nil
		default:
			return errScan
		}
	}
	return errScan
}

// stringAt returns the string that data is, or "" when it is none.
func stringAt(data []byte) string {
	if len(data) == 0 || data[0] != '"' {
		return ""
	}
	p := parser{in: data}
	s, ok := p.str()
	if !ok {
		return ""
	}
	return s
}
