package p2p

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/trust"
)

// TestPunchFilter: only members punch, and who says where it is has nobody else called: no name, no program of this machine, no long list.
func TestPunchFilter(t *testing.T) {
	member, stranger := trust.DeviceID{1}, trust.DeviceID{2}
	p := &puncher{host: &Host{cfg: Config{Admit: func(d trust.DeviceID) bool { return d == member }}}}
	id := func(d trust.DeviceID) peer.ID {
		id, err := PeerID(d)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	good := []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/udp/4001/quic-v1"), ma.StringCast("/ip6/2001:db8::1/tcp/4001"), ma.StringCast("/ip4/192.168.1.2/tcp/1")}
	bad := []ma.Multiaddr{
		ma.StringCast("/ip4/127.0.0.1/tcp/6379"), ma.StringCast("/ip6/::1/tcp/6379"), ma.StringCast("/ip4/0.0.0.0/tcp/1"), ma.StringCast("/dns4/victim.example/tcp/443"),
		ma.StringCast("/ip4/192.0.2.1/tcp/443/tls/sni/victim.example/ws"), ma.StringCast("/ip4/192.0.2.1/udp/53"), ma.StringCast("/ip4/192.0.2.1"),
		ma.StringCast("/ip4/127.0.0.1/udp/1/quic-v1"), ma.StringCast("/ip4/224.0.0.251/udp/5353/quic-v1"), ma.StringCast("/ip4/255.255.255.255/udp/9/quic-v1"),
	}
	if got := p.FilterRemote(id(member), append(bad, good...)); fmt.Sprint(got) != fmt.Sprint(good) {
		t.Errorf("called are %v", got)
	}
	var many []ma.Multiaddr
	for i := range 300 {
		many = append(many, ma.StringCast(fmt.Sprintf("/ip4/192.0.2.1/udp/%d/quic-v1", i+1)))
	}
	if got := p.FilterRemote(id(member), many); len(got) != maxAddrs {
		t.Errorf("%d are called for one", len(got))
	}
	if got := p.FilterLocal(id(member), good); len(got) != len(good) {
		t.Errorf("a member is told %v", got)
	}
	if told, called := p.FilterLocal(id(stranger), good), p.FilterRemote(id(stranger), good); len(told)+len(called) > 0 {
		t.Errorf("a stranger is told %v, and %v are called for it", told, called)
	}
}
