package p2p_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"chartmesh/p2p"
	"chartmesh/trust"
)

const (
	streamBytes = 100_000_000
	streamBlock = 64 << 10 // as frameWriter and frameReader have it
)

// BenchmarkStream sends 100 MB through one stream of the connection that two hosts have for their sessions, and beside it, turn
// by turn, through plain TCP. A turn is over when the other end says that it has all. tls is TCP under TLS 1.3 and nothing else:
// what no encrypted stream beats.
func BenchmarkStream(b *testing.B) {
	between := func(listen, relays []string) func(*testing.B) (io.ReadWriter, io.ReadWriter) {
		return func(b *testing.B) (from, to io.ReadWriter) { return streams(b, listen, relays) }
	}
	for _, way := range []struct {
		name string
		ends func(*testing.B) (from, to io.ReadWriter)
	}{
		{"tls", encrypted}, {"quic", between(quicOnly, nil)}, {"tcp", between(tcpOnly, nil)},
		{"relayed-quic", between(nil, quicOnly)}, {"relayed-tcp", between(nil, tcpOnly)},
	} {
		b.Run(way.name, func(b *testing.B) {
			from, to := way.ends(b)
			plainFrom, plainTo := sockets(b)
			b.SetBytes(streamBytes)
			var plain time.Duration
			for b.Loop() {
				through(b, from, to)
				b.StopTimer()
				begun := time.Now()
				through(b, plainFrom, plainTo)
				plain += time.Since(begun)
				b.StartTimer()
			}
			b.ReportMetric(float64(plain)/float64(b.N), "tcp-ns")
			b.ReportMetric(float64(plain)/float64(b.N), "limit-ns")
			b.ReportMetric(float64(b.Elapsed())/float64(plain), "x-limit")
			b.ReportMetric(float64(plain)/float64(b.Elapsed()), "of-tcp")
		})
	}
}

// through sends streamBytes from one end to the other.
func through(b *testing.B, from, to io.ReadWriter) {
	b.Helper()
	read := make(chan error, 1)
	go func() {
		block := make([]byte, streamBlock)
		for n := 0; n < streamBytes; {
			m, err := to.Read(block[:min(streamBlock, streamBytes-n)])
			if n += m; err != nil {
				read <- err
				return
			}
		}
		_, err := to.Write([]byte{1})
		read <- err
	}()
	block := make([]byte, streamBlock)
	for n := 0; n < streamBytes; n += len(block) {
		if _, err := from.Write(block[:min(streamBlock, streamBytes-n)]); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := io.ReadFull(from, block[:1]); err != nil {
		b.Fatal(err)
	}
	if err := <-read; err != nil {
		b.Fatal(err)
	}
}

// streams returns the ends of a stream between two hosts that are in sync; relays: where their relay listens, if they listen nowhere.
func streams(b *testing.B, listen, relays []string) (from, to network.Stream) {
	b.Helper()
	var m members
	ids := []trust.DeviceID{newIdentity(1).Device(), newIdentity(2).Device(), newIdentity(9).Device()}
	for _, d := range ids {
		m.set1(d, true)
	}
	change := func(c *p2p.Config) { c.Listen = listen }
	var peers []p2p.PeerAddr
	if relays != nil {
		relay := newSite(b, 9, &m, func(c *p2p.Config) { c.Relay, c.Listen = circle{ids[0]: true, ids[1]: true}, relays })
		change, peers = by(relay.at(), true), []p2p.PeerAddr{relay.at()}
	}
	one, two := newSite(b, 1, &m, change), newSite(b, 2, &m, change)
	one.SetPeers(append(peers, two.at()))
	two.SetPeers(append(peers, one.at()))
	wait(b, "both agree", agreed(one, two))
	if p := one.peer(ids[1]); (p.Way == "relayed") != (relays != nil) {
		b.Fatalf("they are connected %s", p.Way)
	}
	came := make(chan network.Stream, 1)
	two.Libp2p().SetStreamHandler("/bench", func(s network.Stream) { came <- s })
	id, err := p2p.PeerID(ids[1])
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	from, err = one.Libp2p().NewStream(ctx, id, "/bench")
	if err != nil {
		b.Fatal(err)
	}
	// The protocol is agreed on with the first byte.
	if _, err := from.Write([]byte{1}); err != nil {
		b.Fatal(err)
	}
	to = <-came
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = from.Reset(), to.Reset() })
	return from, to
}

// sockets are the ends of a plain TCP connection.
func sockets(b *testing.B) (from, to net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if from, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if to, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = from.Close(), to.Close() })
	return from, to
}

// encrypted are the ends of a TCP connection under TLS.
func encrypted(b *testing.B) (from, to io.ReadWriter) {
	b.Helper()
	key := newIdentity(1).key
	cert, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	near, far := sockets(b)
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // whoever it is
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		b.Fatal(err)
	}
	return client, server
}
