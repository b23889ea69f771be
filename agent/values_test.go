package agent

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/wire"
)

// FuzzValues reads what the agent keeps for itself: peers, invitations, ports, checks. The first byte says which.
func FuzzValues(f *testing.F) {
	forms := []func(b []byte) ([]byte, error){
		func(b []byte) ([]byte, error) { v, err := parsePeer(b); return marshalPeer(v), err },
		func(b []byte) ([]byte, error) { v, err := parseInvites(b); return marshalInvites(v), err },
		func(b []byte) ([]byte, error) { v, err := parsePorts(b); return marshalPorts(v), err },
		func(b []byte) ([]byte, error) { v, err := parseChecks(b); return marshalChecks(v), err },
	}
	read := func(b []byte) error {
		again, err := forms[b[0]](b[1:])
		if err == nil && !bytes.Equal(again, b[1:]) {
			err = errors.New("comes back as something else")
		}
		return err
	}
	now := time.UnixMilli(1790000000000)
	invitations := []invite{
		{secrets: [2]secret{{id: p2p.InviteID{1}, key: p2p.JoinKey{2}, tries: maxTries}, {id: p2p.InviteID{5}}}, locator: 1 << 21,
			role: trust.RoleAdmin, site: fuzzing.Canary, ask: true, expires: now},
		{state: inviteUsed, by: trust.DeviceID{3}, hpke: [32]byte{4}, expires: now},
	}
	fuzzing.Seeds(f, read,
		append([]byte{0}, marshalPeer(peerRecord{Addrs: []string{"/ip4/10.0.0.1/tcp/1", fuzzing.Canary}, LastContact: now})...),
		append([]byte{0}, marshalPeer(peerRecord{})...),
		append([]byte{1}, marshalInvites(invitations)...), append([]byte{1}, marshalInvites(nil)...),
		append([]byte{2}, marshalPorts(map[string]string{"udp": "4001"})...),
		append([]byte{3}, marshalChecks(api.Checks{})...),
		append([]byte{3}, marshalChecks(api.Checks{
			Verify: &api.Verified{Began: now, Took: time.Second, Chunks: 300, Kinds: map[string]uint64{"log head": 1, "view": 1 << 40}, Repaired: true},
			Scrub:  &api.Scrubbed{Began: now, Chunks: 1, Damaged: 2, Whole: true},
		})...))
	f.Add(append([]byte{3}, marshalChecks(api.Checks{Verify: &api.Verified{Kinds: map[string]uint64{fuzzing.Canary: 1}}})...))
	f.Add([]byte{0, peerFormat, maxPeerAddrs})
	f.Add([]byte{1, inviteFormat, maxInvites})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || int(b[0]) >= len(forms) {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 16, 64<<10, func() { again, err = forms[b[0]](b[1:]) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%x: %v", b, err)
		case err == nil && !bytes.Equal(again, b[1:]):
			t.Errorf("%x comes back as %x", b[1:], again)
		}
	})
}

// FuzzWritten reads the note of what wrote the folder, which programs of any later version may have written.
func FuzzWritten(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseWritten(b); return err },
		written{}.marshal(), written{2, "1.2.3 " + fuzzing.Canary}.marshal(), append([]byte{9}, append(written{7, "3"}.marshal()[1:], "more"...)...))
	f.Add([]byte{1, 2, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w written
		var err error
		fuzzing.Allocates(t, len(b), 16, 64<<10, func() { w, err = parseWritten(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.HasPrefix(b[1:], w.marshal()[1:]) {
			t.Errorf("%x is read as %+v", b, w)
		}
	})
}

// FuzzWitness reads what stands outside of the folder, where anybody may write: it is as it was written, or nothing.
func FuzzWitness(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseWitness(b); return err },
		witness{}.encode(), witness{generation: 300, chunks: 1 << 40, log: [32]byte{1, 0xff}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxWitness {
			return // is not read
		}
		var w witness
		var err error
		fuzzing.Allocates(t, len(b), 64, 16<<10, func() { w, err = parseWitness(b) })
		if err == nil && !bytes.Equal(w.encode(), b) {
			t.Errorf("%q comes back as %q", b, w.encode())
		}
	})
}
