package keyring

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"chartmesh/trust"
)

// Keyring holds one device's keys.
type Keyring struct {
	device  trust.DeviceID
	signing ed25519.PrivateKey
	hpke    hpke.PrivateKey
	salting []byte
	administrator

	dir   string // empty: in memory alone
	moved bool
	chain Keychain

	mu struct {
		sync.Mutex
		rand    io.Reader
		secrets secrets
		by      sealing // nil: the file is protected by its permissions
		fresh   bool
		file    [32]byte // hash of the file as it was read or written last
	}
}

// secrets is what the file holds.
type secrets struct {
	seed     [32]byte // Ed25519
	hpke     [32]byte // MLKEM768X25519 private key
	store    [32]byte // encrypts the store
	device   [32]byte // salts, and what is derived for other libraries
	nonce    [16]byte // of the current log
	instance [32]byte // which folder on which machine the nonce is bound to
	next     [32]byte // zero, or what store becomes when the store has been encrypted anew
	rotated  uint64   // when that was last done, milliseconds since 1970; 0: never
}

var (
	kem  = hpke.MLKEM768X25519()
	kdf  = hpke.HKDFSHA256()
	aead = hpke.ChaCha20Poly1305()
)

// Create makes a keyring with new keys in dir, which is made if it is not there. An empty dir keeps it in memory alone.
// A nil random is the system's; another is for simulations.
func Create(dir string, random io.Reader) (*Keyring, error) {
	if random == nil {
		random = rand.Reader
	}
	var s secrets
	for _, b := range [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], s.nonce[:]} {
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, fmt.Errorf("create keyring: read randomness: %w", err)
		}
	}
	var file []byte
	if dir != "" {
		if err := makeFolder(dir); err != nil {
			return nil, fmt.Errorf("create keyring: %w", err)
		}
		s.instance = instanceOf(dir)
		var err error
		if file, err = s.encode(nil); err == nil {
			err = writeNew(dir, file)
		}
		if err != nil {
			return nil, fmt.Errorf("create keyring: %w", err)
		}
	}
	k, err := unlock(dir, s, random)
	if err == nil && dir != "" {
		k.chain, k.mu.file = systemKeychain{}, sha256.Sum256(file)
	}
	return k, err
}

// Open reads the keyring in dir, with the passphrase that ask gives if it is protected by one, or a key of the system's keychain. If the folder was copied or
// restored, a new log begins (see Moved).
func Open(dir string, ask Unlock) (*Keyring, error) {
	return openAs(dir, instanceOf(dir), access{ask, systemKeychain{}})
}

func openAs(dir string, instance [32]byte, with access) (*Keyring, error) {
	b, err := readBytes(dir)
	var s secrets
	var by sealing
	if err == nil {
		s, by, err = decode(b, with)
	}
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	k, err := unlock(dir, s, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	k.mu.by, k.chain, k.mu.file = by, with.chain, sha256.Sum256(b)
	if s.instance != instance {
		k.mu.secrets.instance = instance
		if err := k.MintLog(); err != nil {
			return nil, fmt.Errorf("open keyring of a folder that was moved: %w", err)
		}
		k.moved = true
	}
	return k, nil
}

func unlock(dir string, s secrets, random io.Reader) (*Keyring, error) {
	private, err := kem.NewPrivateKey(s.hpke[:])
	if err != nil {
		return nil, fmt.Errorf("HPKE key: %w", ErrDamaged)
	}
	k := &Keyring{
		signing: ed25519.NewKeyFromSeed(s.seed[:]),
		hpke:    private,
		dir:     dir,
	}
	k.device = trust.DeviceID(k.signing.Public().(ed25519.PublicKey))
	k.salting = derive(s.device[:], "chartmesh salt 1", 32)
	k.mu.rand = random
	k.mu.secrets = s
	k.administrator.signer, k.administrator.random = k, k.fill
	return k, nil
}

// Device returns the device's public signing key.
func (k *Keyring) Device() trust.DeviceID { return k.device }

// HPKEPublic returns the public key that the device's key boxes are sealed to.
func (k *Keyring) HPKEPublic() []byte { return k.hpke.PublicKey().Bytes() }

// Sign signs msg under context; [trust.VerifySignature] is the other side.
func (k *Keyring) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(k.signing, trust.SigningInput(context, msg))
}

