package acceptance

import (
	"bytes"
	"encoding/base64"
	order "encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// planted is what must not be readable: bytes, or a text, which is looked for in more forms. What it is stands in messages, never itself.
type planted struct {
	what  string
	bytes []byte
	text  bool
}

// needles finds what was planted, in every form, in one pass.
type needles struct {
	seen  [1 << 14]uint64 // bits, by a hash of the first four bytes
	begin map[uint32][]needle
	forms map[string]bool // all that there are
}

type needle struct {
	bytes []byte
	form  string // what it is, and how it is written
}

func newNeedles(t testing.TB, list ...planted) *needles {
	t.Helper()
	n := &needles{begin: map[uint32][]needle{}, forms: map[string]bool{}}
	for _, p := range list {
		if len(p.bytes) < 10 {
			t.Fatalf("%s is too short to be told from chance", p.what)
		}
		for form, b := range formsOf(p) {
			n.forms[p.what+" in "+form] = true
			w := order.LittleEndian.Uint32(b)
			n.begin[w] = append(n.begin[w], needle{b, p.what + " in " + form})
			h := hashOf(w)
			n.seen[h>>6] |= 1 << (h & 63)
		}
	}
	return n
}

func hashOf(w uint32) uint32 { return w * 2654435761 >> 12 }

// formsOf returns every form in which something is looked for.
func formsOf(p planted) map[string][]byte {
	out := map[string][]byte{}
	add := func(form string, b []byte) {
		if len(b) >= 8 {
			out[form] = b
		}
	}
	raw := "UTF-8"
	if !p.text {
		raw = "bytes"
	}
	add(raw, p.bytes)
	add("hex", []byte(hex.EncodeToString(p.bytes)))
	add("HEX", []byte(strings.ToUpper(hex.EncodeToString(p.bytes))))
	for shift := range 3 { // what stands anywhere in something else
		padded := append(bytes.Repeat([]byte{'x'}, shift), p.bytes...)
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := enc.EncodeToString(padded)
			first, last := 0, len(padded)/3*4 // what depends on no neighbour
			if shift > 0 {
				first = 4
			}
			add(fmt.Sprintf("%s at %d", name, shift), []byte(text[first:last]))
		}
	}
	if !p.text {
		return out
	}
	text := string(p.bytes)
	folded := strings.NewReplacer("ä", "a", "ö", "o", "ü", "u", "ß", "ss").Replace(strings.ToLower(text))
	for name, as := range map[string]string{"": text, "lower case, ": strings.ToLower(text), "UPPER case, ": strings.ToUpper(text), "folded, ": folded} {
		if name != "" {
			add(name+"UTF-8", []byte(as))
		}
		var le, be []byte
		for _, u := range utf16.Encode([]rune(as)) {
			le, be = order.LittleEndian.AppendUint16(le, u), order.BigEndian.AppendUint16(be, u)
		}
		add(name+"UTF-16LE", le)
		add(name+"UTF-16BE", be)
	}
	add("escaped", []byte(escaped(text)))
	return out
}

// escaped writes a text as JSON does that is kept to ASCII.
func escaped(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// in returns the forms that stand in b.
func (n *needles) in(b []byte) (found map[string]int) {
	found = map[string]int{}
	for i := 0; i+4 <= len(b); i++ {
		w := order.LittleEndian.Uint32(b[i:])
		if h := hashOf(w); n.seen[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		for _, x := range n.begin[w] {
			if bytes.HasPrefix(b[i:], x.bytes) {
				found[x.form]++
			}
		}
	}
	return found
}

// absent holds that nothing planted stands in b, wherever that is from.
func (n *needles) absent(t testing.TB, where string, b []byte) {
	t.Helper()
	for _, form := range slices.Sorted(maps.Keys(n.in(b))) {
		t.Errorf("%s: there is %s", where, form)
	}
}

// absentBelow holds that nothing planted stands in any file below a folder, nor in a file's name, and returns how much was searched.
func (n *needles) absentBelow(t testing.TB, where, root string) (searched int64) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n.absent(t, where+", the name of a file", []byte(e.Name()))
		if !e.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		searched += int64(len(b))
		n.absent(t, where+", "+strings.TrimPrefix(path, root), b)
		return err
	}))
	return searched
}

// TestSearch: the search finds each form of what was planted, and says nothing else.
func TestSearch(t *testing.T) {
	n := newNeedles(t, planted{"a name", []byte("Zwetschgenknödel"), true}, planted{"an ID", []byte("\x00\x01\xff\xfe0123456789ab"), false})
	for form := range n.forms {
		what, form, _ := strings.Cut(form, " in ")
		p := planted{"a name", []byte("Zwetschgenknödel"), true}
		if what != p.what {
			p = planted{"an ID", []byte("\x00\x01\xff\xfe0123456789ab"), false}
		}
		hay := append(append([]byte("before "), formsOf(p)[form]...), " after"...)
		if n.in(hay)[what+" in "+form] != 1 {
			t.Errorf("the search is blind to %s in %s", what, form)
		}
	}
	for shift := range 3 {
		hay := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("y", shift) + "Zwetschgenknödel and more"))
		if got := n.in([]byte(hay)); len(got) == 0 {
			t.Errorf("a text that stands %d bytes in is not found in base64", shift)
		}
	}
	if got := n.in(bytes.Repeat([]byte("Zwetschgenknodl \x00\x01\xff\xfe0123"), 1000)); len(got) > 0 {
		t.Errorf("what is not there is found: %v", got)
	}
}
