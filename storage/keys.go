package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrKey says that bytes are not a key of the kind that they were parsed as.
var ErrKey = errors.New("not a key of this kind")

// Ref names one chunk: its place in a log, and its ID, since a log that was written twice holds several at one place.
type Ref struct {
	Scope   [16]byte
	Log     [32]byte
	Counter uint64
	ID      [32]byte
}

// part is what a key is made of. Integers are fixed-width big endian and strings are terminated, so that keys sort as
// their parts do and no key is a prefix of another of its kind.
type part interface {
	byte | uint64 | [16]byte | [32]byte | string | Ref
}

const (
	// A string's zero byte is written as zero, escaped; its end as zero, ended. ended < escaped keeps "a" before "a\x00".
	ended   = 0x01
	escaped = 0xff
)

func appendPart[P part](key []byte, p P) []byte {
	switch v := any(p).(type) {
	case byte:
		return append(key, v)
	case uint64:
		return binary.BigEndian.AppendUint64(key, v)
	case [16]byte:
		return append(key, v[:]...)
	case [32]byte:
		return append(key, v[:]...)
	case string:
		return append(appendEscaped(key, v), 0, ended)
	case Ref:
		key = append(key, v.Scope[:]...)
		key = append(key, v.Log[:]...)
		key = binary.BigEndian.AppendUint64(key, v.Counter)
		return append(key, v.ID[:]...)
	}
	panic("unreachable: part has no other types")
}

// appendBeginning appends what every key whose part begins with p has in common: for a string all but its end.
func appendBeginning[P part](key []byte, p P) []byte {
	if s, ok := any(p).(string); ok {
		return appendEscaped(key, s)
	}
	return appendPart(key, p)
}

func appendEscaped(key []byte, s string) []byte {
	for i := range len(s) {
		key = append(key, s[i])
		if s[i] == 0 {
			key = append(key, escaped)
		}
	}
	return key
}

// takePart reads one part off rest; a nil rest stays nil, so that the first failure sticks.
func takePart[P part](rest []byte) (p P, _ []byte) {
	fixed := func(n int) []byte {
		if len(rest) < n {
			rest = nil
			return nil
		}
		b := rest[:n]
		rest = rest[n:]
		return b
	}
	switch v := any(&p).(type) {
	case *byte:
		if b := fixed(1); b != nil {
			*v = b[0]
		}
	case *uint64:
		if b := fixed(8); b != nil {
			*v = binary.BigEndian.Uint64(b)
		}
	case *[16]byte:
		copy(v[:], fixed(16))
	case *[32]byte:
		copy(v[:], fixed(32))
	case *Ref:
		if b := fixed(refLen); b != nil {
			copy(v.Scope[:], b)
			copy(v.Log[:], b[16:])
			v.Counter = binary.BigEndian.Uint64(b[48:])
			copy(v.ID[:], b[56:])
		}
	case *string:
		*v, rest = takeString(rest)
	}
	return p, rest
}

const refLen = 16 + 32 + 8 + 32

func takeString(rest []byte) (string, []byte) {
	var s []byte
	for i := 0; i < len(rest); i++ {
		if rest[i] != 0 {
			s = append(s, rest[i])
			continue
		}
		if i++; i == len(rest) {
			return "", nil
		}
		switch rest[i] {
		case ended:
			return string(s), rest[i+1:]
		case escaped:
			s = append(s, 0)
		default:
			return "", nil
		}
	}
	return "", nil
}

// Kind is a key's first byte.
type Kind struct {
	number byte
	name   string
	parts  []string
}

// Kinds lists every kind of key in the order of layout.go.
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

var kinds []Kind

// reserved reports whether callers' keys may not begin with b: the store's own kinds, and "!badger!", the engine's.
func reserved(b byte) bool { return b < firstKind || b == '!' }

const firstKind = 0x10

func define(number byte, name string, parts ...string) Kind {
	if slices.ContainsFunc(kinds, func(k Kind) bool { return k.number == number || k.name == name }) {
		panic("two kinds of key share a number or a name: " + name)
	}
	k := Kind{number, name, parts}
	kinds = append(kinds, k)
	return k
}

// Number returns the kind's byte.
func (k Kind) Number() byte { return k.number }

// Parts returns the names of what follows the kind's byte.
func (k Kind) Parts() []string { return append([]string(nil), k.parts...) }

// String returns the kind's name, which may be logged; a key may not.
func (k Kind) String() string { return k.name }

// All returns the prefix of every key of the kind.
func (k Kind) All() []byte { return []byte{k.number} }