// StoreKey returns the key that the local store is encrypted with. It is the one key that leaves the keyring, because
// the store's library takes bytes.
func (k *Keyring) StoreKey() [32]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return [32]byte(derive(k.mu.secrets.store[:], "chartmesh store 1", 32))
}

// Derive returns a secret of this device for context, for libraries that want bytes of their own (QUIC's reset keys).
func (k *Keyring) Derive(context string) [32]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return [32]byte(derive(k.mu.secrets.device[:], "chartmesh derived 1\x00"+context, 32))
}

// LogNonce returns the nonce that the current log's ID is derived from.
func (k *Keyring) LogNonce() [16]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.secrets.nonce
}

// Moved reports whether Open found that the folder is not the one that the log was bound to, and began a new log.
func (k *Keyring) Moved() bool { return k.moved }

// MintLog begins a new log: the nonce is durable when it returns. The old log must never be written again.
func (k *Keyring) MintLog() error {
	if err := k.change("begin a new log", func(s *secrets) error { return k.fillLocked(s.nonce[:]) }); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.fresh = true
	return nil
}

// Fresh reports whether the log was begun since the keyring was opened, so that no program before this one wrote in it.
func (k *Keyring) Fresh() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.fresh
}

// Salt returns the salt for a body: unique even if the random source repeats itself (a cloned machine), as long as body
// or predecessor differ, and telling nothing of the body.
func (k *Keyring) Salt(body, previous [32]byte) ([16]byte, error) {
	var fresh [32]byte
	if err := k.fill(fresh[:]); err != nil {
		return [16]byte{}, fmt.Errorf("make salt: %w", err)
	}
	h := hmac.New(sha256.New, k.salting)
	h.Write(fresh[:])
	h.Write(body[:])
	h.Write(previous[:])
	return [16]byte(h.Sum(nil)), nil
}

func (k *Keyring) fill(b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fillLocked(b)
}

func (k *Keyring) fillLocked(b []byte) error {
	if _, err := io.ReadFull(k.mu.rand, b); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	return nil
}

// Learn opens every epoch that a key box of the membership log opens for this device, and those before it. Call it after each change
// of the membership. A box that does not open, or holds other keys than everybody else's, is an error that names it; the
// others are learnt all the same.
func (k *Keyring) Learn(st *trust.State) error {
	return k.learn(k.hpke, st, k.device)
}

// derive is HKDF-SHA256 without a salt; its input is always a uniformly random key.
func derive(key []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha256.New, key, nil, info, size)
	if err != nil {
		panic("keyring: HKDF with fixed sizes failed") // only for sizes over 8160 bytes
	}
	return out
}

var (
	// ErrNotAdmin says that this device may not sign what was asked.
	ErrNotAdmin = errors.New("this device is not an administrator")
	// ErrExists says that the folder has a keyring.
	ErrExists = errors.New("the folder has a keyring already")
	// ErrNotFound says that the folder has none.
	ErrNotFound = errors.New("the folder has no keyring")
	// ErrDamaged says that the file is not what was written.
	ErrDamaged = errors.New("the keyring file is damaged")
	// ErrChanged says that another process has changed the file since it was read.
	ErrChanged = errors.New("the keyring file was changed by another process")
	// ErrPermissions says that others than the owner may read the file.
	ErrPermissions = errors.New("the keyring file may be read by others")
	// ErrProtected says that the file is protected in a way that this version does not know.
	ErrProtected = errors.New("the keyring file is protected in a way that this version does not know")
)
