package fhir

import (
	"bytes"
	"testing"
)

// example is a resource as a practice has thousands of.
const example = `{"resourceType":"Observation","id":"2f1c6f0a-9d7e-4a51-8a58-0b7f4a0c0f11","meta":{"profile":["http://example.org/StructureDefinition/vital-signs"]},
"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"vital-signs"}]}],
"code":{"coding":[{"system":"http://loinc.org","code":"85354-9","display":"Blutdruck"}],"text":"Blutdruck"},
"subject":{"reference":"Patient/88fedc82-1cc1-4e01-9ef1-145bbf149bb0"},"encounter":{"reference":"Encounter/5d2a8b1e-7c39-4b8e-9c06-8e1f1a7d2b33"},
"effectiveDateTime":"2019-04-01T10:17:52+02:00","issued":"2019-04-01T10:17:52.123+02:00",
"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6","display":"Systolisch"}]},"valueQuantity":{"value":121.50,"unit":"mm[Hg]","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4","display":"Diastolisch"}]},"valueQuantity":{"value":79.0,"unit":"mm[Hg]","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}],
"note":[{"text":"nach fünf Minuten Ruhe gemessen"}]}`

func BenchmarkParse(b *testing.B) {
	data := []byte(example)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonical(b *testing.B) {
	o := parse(b, example)
	b.SetBytes(int64(len(example)))
	var buf []byte
	for b.Loop() {
		buf = AppendCanonical(buf[:0], o)
	}
}

func BenchmarkToValue(b *testing.B) {
	o := parse(b, example)
	b.SetBytes(int64(len(example)))
	for b.Loop() {
		if _, err := ToValue(o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromValue(b *testing.B) {
	v, err := ToValue(parse(b, example))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(example)))
	for b.Loop() {
		if _, err := FromValue(v); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkData reads, and BenchmarkDataRead hands out, everything in the data folder; the size counted is compact JSON.
func BenchmarkData(b *testing.B) {
	var all [][]byte
	for _, path := range dataFiles(b) {
		_ = ReadFile(path, bytes.NewReader(inflated(b, path)), func(it Item) error {
			all = append(all, it.Raw)
			return nil
		})
	}
	size := 0
	for _, raw := range all {
		size += len(raw)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		for _, raw := range all {
			if raw != nil {
				if _, err := Parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

func BenchmarkDataRead(b *testing.B) {
	var files [][]byte
	for _, path := range dataFiles(b) {
		files = append(files, inflated(b, path))
	}
	size := 0
	for b.Loop() {
		size = 0
		for _, data := range files {
			_ = ReadFile("data", bytes.NewReader(data), func(it Item) error {
				size += len(it.Raw)
				return nil
			})
		}
		b.SetBytes(int64(size))
	}
}

func BenchmarkTables(b *testing.B) {
	for b.Loop() {
		readTables()
	}
}
