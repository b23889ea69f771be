package p2p

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
)

// Some networks let nothing out but what looks like the web: a relay is reached there by WebSocket under TLS, at port 443. That TLS is a
// coat: the handshake that proves who is there, and all that is said, is the same within as on every other way. A proxy of such a network
// (HTTPS_PROXY) is used, and may look into the coat.

// webSocket returns the options of the transport of a host that listens there. Who comes is shown a certificate that is made for it: nobody
// relies on one.
func webSocket(listen []string) ([]any, error) {
	options := []any{
		websocket.WithTLSClientConfig(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}), //nolint:gosec // a coat, see above
	}
	if !listens(listen, isWeb) {
		return options, nil
	}
	own, err := makeCertificate()
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return append(options, websocket.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{*own}, MinVersion: tls.VersionTLS12})), nil
}

// isWeb reports whether an address is one of WebSocket, with TLS or without.
func isWeb(a ma.Multiaddr) bool {
	return slices.ContainsFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_WS || c.Protocol().Code == ma.P_WSS })
}

// webLast is by how much WebSocket, which costs most, waits for the other ways.
const webLast = time.Second

// rank orders dials as libp2p does, but for WebSocket, which it takes for any TCP.
func rank(addrs []ma.Multiaddr) []network.AddrDelay {
	var web, rest []ma.Multiaddr
	for _, a := range addrs {
		if wayOf(a) == wayDirect+wayWebSocket {
			web = append(web, a)
		} else {
			rest = append(rest, a)
		}
	}
	list := swarm.DefaultDialRanker(rest)
	var delay time.Duration
	for _, a := range list {
		delay = max(delay, a.Delay+webLast)
	}
	for _, a := range web {
		list = append(list, network.AddrDelay{Addr: a, Delay: delay})
	}
	return list
}

// makeCertificate makes a certificate of nobody's, for ten years.
func makeCertificate() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	form := &x509.Certificate{SerialNumber: serial, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
