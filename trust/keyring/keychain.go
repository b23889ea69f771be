package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/wire"
)

// Keychain is where the operating system keeps secrets for the user who is logged in. The keyring's file stays in its folder, sealed
// under a key that stands there.
type Keychain interface {
	// Set keeps a secret under a name.
	Set(name string, secret []byte) error
	// Get returns it: ErrKeychainEntry if there is none, ErrNoKeychain if this process reaches no keychain.
	Get(name string) ([]byte, error)
	// Delete forgets it; that there is none is no error.
	Delete(name string) error
}

var (
	// ErrNoKeychain says that the system has no keychain, or that this process cannot reach it, for example without a session.
	ErrNoKeychain = errors.New("the system's keychain cannot be reached")
	// ErrKeychainEntry says that the keychain has no key for the file: the folder is another machine's or user's, or the keychain was reset.
	ErrKeychainEntry = errors.New("the system's keychain has no key for this folder")
	// ErrKeychainLeft says that the keys are kept anew, and that the keychain still has the key that opens the file as it was.
	ErrKeychainLeft = errors.New("the key that is not needed any more could not be removed from the system's keychain")
)

// keychained is a key that stands in the keychain, and its name there.
type keychained struct {
	chain Keychain
	name  [16]byte
	key   [chacha20poly1305.KeySize]byte
}

// newKeychained puts a new key into the keychain and reads it back: what is sealed under it must not depend on a keychain that forgets.
func newKeychained(chain Keychain) (*keychained, error) {
	k := &keychained{chain: chain}
	_, _ = rand.Read(k.name[:]) // never fails
	_, _ = rand.Read(k.key[:])
	if err := chain.Set(k.entry(), k.key[:]); err != nil {
		return nil, fmt.Errorf("put a key into the keychain: %w", err)
	}
	back, err := chain.Get(k.entry())
	if err == nil && !bytes.Equal(back, k.key[:]) {
		err = ErrKeychainEntry
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the key back from the keychain: %w", err), chain.Delete(k.entry()))
	}
	return k, nil
}

func (k *keychained) entry() string { return hex.EncodeToString(k.name[:]) }

func (*keychained) protection() protection { return protectionKeychain }

// seal returns the entry's name, nonce and ciphertext. All that stands before is bound to it.
func (k *keychained) seal(head, plain []byte) ([]byte, error) {
	var w wire.Writer
	w.Raw(k.name[:])
	return sealUnder(&w, k.key[:], head, plain)
}

// openKeychained opens what seal made.
func openKeychained(body []byte, chain Keychain) (*keychained, []byte, error) {
	k := &keychained{chain: chain}
	r := wire.NewReader(body[headSize:])
	r.Fixed(k.name[:])
	nonce := r.Raw(chacha20poly1305.NonceSizeX)
	aad := body[:len(body)-r.Len()]
	sealed := r.Rest()
	if r.Err() != nil || !sealedSize(len(sealed)) {
		return nil, nil, fmt.Errorf("%w: its sealed part", ErrDamaged)
	}
	if chain == nil {
		return nil, nil, ErrNoKeychain
	}
	key, err := chain.Get(k.entry())
	if err != nil {
		return nil, nil, err
	}
	if copy(k.key[:], key) != len(k.key) || len(key) != len(k.key) {
		return nil, nil, ErrKeychainEntry
	}
	plain, err := openUnder(k.key[:], nonce, sealed, aad)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: what it has under that name does not open it", ErrKeychainEntry)
	}
	return k, plain, nil
}

// ProtectByKeychain seals the file under a key in the system's keychain from now on.
func (k *Keyring) ProtectByKeychain() error {
	if k.chain == nil {
		return fmt.Errorf("protect keyring: %w", ErrNoKeychain)
	}
	next, err := newKeychained(k.chain)
	if err != nil {
		return fmt.Errorf("protect keyring: %w", err)
	}
	if err := k.protect(next); err != nil {
		if !errors.Is(err, ErrKeychainLeft) && !errors.Is(err, errPlaced) { // else the file opens with it
			err = errors.Join(err, k.chain.Delete(next.entry()))
		}
		return fmt.Errorf("protect keyring: %w", err)
	}
	return nil
}

// errPlaced says that the new file stands in the folder, and that whether it would after a power cut is not known: what opens either is
// kept.
var errPlaced = errors.New("the keyring file was replaced, and could not be made durable")

// protect writes the file under another sealing, which must be usable by then, and only when that is durable gives up what the old one
// needed: a crash in between leaves the file with its own key, old or new, and at worst a key in the keychain that opens nothing.
func (k *Keyring) protect(by sealing) error {
	old, err := k.storeUnder(by)
	if err != nil {
		return err
	}
	if was, ok := old.(*keychained); ok { // not under the lock: the keychain may ask somebody first
		if err := was.chain.Delete(was.entry()); err != nil {
			return errors.Join(ErrKeychainLeft, err)
		}
	}
	return nil
}

// storeUnder writes the file under another sealing and returns the one before.
func (k *Keyring) storeUnder(by sealing) (old sealing, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.store(k.mu.secrets, by)
	old = k.mu.by
	if err == nil || errors.Is(err, errPlaced) {
		k.mu.by = by
	}
	return old, err
}

// Format prints nothing of the key, whatever the verb.
func (*keychained) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte("key in the keychain (hidden)"))
}

// LogValue logs nothing of the key.
func (*keychained) LogValue() slog.Value { return slog.StringValue("key in the keychain (hidden)") }
