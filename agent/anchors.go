package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/trust"
)

// AddAnchor adds an anchor, and makes the token by which whoever runs it admits the practice. One that was added before is left as it is.
func (a *Agent) AddAnchor(ctx context.Context, req api.AnchorRequest) (api.AddedAnchor, error) {
	id, addrs, err := anchorAt(req.Addresses)
	if err != nil {
		return api.AddedAnchor{}, err
	}
	if req.Name = strings.TrimSpace(req.Name); req.Name == "" || len(req.Name) > trust.MaxName {
		return api.AddedAnchor{}, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("the anchor's name has 1 to %d bytes", trust.MaxName)}
	}
	again := false
	if err := a.enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		if again = st.IsAnchor(id); again {
			req.Name, _ = a.keys.Names(st, id)
			return nil, nil
		}
		e, err := a.keys.AddAnchor(st, id, addrs, req.Name, time.Now())
		return []trust.Entry{e}, err
	}); err != nil {
		return api.AddedAnchor{}, err
	}
	peer, err := p2p.PeerID(id)
	if err != nil {
		return api.AddedAnchor{}, err
	}
	token := p2p.AnchorToken{Anchor: id, Practice: a.records.State().Practice(), Device: a.keys.Device()}
	if host := a.host.Load(); host != nil {
		host.SetPeers(a.peers.addresses(a.records))
	}
	return api.AddedAnchor{Name: req.Name, PeerID: peer.String(), Addresses: a.records.State().Addresses(id), Token: token.String(), Again: again}, nil
}

// anchorAt reads where an anchor is.
func anchorAt(texts []string) (id trust.DeviceID, addrs []string, err error) {
	invalid := func(why string) (trust.DeviceID, []string, error) {
		return id, nil, &api.Error{Code: api.CodeInvalid, Message: why,
			Hint: "`chartmesh-anchor status` prints the addresses, and `chartmesh invite` when the practice has an anchor, as /ip4/…/udp/…/quic-v1/p2p/12D3Koo…"}
	}
	if len(texts) == 0 || len(texts) > trust.MaxAddresses {
		return invalid(fmt.Sprintf("an anchor has 1 to %d addresses", trust.MaxAddresses))
	}
	for i, text := range texts {
		d, addr, err := p2p.SplitAddress(text)
		switch {
		case err != nil:
			return invalid(err.Error())
		case i > 0 && d != id:
			return invalid("the addresses are those of several anchors")
		}
		if id = d; !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return id, addrs, nil
}

// relays returns the anchors, through which devices are reached that cannot be otherwise.
func (a *Agent) relays() (list []p2p.PeerAddr) {
	st := a.records.State()
	for _, m := range st.Anchors() {
		list = append(list, p2p.PeerAddr{Device: m.Device, Addrs: slices.Concat(st.Addresses(m.Device), a.peers.get(m.Device).Addrs)})
	}
	return list
}

// anchorAddresses returns where the anchors are, by the membership log, with /p2p/.
func (a *Agent) anchorAddresses() []string {
	list := []string{}
	st := a.records.State()
	for _, m := range st.Anchors() {
		id, err := p2p.PeerID(m.Device)
		if err != nil {
			continue
		}
		for _, at := range st.Addresses(m.Device) {
			list = append(list, at+"/p2p/"+id.String())
		}
	}
	return list
}

// others returns the other devices of the practice and its anchors.
func (a *Agent) others(st *trust.State) []trust.Member {
	return slices.DeleteFunc(slices.Concat(st.Members(), st.Anchors()), func(m trust.Member) bool { return m.Device == a.keys.Device() })
}

// admits reports whether a device is let in: a member or an anchor.
func (a *Agent) admits(d trust.DeviceID) bool { return belongs(a.records.State(), d) }
