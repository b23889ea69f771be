package keyring

import (
	"bytes"
	"crypto/ed25519"
	"errors"
)

// ErrNotTransport says that a message is none of those that libp2p has signed with a device's key.
var ErrNotTransport = errors.New("not a message of the transport")

// transportPrefixes begin everything that libp2p signs with an identity: the handshakes of Noise and TLS, and signed
// envelopes (domain behind its length) of peer records and relay vouchers. All differ from what Sign signs.
var transportPrefixes = [][]byte{
	[]byte("noise-libp2p-static-key:"),
	[]byte("libp2p-tls-handshake:"),
	[]byte("\x12libp2p-peer-record"),
	[]byte("\x11libp2p-relay-rsvp"),
}

// SignTransport signs a message of libp2p's own protocols without a context, as those protocols want it. Anything else
// is refused, so that no caller can have the device's key sign what Sign would sign under a context.
func (k *Keyring) SignTransport(msg []byte) ([]byte, error) {
	for _, p := range transportPrefixes {
		if bytes.HasPrefix(msg, p) {
			return ed25519.Sign(k.signing, msg), nil
		}
	}
	return nil, ErrNotTransport
}
