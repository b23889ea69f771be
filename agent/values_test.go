package agent

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/wire"
)

// FuzzValues reads what the agent keeps for itself: peers, invitations, ports. The first byte says which.
func FuzzValues(f *testing.F) {
	forms := []func(b []byte) ([]byte, error){
		func(b []byte) ([]byte, error) { v, err := parsePeer(b); return marshalPeer(v), err },
		func(b []byte) ([]byte, error) { v, err := parseInvites(b); return marshalInvites(v), err },
		func(b []byte) ([]byte, error) { v, err := parsePorts(b); return marshalPorts(v), err },
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
		{id: p2p.InviteID{1}, key: p2p.JoinKey{2}, tries: maxTries, role: trust.RoleAdmin, expires: now},
		{used: true, by: trust.DeviceID{3}, hpke: [32]byte{4}, expires: now},
	}
	fuzzing.Seeds(f, read,
		append([]byte{0}, marshalPeer(peerRecord{Addrs: []string{"/ip4/10.0.0.1/tcp/1", fuzzing.Canary}, LastContact: now})...),
		append([]byte{0}, marshalPeer(peerRecord{})...),
		append([]byte{1}, marshalInvites(invitations)...), append([]byte{1}, marshalInvites(nil)...),
		append([]byte{2}, marshalPorts(map[string]string{"udp": "4001"})...))
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
