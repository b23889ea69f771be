package p2p

import (
	"bytes"
	"crypto/ed25519"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/crypto/pb"
)

// transportKey lets libp2p use an Identity as its key without ever seeing it.
//
// In go-libp2p v0.51.0 a private key is asked to sign (TLS certificate, Noise, signed envelopes), for its public key,
// and for Raw: by config/quic.go, which hashes it into the keys of QUIC's stateless resets and address tokens, and by
// the address manager, which takes its length for a size. Neither needs the key itself, only bytes that others do not
// know and that stay the same over a restart. WebTransport and WebRTC, which derive certificates from Raw, are off.
type transportKey struct {
	id     Identity
	public crypto.PubKey
}

func newTransportKey(id Identity) (*transportKey, error) {
	device := id.Device()
	public, err := crypto.UnmarshalEd25519PublicKey(device[:])
	if err != nil {
		return nil, fmt.Errorf("read device key: %w", err)
	}
	return &transportKey{id, public}, nil
}

func (k *transportKey) Type() pb.KeyType { return pb.KeyType_Ed25519 }

func (k *transportKey) GetPublic() crypto.PubKey { return k.public }

func (k *transportKey) Sign(message []byte) ([]byte, error) { return k.id.SignTransport(message) }

// Raw returns as many bytes as an Ed25519 key has, derived and of no other use.
func (k *transportKey) Raw() ([]byte, error) {
	one, two := k.id.Derive("libp2p raw key 1"), k.id.Derive("libp2p raw key 2")
	return append(one[:], two[:]...)[:ed25519.PrivateKeySize], nil
}

// Equals compares public keys: who holds one private key holds the other.
func (k *transportKey) Equals(other crypto.Key) bool {
	o, ok := other.(crypto.PrivKey)
	if !ok {
		return false
	}
	a, errA := k.public.Raw()
	b, errB := o.GetPublic().Raw()
	return errA == nil && errB == nil && o.Type() == k.Type() && bytes.Equal(a, b)
}

// String keeps the identity out of logs.
func (k *transportKey) String() string { return "key of device " + k.id.Device().String() }

// GoString is as String.
func (k *transportKey) GoString() string { return k.String() }
