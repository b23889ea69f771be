package command

import (
	"bytes"
	"errors"
	"testing"

	"chartmesh/anchor"
	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
)

// FuzzControl reads what comes over the socket, of either side.
func FuzzControl(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		token, err := readToken(bytes.NewReader(b))
		if err == nil && token != "cma1-abc" {
			err = errors.New("another token")
		}
		return err
	}, []byte(`{"token":"cma1-abc"}`))
	f.Add([]byte(`{"error":"it is full","code":"internal"}`))
	f.Add([]byte(`{"error":"x","code":"admitted"}`))
	f.Add([]byte(`{"peer_id":"12D3KooW","practices":[{"id":"` + fuzzing.Canary + `"}]}`))
	f.Add([]byte(`{"practice":"836284be","change":{"bytes":{"value":50000000000},"rate":{"default":true,"value":0}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readToken(bytes.NewReader(b)); err != nil && !errors.Is(err, p2p.ErrToken) {
			t.Errorf("%q: %v", b, err)
		}
		if n, err := readNamed(bytes.NewReader(b)); err != nil && (!errors.Is(err, errRequest) || n != (named{})) {
			t.Errorf("%q: %v", b, err)
		}
		var s anchor.Status
		_ = readAnswer(200, bytes.NewReader(b), &s)
		if readAnswer(422, bytes.NewReader(b), &s) == nil {
			t.Errorf("%q is taken for no refusal", b)
		}
	})
}
