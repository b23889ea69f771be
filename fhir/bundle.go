package fhir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// entry is what the first pass learns of a Bundle's entry, before its resource is parsed.
type entry struct {
	line     int
	fullURL  string
	resource []byte
	name     head
	setID    bool // the resource has no id of its own
	err      error
}

// bundle unpacks a transaction, batch or collection. A first pass gives every entry its id, a second one parses the
// resources one by one and resolves the references among them.
func (f *file) bundle(data []byte, line int) error {
	entries, err := bundleEntries(data, line)
	if err != nil {
		// The braces or the keys around the entries are wrong; the strict parser says where.
		it := Item{Bundle: f.unit, Line: line, Entry: -1, Err: err}
		var syntax *SyntaxError
		if _, err := parseObject(data, MaxDocument, MaxDepth+3); errors.As(err, &syntax) {
			it.Err, it.Line = err, line+bytes.Count(data[:syntax.Offset], []byte("\n"))
		}
		f.unit, f.inUnit = f.unit+1, 0
		return f.emit(it)
	}
	byURL := map[string]string{}
	content := sha256.Sum256(bytes.TrimSpace(data))
	for i := range entries {
		e := &entries[i]
		if e.err != nil {
			continue
		}
		if e.name.id == "" {
			e.setID = true
			e.name.id = idFromURL(e.fullURL, e.name.resourceType)
		}
		if e.name.id == "" {
			e.name.id = derivedID(content, i)
		}
		if e.fullURL == "" {
			continue
		}
		target := e.name.resourceType + "/" + e.name.id
		if other, ok := byURL[urlKey(e.fullURL)]; ok && other != target {
			target = "" // a URL that two entries claim names neither
		}
		byURL[urlKey(e.fullURL)] = target
	}
	resolve := func(reference string) string { return byURL[urlKey(reference)] }
	for i, e := range entries {
		it := Item{Bundle: f.unit, Line: e.line, Entry: i, Err: e.err}
		if it.Err == nil {
			it.Resource, it.Err = Parse(e.resource)
		}
		if it.Err == nil {
			if e.setID {
				it.Resource["id"] = e.name.id
			}
			ResolveReferences(it.Resource, resolve)
		}
		if err := f.finish(it); err != nil {
			return err
		}
	}
	f.unit, f.inUnit = f.unit+1, 0
	return nil
}

func bundleEntries(data []byte, line int) ([]entry, error) {
	var entries []entry
	seen := map[string]bool{}
	err := members(data, func(key string, from, to int) error {
		if seen[key] {
			return errScan
		}
		seen[key] = true
		if key != "entry" {
			return nil
		}
		line += bytes.Count(data[:from], []byte("\n"))
		last := from
		return elements(data[from:to], func(at, end int) error {
			at, end = at+from, end+from
			line += bytes.Count(data[last:at], []byte("\n"))
			last = at
			entries = append(entries, readEntry(data[at:end], line))
			return nil
		})
	})
	if err == errScan {
		err = fmt.Errorf("read a Bundle: %w", ErrInvalid)
	}
	return entries, err
}

func readEntry(data []byte, line int) entry {
	e := entry{line: line}
	var request Object
	var requestErr error
	seen := map[string]bool{}
	err := members(data, func(key string, from, to int) error {
		if seen[key] {
			return errScan
		}
		seen[key] = true
		switch key {
		case "fullUrl":
			e.fullURL = stringAt(data[from:to])
		case "resource":
			e.resource = data[from:to]
			e.line += bytes.Count(data[:from], []byte("\n"))
		case "request":
			request, requestErr = Parse(data[from:to])
		}
		return nil
	})
	switch {
	case err != nil || requestErr != nil:
		e.err = fmt.Errorf("read an entry: %w", ErrInvalid)
	case request != nil:
		e.err = checkMethod(text(request, "method"))
	}
	if e.err == nil && e.resource == nil {
		e.err = fmt.Errorf("read an entry without a resource: %w", ErrInvalid)
	}
	if e.err != nil {
		return e
	}
	e.name = glance(e.resource)
	switch text(request, "method") {
	case "PUT":
		e.err = e.putTo(text(request, "url"))
	case "POST":
		if _, t := cutLast(text(request, "url")); t != "" && t != e.name.resourceType {
			e.err = fmt.Errorf("the entry's POST asks for something else than storing its resource: %w", ErrRefused)
		}
	}
	return e
}

func checkMethod(method string) error {
	switch method {
	case "POST", "PUT", "":
		return nil
	case "DELETE", "PATCH", "GET", "HEAD":
		return fmt.Errorf("the entry asks for %s, only POST and PUT are taken: %w", method, ErrRefused)
	}
	return fmt.Errorf("the entry asks for an unknown method: %w", ErrRefused)
}

// putTo takes the id from the URL of a PUT when the resource has none, and refuses two that differ.
func (e *entry) putTo(url string) error {
	if strings.Contains(url, "?") {
		return nil // conditional: whether it would match something is nothing that a file can say
	}
	rest, id := cutLast(url)
	_, t := cutLast(rest)
	if t == "" && id == e.name.resourceType {
		return nil
	}
	if t != e.name.resourceType || !ValidID(id) || e.name.id != "" && id != e.name.id {
		return fmt.Errorf("the entry's PUT names another resource than it holds: %w", ErrRefused)
	}
	if e.name.id == "" {
		e.name.id, e.setID = id, true
	}
	return nil
}

// idFromURL returns the id that a fullUrl gives to a resource of the type without one.
func idFromURL(url, resourceType string) string {
	if uuid, ok := strings.CutPrefix(urlKey(url), "urn:uuid:"); ok {
		if validUUID(uuid) {
			return uuid
		}
		return ""
	}
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return ""
	}
	rest, id := cutLast(url)
	if _, t := cutLast(rest); t != resourceType || !ValidID(id) {
		return ""
	}
	return id
}

func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

// urlKey makes equal what names the same entry: UUIDs are written in either case.
func urlKey(url string) string {
	if len(url) == len("urn:uuid:")+36 && strings.EqualFold(url[:9], "urn:uuid:") {
		return strings.ToLower(url)
	}
	return url
}

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
		default:
			return false
		}
	}
	return true
}

// ResolveReferences replaces, in every field "reference" anywhere inside v, a string for which resolve returns another
// one. It changes v in place.
func ResolveReferences(v any, resolve func(reference string) string) {
	switch v := v.(type) {
	case Object:
		for k, e := range v {
			if s, ok := e.(string); ok && k == "reference" {
				if to := resolve(s); to != "" {
					v[k] = to
				}
				continue
			}
			ResolveReferences(e, resolve)
		}
	case []any:
		for _, e := range v {
			ResolveReferences(e, resolve)
		}
	}
}
