package p2p_test

import (
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/trust"
)

// FuzzParseAnchorToken reads what an administrator copied.
func FuzzParseAnchorToken(f *testing.F) {
	token := p2p.AnchorToken{Anchor: trust.DeviceID{1}, Practice: trust.EntryID{2}, Device: trust.DeviceID{3}}
	if got, err := p2p.ParseAnchorToken(" " + token.String() + "\n"); err != nil || got != token {
		f.Fatalf("%+v, %v", got, err)
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := p2p.ParseAnchorToken(string(b)); return err }, []byte(token.String()))
	f.Add([]byte("cma1-" + fuzzing.Canary))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got p2p.AnchorToken
		var err error
		fuzzing.Allocates(t, len(b), 8, 4<<10, func() { got, err = p2p.ParseAnchorToken(string(b)) })
		fuzzing.Quiet(t, err)
		if err != nil && !errors.Is(err, p2p.ErrToken) {
			t.Errorf("%q: %v", b, err)
		}
		if err == nil {
			if again, err := p2p.ParseAnchorToken(got.String()); err != nil || again != got {
				t.Errorf("%q is read as %+v, and that as %+v, %v", b, got, again, err)
			}
		}
	})
}