func (k Kind) start() []byte { return append(make([]byte, 0, 128), k.number) }

func (k Kind) open(key []byte) []byte {
	if len(key) == 0 || key[0] != k.number {
		return nil
	}
	return key[1:]
}

// closed fails unless exactly nothing is left: a failure on the way left nil.
func (k Kind) closed(rest []byte) error {
	if rest == nil || len(rest) != 0 {
		return fmt.Errorf("parse %s key: %w", k.name, ErrKey)
	}
	return nil
}

// Kind1 makes and parses keys of one part.
type Kind1[A part] struct{ Kind }

func define1[A part](number byte, name, a string) Kind1[A] { return Kind1[A]{define(number, name, a)} }

// Key returns the key of a.
func (k Kind1[A]) Key(a A) []byte { return appendPart(k.start(), a) }

// Parse is Key's inverse.
func (k Kind1[A]) Parse(key []byte) (a A, err error) {
	a, rest := takePart[A](k.open(key))
	return a, k.closed(rest)
}

// Kind2 makes and parses keys of two parts.
type Kind2[A, B part] struct{ Kind }

func define2[A, B part](number byte, name, a, b string) Kind2[A, B] {
	return Kind2[A, B]{define(number, name, a, b)}
}

// Key returns the key of a and b.
func (k Kind2[A, B]) Key(a A, b B) []byte { return appendPart(k.With(a), b) }

// With returns the prefix of every key that has a.
func (k Kind2[A, B]) With(a A) []byte { return appendPart(k.start(), a) }

// Beginning returns the prefix of every key whose first part begins with a.
func (k Kind2[A, B]) Beginning(a A) []byte { return appendBeginning(k.start(), a) }

// Parse is Key's inverse.
func (k Kind2[A, B]) Parse(key []byte) (a A, b B, err error) {
	a, rest := takePart[A](k.open(key))
	b, rest = takePart[B](rest)
	return a, b, k.closed(rest)
}

// Kind3 makes and parses keys of three parts.
type Kind3[A, B, C part] struct{ Kind }

func define3[A, B, C part](number byte, name, a, b, c string) Kind3[A, B, C] {
	return Kind3[A, B, C]{define(number, name, a, b, c)}
}

// Key returns the key of a, b and c.
func (k Kind3[A, B, C]) Key(a A, b B, c C) []byte { return appendPart(k.With2(a, b), c) }

// With returns the prefix of every key that has a.
func (k Kind3[A, B, C]) With(a A) []byte { return appendPart(k.start(), a) }

// With2 returns the prefix of every key that has a and b.
func (k Kind3[A, B, C]) With2(a A, b B) []byte { return appendPart(k.With(a), b) }

// Beginning returns the prefix of every key whose first part begins with a.
func (k Kind3[A, B, C]) Beginning(a A) []byte { return appendBeginning(k.start(), a) }

// Parse is Key's inverse.
func (k Kind3[A, B, C]) Parse(key []byte) (a A, b B, c C, err error) {
	a, rest := takePart[A](k.open(key))
	b, rest = takePart[B](rest)
	c, rest = takePart[C](rest)
	return a, b, c, k.closed(rest)
}

// Kind4 makes and parses keys of four parts.
type Kind4[A, B, C, D part] struct{ Kind }

func define4[A, B, C, D part](number byte, name, a, b, c, d string) Kind4[A, B, C, D] {
	return Kind4[A, B, C, D]{define(number, name, a, b, c, d)}
}

// Key returns the key of a, b, c and d.
func (k Kind4[A, B, C, D]) Key(a A, b B, c C, d D) []byte { return appendPart(k.With3(a, b, c), d) }

// With returns the prefix of every key that has a.
func (k Kind4[A, B, C, D]) With(a A) []byte { return appendPart(k.start(), a) }

// With2 returns the prefix of every key that has a and b.
func (k Kind4[A, B, C, D]) With2(a A, b B) []byte { return appendPart(k.With(a), b) }

// With3 returns the prefix of every key that has a, b and c.
func (k Kind4[A, B, C, D]) With3(a A, b B, c C) []byte { return appendPart(k.With2(a, b), c) }

// Parse is Key's inverse.
func (k Kind4[A, B, C, D]) Parse(key []byte) (a A, b B, c C, d D, err error) {
	a, rest := takePart[A](k.open(key))
	b, rest = takePart[B](rest)
	c, rest = takePart[C](rest)
	d, rest = takePart[D](rest)
	return a, b, c, d, k.closed(rest)
}
