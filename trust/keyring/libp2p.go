package keyring

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"

	"chartmesh/trust"
)

// ErrNotTransport says that a message is none of those that libp2p has signed with a device's key.
var ErrNotTransport = errors.New("not a message of the transport")

// SignTransport signs a message of libp2p's own protocols without a context, as those protocols want it. Anything else
// is refused, so that no caller can have the device's key sign what Sign would sign under a context.
func (k *Keyring) SignTransport(msg []byte) ([]byte, error) { return signTransport(k.signing, msg) }

func signTransport(key ed25519.PrivateKey, msg []byte) ([]byte, error) {
	if !trust.IsTransport(msg) {
		return nil, ErrNotTransport
	}
	return ed25519.Sign(key, msg), nil
}

// CallerKey is the root key that follows from a recovery code, as the transport's identity of a machine that has nothing but the code.
// It signs what the transport signs and nothing else.
type CallerKey struct {
	root   rootKey
	secret []byte
}

// CallerKey returns the transport's identity of whoever has the code.
func (c RecoveryCode) CallerKey() (*CallerKey, error) {
	root, _, err := c.keys()
	if err != nil {
		return nil, err
	}
	return &CallerKey{root, derive(c.symbols[:], "chartmesh caller 1", 32)}, nil
}

// Device returns the root key.
func (k *CallerKey) Device() trust.DeviceID { return k.root.Device() }

// SignTransport is as that of a Keyring.
func (k *CallerKey) SignTransport(msg []byte) ([]byte, error) {
	return signTransport(k.root.private, msg)
}

// Derive is as that of a Keyring.
func (k *CallerKey) Derive(context string) [32]byte {
	return [32]byte(derive(k.secret, "chartmesh derived 1\x00"+context, 32))
}

// Format prints no key, whatever the verb.
func (*CallerKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("caller key (hidden)")) }

// LogValue logs no key.
func (*CallerKey) LogValue() slog.Value { return slog.StringValue("caller key (hidden)") }
