package anchor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"chartmesh/trust"
	"chartmesh/wire"
)

// fileIdentity holds, for its owner alone:
//
//	"cmai" 1 | seed 32
const fileIdentity = "identity"

var identityMagic = []byte{'c', 'm', 'a', 'i', 1}

// identity is the anchor's key as operations. All that it has follows from one seed: its Ed25519 key, the key that its disk is
// encrypted with, and what else is derived.
type identity struct {
	key  ed25519.PrivateKey
	seed []byte
}

// openIdentity reads the anchor's identity, or makes one in a folder that has none. No other process has the folder open.
func openIdentity(dir string) (*identity, error) {
	name := filepath.Join(dir, fileIdentity)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		if _, err := rand.Read(seed); err != nil {
			return nil, fmt.Errorf("make identity: %w", err)
		}
		if err := writeIdentity(dir, name, append(bytes.Clone(identityMagic), seed...)); err != nil {
			return nil, fmt.Errorf("write identity: %w", err)
		}
		return newIdentity(seed), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	seed, err := parseIdentity(b)
	if err != nil {
		return nil, fmt.Errorf("read identity in %s: %w", name, err)
	}
	return newIdentity(seed), nil
}

func parseIdentity(b []byte) (seed []byte, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(identityMagic)), identityMagic) {
		r.Fail("magic or version")
	}
	seed = bytes.Clone(r.Raw(ed25519.SeedSize))
	return seed, r.Close()
}

// writeIdentity writes the file whole or not at all, and not over one that another process made meanwhile.
func writeIdentity(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, fileIdentity+".*") // for this user alone
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err = d.Sync(); runtime.GOOS == "windows" {
		err = nil // it has no such call for folders
	}
	return errors.Join(err, d.Close())
}

func newIdentity(seed []byte) *identity {
	return &identity{ed25519.NewKeyFromSeed(seed), seed}
}

// Device returns the anchor's public key, which is its peer ID.
func (i *identity) Device() trust.DeviceID { return trust.DeviceID(i.key.Public().(ed25519.PublicKey)) }

// SignTransport signs one of libp2p's own messages, and nothing else.
func (i *identity) SignTransport(msg []byte) ([]byte, error) {
	if !trust.IsTransport(msg) {
		return nil, errors.New("not a message of the transport")
	}
	return ed25519.Sign(i.key, msg), nil
}

// Derive returns bytes that depend on the seed and on context, and tell nothing of it.
func (i *identity) Derive(context string) (out [32]byte) {
	b, err := hkdf.Expand(sha256.New, i.seed, "chartmesh anchor: "+context, len(out))
	if err != nil {
		panic(err) // 32 bytes can always be had
	}
	copy(out[:], b)
	return out
}

// SignAck signs what the anchor says that it holds.
func (i *identity) SignAck(msg []byte) []byte {
	return ed25519.Sign(i.key, trust.SigningInput(trust.ContextAck, msg))
}

// Sign signs what the anchor says as a voter, and nothing else.
func (i *identity) Sign(context string, msg []byte) []byte {
	if context != trust.ContextCertificate && context != trust.ContextPosition {
		panic("an anchor signs no " + context) // it is called with what is written in the program
	}
	return ed25519.Sign(i.key, trust.SigningInput(context, msg))
}
