package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
)

func TestFormatVectors(t *testing.T) {
	s, err := deriveSecrets([32]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	const wantFormat = "chartmesh store\nversion 1\ncheck 64502ca8c36e9e3175875c06232a01bd\n" +
		"sum d39ac5c4024b8c5d07cdfb5511e8e62f\n"
	got := string(format{version: 1, check: s.check}.append())
	if got != wantFormat {
		t.Errorf("FORMAT is %q, want %q", got, wantFormat)
	}
	tags := newTagger(s.tags)
	const wantMark = "chartmesh mark\nserial 7\nsum 8fa431314c8fbda4597b537032a88113\n"
	if got := string(appendMark(7, tags)); got != wantMark {
		t.Errorf("MARK is %q, want %q", got, wantMark)
	}
	record := tags.seal(Resource.Key("Patient", "1"), formWhole, []byte("value"))
	if got, want := hex.EncodeToString(record), "8cbea4290e00e4d8f10c2b4fc315d1780176616c7565"; got != want {
		t.Errorf("record is %s, want %s", got, want)
	}
}

// TestRecordBound shows that a record is refused under another key, in another form, and with any bit changed.
func TestRecordBound(t *testing.T) {
	tags := newTagger([32]byte{1})
	key := []byte("key")
	record := tags.seal(key, formWhole, []byte("body"))
	if form, body, err := tags.open(key, record); err != nil || form != formWhole || string(body) != "body" {
		t.Fatalf("open = %d, %q, %v", form, body, err)
	}
	for i := range len(record) * 8 {
		bent := bytes.Clone(record)
		bent[i/8] ^= 1 << (i % 8)
		if _, _, err := tags.open(key, bent); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d: %v, want ErrDamaged", i, err)
		}
	}
	for n := range record {
		if _, _, err := tags.open(key, record[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v, want ErrDamaged", n, err)
		}
	}
	for _, other := range []string{"", "ke", "keyb", "kez"} {
		if _, _, err := tags.open([]byte(other), record); !errors.Is(err, ErrDamaged) {
			t.Errorf("under key %q: %v, want ErrDamaged", other, err)
		}
	}
	if _, _, err := newTagger([32]byte{2}).open(key, record); !errors.Is(err, ErrDamaged) {
		t.Errorf("with another tag key: %v, want ErrDamaged", err)
	}
}

// FuzzFormat reads FORMAT, MARK and descriptions of segments; what is bent gets a sum that fits, or nothing would get
// past it.
func FuzzFormat(f *testing.F) {
	tags := newTagger([32]byte{1})
	sums := []func([]byte) []byte{nil, plainSum, tags.fileSum}
	for _, seed := range [][]byte{format{version: 1, check: [16]byte{1}}.append(), appendMark(0, tags), appendMark(1<<60, tags),
		heads{serial: 7, mirrored: map[string]headValue{"a": {3, []byte("b")}, "b": {4, nil}}}.append(),
		description{segments: 2, length: segmentLen + 1}.append()} {
		_, errFormat := parseFormat(seed)
		_, errMark := parseMark(seed, tags)
		_, errHeads := parseHeadsBody(seed)
		if _, ok := parseDescription(seed); !ok && errFormat != nil && errMark != nil && errHeads != nil {
			f.Fatalf("seed %q is refused", seed)
		}
		f.Add(seed, byte(0))
		fuzzing.Bent(f, [][]byte{seed}, byte(0))
	}
	f.Add([]byte("chartmesh store\nversion 2\n"), byte(0))
	f.Add([]byte("chartmesh store\nversion 1\ncheck 00000000000000000000000000000000\n"), byte(1))
	f.Add([]byte("chartmesh mark\nserial 07\n"), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		if sum := sums[int(which)%len(sums)]; sum != nil {
			b = withSum(bytes.Clone(b), sum)
		}
		var got format
		var err error
		fuzzing.Allocates(t, len(b), 8, 8<<10, func() { got, err = parseFormat(b) })
		fuzzing.Quiet(t, err)
		if err == nil {
			if !bytes.Equal(got.append(), b) {
				t.Errorf("%q came back as %q", b, got.append())
			}
		} else if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", b, err)
		}
		if got, err := parseMark(b, tags); err == nil && !bytes.Equal(appendMark(got, tags), b) {
			t.Errorf("%q came back as %q", b, appendMark(got, tags))
		}
		if got, err := parseHeadsBody(b); err == nil && !bytes.Equal(got.append(), b) {
			t.Errorf("%x came back as %x", b, got.append())
		}
		if got, ok := parseDescription(b); ok && !bytes.Equal(got.append(), b) {
			t.Errorf("%x came back as %x", b, got.append())
		}
	})
}

// FuzzRecord reads records under their keys: nothing that was not sealed is taken, and what is wrong is said without the
// key, which may hold a name.
func FuzzRecord(f *testing.F) {
	tags := newTagger([32]byte{1})
	key := Term.Key(fuzzing.Canary, "Patient", "1")
	for _, body := range []string{"", "value", fuzzing.Canary} {
		record := tags.seal(key, formWhole, []byte(body))
		if form, got, err := tags.open(key, record); err != nil || form != formWhole || string(got) != body {
			f.Fatalf("seed is refused: %v", err)
		}
		f.Add(key, record)
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, record []byte) {
		var form byte
		var body []byte
		var err error
		fuzzing.Allocates(t, len(record), 0, 4<<10, func() { form, body, err = tags.open(key, record) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, ErrDamaged):
			t.Error(err)
		case err == nil && !bytes.Equal(tags.seal(key, form, body), record):
			t.Errorf("%x under %x was not sealed so", record, key)
		}
	})
}
