package command

import (
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
)

// TestSizes reads sizes as people write them, and nothing else.
func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"50GB": 50e9, "1.5 TB": 15e11, "4mib": 4 << 20, "1000": 1000, "7B": 7, "none": 0, "None": 0, " 3 kB ": 3000, "0.5KiB": 512, "1TiB": 1 << 40,
	} {
		if n, err := parseSize(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "many", "0", "-1", "1.5", "GB", "5 XB", "1e400", "NaN", "Inf", "9999999TB", "5GB5", "0x10000"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
	for text, want := range map[string]uint64{"1": 1, "20000000": 20e6, "none": 0} {
		if n, err := parseCount(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1.5", "9999999999999999999", "4k"} {
		if n, err := parseCount(text); err == nil {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
	if l, err := parseLimit("default", parseSize); err != nil || !l.Default {
		t.Errorf("%+v, %v", l, err)
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1999: "1.9 kB", 50e9: "50 GB", 15e11: "1.5 TB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, not %s", n, got, want)
		}
	}
}

// FuzzSize reads what people type as a size: it is refused, or no larger than a quota may be, and reads back as it is written by a flag
// that was rounded.
func FuzzSize(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseSize(string(b)); return err }, []byte("50GB"), []byte("none"), []byte("1.5 TiB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseSize(string(b))
		if err == nil && n >= 1<<62 {
			t.Errorf("%q is %d", b, n)
		}
		if again, err := parseSize(strings.ReplaceAll(size(max(n, 1)), " ", "")); err != nil || again > max(n, 1) {
			t.Errorf("%d is written so that it reads as %d, %v", n, again, err)
		}
		if n, err := parseCount(string(b)); err == nil && n >= 1<<62 {
			t.Errorf("%q counts %d", b, n)
		}
	})
}
