package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"chartmesh/wire"
)

// Value is a tree as a caller writes and sees it. Kind says which of the other fields holds:
//
//	Map     Map; keys are any UTF-8 strings
//	List    List
//	Text    Str, merged by characters
//	String  Str
//	Int     Int
//	Bool    Int, 0 or 1
//	Null    none
//	Bytes   Str, opaque and never empty
//
// The zero Value (Kind 0) is absent. An empty List is stored as, and equal to, the Bytes `j[]`, and an empty Text as
// the String "": an Automerge list or text without content cannot be told from one whose content was removed.
type Value struct {
	Kind Kind
	Str  string
	Int  int64
	Map  map[string]Value
	List []Value
}

// emptyList is what an empty List is stored as.
const emptyList = "j[]"

// ErrValue says that a Value cannot be written as it is.
var ErrValue = errors.New("value cannot be stored")

// normal returns v, with the two forms that are stored as a scalar replaced by it.
func (v Value) normal() Value {
	switch {
	case v.Kind == List && len(v.List) == 0:
		return Value{Kind: Bytes, Str: emptyList}
	case v.Kind == Text && v.Str == "":
		return Value{Kind: String}
	}
	return v
}

// Equal reports whether a and b are the same value.
func (v Value) Equal(b Value) bool {
	a := v.normal()
	b = b.normal()
	if a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case Map:
		if len(a.Map) != len(b.Map) {
			return false
		}
		for k, x := range a.Map {
			if y, ok := b.Map[k]; !ok || !x.Equal(y) {
				return false
			}
		}
		return true
	case List:
		return slices.EqualFunc(a.List, b.List, Value.Equal)
	case Text, String, Bytes:
		return a.Str == b.Str
	case Int, Bool:
		return a.Int == b.Int
	}
	return true
}

// AppendBinary appends v's canonical form, equal for Values that are Equal: the kind's byte, then for a map the number
// of entries and each key and value, keys ascending by bytes; for a list the number of elements and each; for strings,
// texts and bytes the length and the bytes; for numbers and booleans a zigzag varint. It is for hashing and comparing.
func (v Value) AppendBinary(dst []byte) ([]byte, error) {
	var w wire.Writer
	w.Raw(dst)
	v.encode(&w)
	return w.Bytes(), nil // the error is encoding.BinaryAppender's
}

func (v Value) encode(w *wire.Writer) {
	v = v.normal()
	w.Byte(byte(v.Kind))
	switch v.Kind {
	case Map:
		w.Uvarint(uint64(len(v.Map)))
		for _, k := range slices.Sorted(maps.Keys(v.Map)) {
			w.String(k)
			v.Map[k].encode(w)
		}
	case List:
		w.Uvarint(uint64(len(v.List)))
		for _, x := range v.List {
			x.encode(w)
		}
	case Text, String, Bytes:
		w.String(v.Str)
	case Int, Bool:
		w.Varint(v.Int)
	}
}

// check refuses what has no stored form, depth being that of the container that v would be. The error names no content.
func (v Value) check(depth int) error {
	if v.Kind.Container() && depth > MaxDepth {
		return fmt.Errorf("%w: nested deeper than %d", ErrValue, MaxDepth)
	}
	switch v.Kind {
	case Map:
		for k, x := range v.Map {
			if len(k)+len(escape) > MaxKeyBytes || !utf8.ValidString(k) {
				return fmt.Errorf("%w: key of %d bytes is too long or not UTF-8", ErrValue, len(k))
			}
			if err := x.check(depth + 1); err != nil {
				return err
			}
		}
	case List:
		for _, x := range v.List {
			if err := x.check(depth + 1); err != nil {
				return err
			}
		}
	case Text, String:
		if !utf8.ValidString(v.Str) || v.Kind == String && len(v.Str) > MaxValueBytes {
			return fmt.Errorf("%w: string of %d bytes is too long or not UTF-8", ErrValue, len(v.Str))
		}
	case Bytes:
		if v.Str == "" || len(v.Str) > MaxValueBytes {
			return fmt.Errorf("%w: %d opaque bytes", ErrValue, len(v.Str))
		}
	case Bool:
		if v.Int != 0 && v.Int != 1 {
			return fmt.Errorf("%w: a boolean is 0 or 1", ErrValue)
		}
	case Int, Null:
	default:
		return fmt.Errorf("%w: unknown kind %d", ErrValue, v.Kind)
	}
	return nil
}
