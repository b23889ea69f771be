package logs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/internal/fuzzing"
	"chartmesh/wire"
)

// valueForms read a stored value and write it again. The number of a form is the first byte of FuzzValues' input.
var valueForms = []struct {
	name    string
	sample  []byte
	reforms func(b []byte) ([]byte, error)
}{
	{"end", logs.MarshalEnd(logs.End{Counter: 300, ID: chunk.ID{1}}), func(b []byte) ([]byte, error) {
		p, err := logs.ParseEnd(b)
		return logs.MarshalEnd(p), err
	}},
	{"position", logs.MarshalPosition(chunk.At(300, chunk.ID{1})), func(b []byte) ([]byte, error) {
		p, err := logs.ParsePosition(b)
		return logs.MarshalPosition(p), err
	}},
	{"word", logs.Word{OK: true, At: chunk.Place{Log: chunk.LogID{2}, Counter: 3, ID: chunk.ID{4}}}.Marshal(), func(b []byte) ([]byte, error) {
		x, err := logs.ParseWord(b)
		return x.Marshal(), err
	}},
	{"place", logs.MarshalPlace(chunk.Place{Log: chunk.LogID{2}, Counter: 3, ID: chunk.ID{4}}), func(b []byte) ([]byte, error) {
		p, err := logs.ParsePlace(b)
		return logs.MarshalPlace(p), err
	}},
	{"unsettled", logs.Unsettled{At: chunk.Place{Log: chunk.LogID{2}, Counter: 3, ID: chunk.ID{4}}, NotedMillis: -5}.Marshal(), func(b []byte) ([]byte, error) {
		u, err := logs.ParseUnsettled(b)
		return u.Marshal(), err
	}},
	{"settling", logs.Settling{Deleted: 300, Look: []byte{1, 2}}.Marshal(), func(b []byte) ([]byte, error) {
		x, err := logs.ParseSettling(b)
		return x.Marshal(), err
	}},
}

// FuzzValues reads what is kept of logs beside the chunks.
func FuzzValues(f *testing.F) {
	var samples [][]byte
	for i, form := range valueForms {
		if again, err := form.reforms(form.sample); err != nil || !bytes.Equal(again, form.sample) {
			f.Fatalf("sample of %s: %x is read as %x: %v", form.name, form.sample, again, err)
		}
		samples = append(samples, append([]byte{byte(i)}, form.sample...))
		f.Add(samples[i])
		f.Add(binary.AppendUvarint([]byte{byte(i), 1}, 1<<63)) // a number at its cap with nothing behind
	}
	fuzzing.Bent(f, samples)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || int(b[0]) >= len(valueForms) {
			return
		}
		form, b := valueForms[b[0]], b[1:]
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 2, 4<<10, func() { again, err = form.reforms(b) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%s %x: %v", form.name, b, err)
		case err == nil && !bytes.Equal(again, b):
			t.Errorf("%s %x comes back as %x", form.name, b, again)
		}
	})
}
