package fhir

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
)

// read collects a file's items as lines: unit, line, entry, and the resource or the error.
func read(t testing.TB, content string) []string {
	t.Helper()
	var out []string
	err := ReadFile("test", strings.NewReader(content), func(it Item) error {
		what := string(it.Raw)
		if it.Err != nil {
			if it.Resource != nil || it.Raw != nil {
				t.Errorf("line %d: a resource beside the error %v", it.Line, it.Err)
			}
			what = "error: " + it.Err.Error()
		} else if !bytes.Equal(it.Raw, Canonical(it.Resource)) {
			t.Errorf("line %d: Raw and Resource differ", it.Line)
		}
		out = append(out, fmt.Sprintf("%d %d %d %s", it.Bundle, it.Line, it.Entry, what))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadFindsOutWhatAFileIs(t *testing.T) {
	a, b := `{"id":"a","resourceType":"Patient"}`, `{"id":"b","resourceType":"Patient"}`
	pretty := "\n{\n  \"resourceType\": \"Patient\",\n  \"id\": \"a\"\n}\n\n"
	same(t, read(t, ""))
	same(t, read(t, " \n\n"))
	same(t, read(t, a), "0 1 -1 "+a)
	same(t, read(t, "\ufeff"+a), "0 1 -1 "+a)
	same(t, read(t, pretty), "0 2 -1 "+a)
	same(t, read(t, a+"\n"+b), "0 1 -1 "+a, "0 2 -1 "+b)
	same(t, read(t, a+"\r\n\r\n"+b+"\r\n"), "0 1 -1 "+a, "0 3 -1 "+b)
	same(t, read(t, "[]"), "0 1 -1 error: parse JSON at byte 0: not an object")
	same(t, read(t, "name;birth\nX;1970\n"), "0 1 -1 error: parse JSON at byte 0: no JSON value begins so")

	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(a + "\n" + b))
	_ = z.Close()
	same(t, read(t, zipped.String()), "0 1 -1 "+a, "0 2 -1 "+b)
}

func TestReadGoesOnBehindABadLine(t *testing.T) {
	a := `{"id":"a","resourceType":"Patient"}`
	cut := `{"id":"x","resourceType":"Patient"`
	same(t, read(t, a+"\n"+cut+"\n{\"resourceType\":\"Patient\",\"id\":\"no/id\"}\n{\"id\":\"b\"}\n"+a+"\n"),
		"0 1 -1 "+a, "0 2 -1 error: parse JSON at byte 34: unexpected end",
		"0 3 -1 error: read id: not a resource", "0 4 -1 error: read resourceType: not a resource", "0 5 -1 "+a)
	same(t, read(t, cut+"\n\n"+a+"\n"), "0 1 -1 error: parse JSON at byte 34: unexpected end", "0 3 -1 "+a)
	same(t, read(t, "{\n \"id\": \"a\",\n \"resourceType\" \"Patient\"\n}"),
		"0 3 -1 error: parse JSON at byte 30: expected a colon")
}

func TestReadUnpacksBundles(t *testing.T) {
	const uuid = "urn:uuid:88FEDC82-1cc1-4e01-9ef1-145bbf149bb0"
	got := read(t, `{"resourceType":"Bundle","id":"gone","type":"transaction","entry":[
		{"fullUrl":"`+uuid+`","resource":{"resourceType":"Patient","link":[{"other":{"reference":"http://x/fhir/Patient/h1"}}]},"request":{"method":"POST","url":"Patient"}},
		{"fullUrl":"http://x/fhir/Patient/h1","resource":{"resourceType":"Patient"}},
		{"fullUrl":"urn:uuid:11111111-1111-1111-1111-111111111111","resource":
			{"resourceType":"Observation","id":"kept","subject":{"reference":"`+strings.ToLower(uuid)+`"},
			"focus":[{"reference":"urn:uuid:22222222-2222-2222-2222-222222222222"},{"display":"`+uuid+`"}],
			"contained":[{"resourceType":"Basic","subject":{"reference":"`+uuid+`"}}]}},
		{"resource":{"resourceType":"Patient","id":"old"},"request":{"method":"DELETE","url":"Patient/old"}},
		{"request":{"method":"GET","url":"Patient"}},
		{"resource":{"resourceType":"Patient"},"request":{"method":"PUT","url":"Patient/put"}},
		{"resource":{"resourceType":"Patient","id":"a"},"request":{"method":"PUT","url":"Patient/b"}},
		{"resource":{"resourceType":"Patient","id":"dup","id":"dup"}},
		{"resource":{"resourceType":"Patient","id":"last"},"request":{"method":"POST"},"search":{}},
		{"resource":{"resourceType":"Patient","id":"x"},"request":{"method":"canary"}},
		{}, 7,
		{"resource":{"resourceType":"Parameters"},"request":{"method":"POST","url":"ValueSet/$lookup"}},
		{"resource":{"resourceType":"Patient","id":"abs"},"request":{"method":"PUT","url":"http://x/fhir/Patient/abs"}},
		{"resource":{"resourceType":"Patient","id":"c"},"request":{"method":"PUT","url":"Patient?identifier=1"}}
	]}`)
	same(t, got,
		`0 2 0 {"id":"88fedc82-1cc1-4e01-9ef1-145bbf149bb0","link":[{"other":{"reference":"Patient/h1"}}],"resourceType":"Patient"}`,
		`0 3 1 {"id":"h1","resourceType":"Patient"}`,
		`0 5 2 {"contained":[{"resourceType":"Basic","subject":{"reference":"Patient/88fedc82-1cc1-4e01-9ef1-145bbf149bb0"}}],`+
			`"focus":[{"reference":"urn:uuid:22222222-2222-2222-2222-222222222222"},{"display":"`+uuid+`"}],"id":"kept",`+
			`"resourceType":"Observation","subject":{"reference":"Patient/88fedc82-1cc1-4e01-9ef1-145bbf149bb0"}}`,
		`0 8 3 error: the entry asks for DELETE, only POST and PUT are taken: refused`,
		`0 9 4 error: the entry asks for GET, only POST and PUT are taken: refused`,
		`0 10 5 {"id":"put","resourceType":"Patient"}`,
		`0 11 6 error: the entry's PUT names another resource than it holds: refused`,
		`0 12 7 error: parse JSON at byte 37: a key comes twice`,
		`0 13 8 {"id":"last","resourceType":"Patient"}`,
		`0 14 9 error: the entry asks for an unknown method: refused`,
		`0 15 10 error: read an entry without a resource: not a resource`,
		`0 15 11 error: read an entry: not a resource`,
		`0 16 12 error: the entry's POST asks for something else than storing its resource: refused`,
		`0 17 13 {"id":"abs","resourceType":"Patient"}`,
		`0 18 14 {"id":"c","resourceType":"Patient"}`,
	)
}

func TestReadKeepsOtherBundlesWhole(t *testing.T) {
	for _, kind := range []string{`"searchset"`, `"document"`, `"history"`, `"message"`, `7`} {
		in := `{"entry":[{"resource":{"id":"a","resourceType":"Patient"}}],"id":"b","resourceType":"Bundle","type":` + kind + `}`
		same(t, read(t, in), "0 1 -1 "+in)
	}
}

func TestReadRefusesBrokenBundles(t *testing.T) {
	for in, want := range map[string]string{
		`{"resourceType":"Bundle","type":"batch","entry":[{]}`:           "0 1 -1 error: parse JSON at byte 50: expected a key",
		`{"resourceType":"Bundle","type":"batch","entry":{}}`:            "0 1 -1 error: read a Bundle: not a resource",
		`{"resourceType":"Bundle","type":"batch","entry":[] 7}`:          "0 1 -1 error: parse JSON at byte 51: expected a comma or the end of the object",
		`{"resourceType":"Bundle","type":"batch","entry":[{} {}]}`:       "0 1 -1 error: parse JSON at byte 52: expected a comma or the end of the array",
		`{"resourceType":"Bundle","type":"batch","entry":[{},]}`:         "0 1 -1 error: parse JSON at byte 52: no JSON value begins so",
		`{"resourceType":"Bundle","type":"batch","a":1,"a":[{}]}`:        "0 1 -1 error: parse JSON at byte 46: a key comes twice",
		`{"entry":[],"resourceType":"Bundle","type":"collection"}`:       "",
		`{"type":"batch","entry":[],"resourceType":"Bundle"}` + " ":      "",
		`{"resourceType":"Bundle","type":"batch","entry":[],"entry":[]}`: "0 1 -1 error: parse JSON at byte 51: a key comes twice",
	} {
		if want == "" {
			same(t, read(t, in))
		} else {
			same(t, read(t, in), want)
		}
	}
}

func TestReadCountsUnits(t *testing.T) {
	line := `{"resourceType":"Basic","id":"%d"}` + "\n"
	var b strings.Builder
	for i := range MaxRun + 1 {
		fmt.Fprintf(&b, line, i)
	}
	b.WriteString(`{"resourceType":"Bundle","type":"batch","entry":[{"resource":{"resourceType":"Basic","id":"in"}}]}` + "\n")
	fmt.Fprintf(&b, line, 0)
	units := map[int]int{}
	for _, s := range read(t, b.String()) {
		var unit int
		_, _ = fmt.Sscan(s, &unit)
		units[unit]++
	}
	if units[0] != MaxRun || units[1] != 1 || units[2] != 1 || units[3] != 1 || len(units) != 4 {
		t.Errorf("units hold %v", units)
	}
}

func TestDerivedIDs(t *testing.T) {
	ids := func(content string) (out []string) {
		err := ReadFile("test", strings.NewReader(content), func(it Item) error {
			out = append(out, it.Resource.ID())
			return it.Err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	bundle := `{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Basic"}},{"resource":{"resourceType":"Basic"}}]}`
	a := ids(bundle)
	if a[0] == a[1] || !slices.Equal(a, ids(bundle+"\n")) || !ValidID(a[0]) {
		t.Errorf("ids of entries: %v", a)
	}
	if other := ids(strings.Replace(bundle, "collection", "batch", 1)); other[0] == a[0] {
		t.Error("another Bundle got the same ids")
	}
	lines := ids("{\"resourceType\":\"Basic\"}\n{\"resourceType\":\"Basic\"}\n{\"resourceType\":\"Basic\",\"x\":1}")
	if lines[0] == lines[1] || lines[0] == lines[2] {
		t.Errorf("ids of lines: %v", lines)
	}
	if alone := ids(`{"resourceType": "Basic"}`); alone[0] != lines[0] {
		t.Error("the same resource got another id by itself")
	}
	// The ids are part of what an import remembers, so that they must never change.
	if a[0] != "6b385732534f0849bdc8bfb2b9f157c0" || lines[0] != "152a23b30dd5f554a0ce5e8a8ceea533" {
		t.Errorf("derived ids changed: %s %s", a[0], lines[0])
	}
}

func TestReadAmbiguousURL(t *testing.T) {
	const url = "urn:uuid:11111111-1111-1111-1111-111111111111"
	same(t, read(t, `{"resourceType":"Bundle","type":"collection","entry":[
{"fullUrl":"`+url+`","resource":{"resourceType":"Patient","id":"a"}},
{"fullUrl":"`+url+`","resource":{"resourceType":"Patient","id":"b","link":[{"other":{"reference":"`+url+`"}}]}}]}`),
		`0 2 0 {"id":"a","resourceType":"Patient"}`,
		`0 3 1 {"id":"b","link":[{"other":{"reference":"`+url+`"}}],"resourceType":"Patient"}`)
}

func TestReadStopsWithTheCaller(t *testing.T) {
	stop := errors.New("stop")
	calls := 0
	err := ReadFile("test", strings.NewReader(strings.Repeat("{\"resourceType\":\"Basic\"}\n", 3)), func(Item) error {
		calls++
		return stop
	})
	if err != stop || calls != 1 {
		t.Errorf("returned %v after %d calls", err, calls)
	}
}

func TestReadReportsACutGzip(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	for i := range 10000 {
		_, _ = fmt.Fprintf(z, "{\"resourceType\":\"Basic\",\"id\":\"%d\"}\n", i*i)
	}
	_ = z.Close()
	n := 0
	err := ReadFile("test", bytes.NewReader(zipped.Bytes()[:zipped.Len()/2]), func(it Item) error {
		n++
		return it.Err
	})
	if err == nil || n == 0 {
		t.Errorf("error %v after %d resources", err, n)
	}
}

func TestCappedReaderFails(t *testing.T) {
	c := &capped{r: strings.NewReader("abcdef"), left: 5}
	if _, err := c.Read(make([]byte, 6)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
}

func FuzzReadFile(f *testing.F) {
	count := func(data []byte) (n int) {
		_ = ReadFile("seed", bytes.NewReader(data), func(it Item) error {
			if it.Err == nil {
				n++
			}
			return nil
		})
		return n
	}
	zip := func(data []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(data); err != nil {
			f.Fatal(err)
		}
		if err := z.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	taken := 0
	for _, s := range seeds(f) {
		if n := count(s); n > 0 {
			if again := count(zip(s)); again != n {
				f.Fatalf("%d resources, and %d of them gzipped", n, again)
			}
			taken++
		}
		f.Add(s)
		f.Add(zip(s))
	}
	if taken < 5 {
		f.Fatalf("only %d seeds hold resources", taken)
	}
	f.Add(zip(bytes.Repeat([]byte(`{"resourceType":"Basic"}`+"\n"), 2000)))
	f.Add([]byte(`{"resourceType":"Bundle","type":"batch","entry":[{"fullUrl":"urn:uuid:11111111-1111-1111-1111-111111111111","resource":{"resourceType":"Basic","subject":{"reference":"a"}},"request":{"method":"PUT","url":"Basic/1"}}]}`))
	f.Add([]byte(`{"resourceType":"Patient","name":[{"family":"` + fuzzing.Canary + `","family":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first []string
		for range 2 {
			var items []string
			err := ReadFile("fuzz", bytes.NewReader(data), func(it Item) error {
				fuzzing.Quiet(t, it.Err)
				if (it.Err == nil) == (it.Resource == nil) {
					t.Fatal("neither a resource nor an error, or both")
				}
				if it.Err == nil {
					if _, _, err := Name(it.Resource); err != nil {
						t.Fatal(err)
					}
					o, err := Parse(it.Raw)
					if err != nil && !errors.Is(err, ErrTooLarge) || err == nil && !Equal(o, it.Resource) {
						t.Fatalf("Raw %q does not parse to the resource: %v", it.Raw, err)
					}
				}
				if it.Line < 1 || it.Line > 1+bytes.Count(data, []byte("\n")) && data[0] != 0x1f {
					t.Fatalf("line %d", it.Line)
				}
				items = append(items, fmt.Sprint(it.Bundle, it.Line, it.Entry, string(it.Raw)))
				return nil
			})
			fuzzing.Quiet(t, err)
			if first == nil {
				first = items
			} else if !slices.Equal(first, items) {
				t.Fatal("the second reading differs")
			}
		}
	})
}

// dataFiles returns files below the folder of real data that CHARTMESH_DATA_DIR names.
func dataFiles(t testing.TB) []string {
	dir := os.Getenv("CHARTMESH_DATA_DIR")
	if dir == "" {
		t.Skip("CHARTMESH_DATA_DIR names no folder with FHIR files")
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".json.gz") || strings.Contains(path, ".ndjson") || strings.HasSuffix(path, ".json")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s: %v", len(files), dir, err)
	}
	return files
}

// TestDataRoundTrips maps every resource of the data folder there and back.
func TestDataRoundTrips(t *testing.T) {
	resources, size, refused := 0, 0, 0
	names := map[string]bool{}
	places := map[string]int{}
	for _, path := range dataFiles(t) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = ReadFile(path, f, func(it Item) error {
			if errors.Is(it.Err, ErrRefused) {
				refused++
				return nil
			}
			if it.Err != nil {
				t.Errorf("%s line %d entry %d: %v", filepath.Base(path), it.Line, it.Entry, it.Err)
				return nil
			}
			roundTrip(t, it.Resource)
			Terms(it.Resource)
			if o, err := Parse(it.Raw); err != nil || !Equal(o, it.Resource) {
				t.Errorf("%s line %d entry %d: Raw does not parse to the resource", filepath.Base(path), it.Line, it.Entry)
			}
			resources, size = resources+1, size+len(it.Raw)
			names[it.Resource.Type()+"/"+it.Resource.ID()] = true
			p := Place(it.Resource)
			if p.Patient != "" {
				places[p.Scope+" "+p.Section]++
			} else {
				places[p.Scope+" "+it.Resource.Type()]++
			}
			return nil
		})
		_ = f.Close()
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d resources, %d names, %d bytes, %d entries refused; places %v", resources, len(names), size, refused, places)
}

// TestDataLinesRoundTrip maps every line of the data folder's NDJSON as one resource, Bundles too.
func TestDataLinesRoundTrip(t *testing.T) {
	lines := 0
	for _, path := range dataFiles(t) {
		if !strings.Contains(path, ".ndjson") {
			continue
		}
		for line := range bytes.Lines(inflated(t, path)) {
			o, err := Parse(line)
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(path), err)
				continue
			}
			roundTrip(t, o)
			partsComeBack(t, o)
			lines++
		}
	}
	t.Logf("%d lines", lines)
}

func inflated(t testing.TB, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if data, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return data
}
