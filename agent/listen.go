package agent

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"

	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/wire"
)

// A device keeps its ports: other devices remember where it was, and routers whom they let in. A port of 0 in a listen
// address therefore means one that is free at first and the same from then on.

const portsFormat = 1

// transportPort finds the transport and its port in a multiaddr.
var transportPort = regexp.MustCompile(`/(udp|tcp)/(\d+)`)

// listen returns where to listen: as configured, with remembered ports in place of 0 where they are still free.
func (a *Agent) listen() ([]string, error) {
	templates := a.cfg.Listen
	if templates == nil {
		templates = p2p.DefaultListen
	}
	ports, err := a.ports()
	if err != nil {
		return nil, err
	}
	out := slices.Clone(templates)
	for i, t := range out {
		m := transportPort.FindStringSubmatch(t)
		if m == nil || m[2] != "0" {
			continue
		}
		if port := ports[m[1]]; port != "" && free(m[1], port) {
			out[i] = transportPort.ReplaceAllString(t, "/"+m[1]+"/"+port)
		}
	}
	return out, nil
}

// free reports whether a port can be bound on every interface.
func free(transport, port string) bool {
	if transport == "tcp" {
		l, err := net.Listen("tcp", ":"+port)
		return err == nil && l.Close() == nil
	}
	c, err := net.ListenPacket("udp", ":"+port)
	return err == nil && c.Close() == nil
}

func (a *Agent) ports() (map[string]string, error) {
	b, err := a.records.Small(storage.Meta.Key(replica.MetaPorts))
	if err != nil || b == nil {
		return map[string]string{}, err
	}
	ports, err := parsePorts(b)
	if err != nil {
		return nil, fmt.Errorf("read ports: %w", err)
	}
	return ports, nil
}

func parsePorts(b []byte) (map[string]string, error) {
	ports := map[string]string{}
	r := wire.NewReader(b)
	if r.Byte() != portsFormat {
		r.Fail("version")
	}
	for _, transport := range []string{"udp", "tcp"} {
		ports[transport] = r.String(5)
	}
	return ports, r.Close()
}

func marshalPorts(ports map[string]string) []byte {
	var w wire.Writer
	w.Byte(portsFormat)
	w.String(ports["udp"])
	w.String(ports["tcp"])
	return w.Bytes()
}

// rememberPorts stores the ports that were bound.
func (a *Agent) rememberPorts(ctx context.Context, addresses []string) error {
	before, err := a.ports()
	if err != nil {
		return err
	}
	now := map[string]string{"udp": before["udp"], "tcp": before["tcp"]}
	for _, addr := range addresses {
		if m := transportPort.FindStringSubmatch(addr); m != nil {
			now[m[1]] = m[2]
		}
	}
	if now["udp"] == before["udp"] && now["tcp"] == before["tcp"] {
		return nil
	}
	return a.records.PutSmall(ctx, storage.Meta.Key(replica.MetaPorts), marshalPorts(now))
}
