package keyring

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/wire"
)

// Unlock asks for the passphrase of a keyring; nil says that there is nobody to ask.
type Unlock func() ([]byte, error)

var (
	// ErrLocked says that the keyring is protected by a passphrase, and that none was given.
	ErrLocked = errors.New("the keyring is protected by a passphrase")
	// ErrPassphrase says that a passphrase does not open the keyring.
	ErrPassphrase = errors.New("the passphrase does not open the keyring")
	// ErrWeak says that a passphrase is too short or long.
	ErrWeak = errors.New("a passphrase has 12 to 1024 bytes")
)

const (
	leastPassphrase = 12
	mostPassphrase  = 1024

	// What argon2id takes (RFC 9106, section 4, second choice), and what a file may ask for.
	argonTime, argonMemory, argonThreads                 = 3, 64 << 10, 4 // memory in KiB
	maxArgonTime, maxArgonMemory, maxArgonThreads uint64 = 16, 1 << 20, 64
)

// passphrase is a key that argon2id made of one, and what it was made with.
type passphrase struct {
	salt                  [16]byte
	time, memory, threads uint64
	key                   [chacha20poly1305.KeySize]byte
}

// newPassphrase stretches a passphrase with a new salt. It takes some tenths of a second and 64 MiB.
func newPassphrase(text []byte) (*passphrase, error) {
	if len(text) < leastPassphrase || len(text) > mostPassphrase {
		return nil, ErrWeak
	}
	p := &passphrase{time: argonTime, memory: argonMemory, threads: argonThreads}
	if _, err := rand.Read(p.salt[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	p.stretch(text)
	return p, nil
}

func (p *passphrase) stretch(text []byte) {
	copy(p.key[:], argon2.IDKey(text, p.salt[:], uint32(p.time), uint32(p.memory), uint8(p.threads), chacha20poly1305.KeySize))
}

func (*passphrase) protection() protection { return protectionPassphrase }

// seal returns salt, argon2id's parameters, nonce and ciphertext. All that stands before is bound to it.
func (p *passphrase) seal(head, plain []byte) ([]byte, error) {
	var w wire.Writer
	w.Raw(p.salt[:])
	w.Uvarint(p.time)
	w.Uvarint(p.memory)
	w.Uvarint(p.threads)
	return sealUnder(&w, p.key[:], head, plain)
}

// sealUnder appends a nonce and the ciphertext. All that stands before is bound to it.
func sealUnder(w *wire.Writer, key, head, plain []byte) ([]byte, error) {
	cipher, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal keyring: %w", err)
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce) // never fails
	w.Raw(nonce)
	aad := append(append([]byte(nil), head...), w.Bytes()...)
	w.Raw(cipher.Seal(nil, nonce, plain, aad))
	return w.Bytes(), nil
}

func openUnder(key, nonce, sealed, aad []byte) ([]byte, error) {
	cipher, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	return cipher.Open(nil, nonce, sealed, aad)
}

// sealedSize reports whether a sealed part is as long as some secrets are.
func sealedSize(n int) bool {
	return n == secretsSize+chacha20poly1305.Overhead || n == rotatedSize+chacha20poly1305.Overhead
}

// openSealed opens what seal made.
func openSealed(body []byte, unlock Unlock) (*passphrase, []byte, error) {
	p := &passphrase{}
	r := wire.NewReader(body[headSize:])
	r.Fixed(p.salt[:])
	p.time, p.memory, p.threads = r.Uvarint(maxArgonTime), r.Uvarint(maxArgonMemory), r.Uvarint(maxArgonThreads)
	nonce := r.Raw(chacha20poly1305.NonceSizeX)
	aad := body[:len(body)-r.Len()]
	sealed := r.Rest()
	if r.Err() != nil || p.time == 0 || p.threads == 0 || !sealedSize(len(sealed)) {
		return nil, nil, fmt.Errorf("%w: its sealed part", ErrDamaged)
	}
	if unlock == nil {
		return nil, nil, ErrLocked
	}
	text, err := unlock()
	if err != nil {
		return nil, nil, err
	}
	if len(text) > mostPassphrase {
		return nil, nil, ErrPassphrase
	}
	p.stretch(text)
	plain, err := openUnder(p.key[:], nonce, sealed, aad)
	if err != nil {
		return nil, nil, ErrPassphrase
	}
	return p, plain, nil
}

// Protect seals the file under a passphrase from now on, or, if it is empty, leaves it to its permissions. It is durable when it
// returns. What stood in the file before may still be on the disk, and in copies of the folder.
func (k *Keyring) Protect(text []byte) error {
	var by sealing
	if len(text) > 0 {
		p, err := newPassphrase(text)
		if err != nil {
			return fmt.Errorf("protect keyring: %w", err)
		}
		by = p
	}
	if err := k.protect(by); err != nil {
		return fmt.Errorf("protect keyring: %w", err)
	}
	return nil
}

// Protection says how the file is protected: "permissions", "passphrase" or "keychain".
func (k *Keyring) Protection() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.by == nil {
		return protectionPermissions.String()
	}
	return k.mu.by.protection().String()
}

// store writes the file, if there is one, and not over what another process has written since: that could be the only copy of a key.
// The caller holds mu.
func (k *Keyring) store(s secrets, by sealing) error {
	if k.dir == "" {
		return nil
	}
	if err := k.unchangedLocked(); err != nil {
		return err
	}
	b, err := s.encode(by)
	if err != nil {
		return err
	}
	err = replace(k.dir, b)
	if err == nil || errors.Is(err, errPlaced) { // not looked up in the file: what failed may keep it from being read, too
		k.mu.file = sha256.Sum256(b)
	}
	return err
}

// Unchanged returns ErrChanged if another process has changed the file since it was read.
func (k *Keyring) Unchanged() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unchangedLocked()
}

func (k *Keyring) unchangedLocked() error {
	b, err := readBytes(k.dir)
	if err == nil && sha256.Sum256(b) != k.mu.file {
		err = ErrChanged
	}
	return err
}

// Format prints nothing of the key, whatever the verb.
func (*passphrase) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("passphrase (hidden)")) }

// LogValue logs nothing of the key.
func (*passphrase) LogValue() slog.Value { return slog.StringValue("passphrase (hidden)") }
