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
	f.Add([]byte("/ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooWEqD9wA5bLFjL9JWvro8vxtHhUfbn8wPhBD9c78rdEKWL"))
	f.Add([]byte("/dns4/anchor.example.org/tcp/443/p2p/12D3KooWEqD9wA5bLFjL9JWvro8vxtHhUfbn8wPhBD9c78rdEKWL"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got p2p.AnchorToken
		var err error
		fuzzing.Allocates(t, len(b), 8, 4<<10, func() { got, err = p2p.ParseAnchorToken(string(b)) })
		fuzzing.Quiet(t, err)
		if d, addr, err := p2p.SplitAddress(string(b)); err == nil { // what an administrator copied in its place
			id, err := p2p.PeerID(d)
			if err != nil {
				t.Fatal(err)
			}
			again, at, err := p2p.SplitAddress(addr + "/p2p/" + id.String())
			if err != nil || again != d || at != addr {
				t.Errorf("%q is read as %q, and that as %q, %v", b, addr, at, err)
			}
		}
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
