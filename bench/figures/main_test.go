package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestParse reads lines as go test prints them.
func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"BenchmarkEdit-2   \t    1000\t   1432100 ns/op\t      4096 committed-B/op\t   1210000 fsync-ns\t   1210000 limit-ns\t         1.184 x-limit": "Edit 1.43 ms 1.21 ms 1.2 fsync 1.21 ms 4096 committed-B/op",
		"BenchmarkSeal/form-2  9000  41000 ns/op  24.9 MB/s  3000 aead-ns  900.0 zstd-ns  3900 limit-ns  10.51 x-limit":                               "Seal/form 41 µs 3.9 µs 10.5 aead 3 µs, zstd 900 ns 24.9 MB/s",
		"BenchmarkImport 1 2.5e+09 ns/op": "Import 2.5 s",
	} {
		f, ok := parse(line)
		if !ok {
			t.Errorf("%q is not read", line)
			continue
		}
		var out bytes.Buffer
		f.print(&out)
		if got := strings.Join(strings.Fields(out.String()), " "); got != want {
			t.Errorf("%q\nis printed as %q\nand not       %q", line, got, want)
		}
	}
	for _, line := range []string{"", "goos: linux", "PASS", "ok  \tchartmesh/bench\t7.2s", "BenchmarkEdit-2", "BenchmarkEdit-2 1 x ns/op", "--- FAIL: BenchmarkEdit-2"} {
		if _, ok := parse(line); ok {
			t.Errorf("%q is read", line)
		}
	}
}
