package keyring

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"chartmesh/wire"
)

// FileName is the keyring's name in the data folder.
const FileName = "keyring"

// fileMagic begins the file, and then comes its version: 1, or 2 for one that says something of another store key.
var fileMagic = []byte{'c', 'm', 'k'}

const (
	versionFirst   = 1
	versionRotated = 2
)

// protection says how the secrets in the file are protected. The numbers are part of the format.
type protection uint8

const (
	protectionPermissions protection = 1 // by the file's permissions alone
	protectionPassphrase  protection = 2 // sealed under a key that argon2id makes of a passphrase
	protectionKeychain    protection = 3 // sealed under a key in the system's keychain
)

func (p protection) String() string {
	switch p {
	case protectionPassphrase:
		return "passphrase"
	case protectionKeychain:
		return "keychain"
	}
	return "permissions"
}

// sealing seals the secrets in the file; nil leaves them to its permissions.
type sealing interface {
	protection() protection
	seal(head, plain []byte) ([]byte, error)
}

// access is what opens sealed secrets.
type access struct {
	unlock Unlock   // nil: there is nobody to ask
	chain  Keychain // nil: there is none
}

const (
	secretsSize = 4*32 + 16 + 32
	rotatedSize = secretsSize + 32 + 8
	headSize    = 4 + 1
	sumSize     = sha256.Size
	plainSize   = headSize + secretsSize + sumSize
	maxFile     = 4096
)

// encode returns the file: magic and version, protection, secrets, SHA-256 of all before. The hash is against damage; who
// can write the file can do anything.
func (s secrets) encode(by sealing) ([]byte, error) {
	var w wire.Writer
	w.Raw(fileMagic)
	w.Byte(s.version())
	if by == nil {
		w.Byte(byte(protectionPermissions))
		w.Raw(s.plain())
	} else {
		w.Byte(byte(by.protection()))
		sealed, err := by.seal(w.Bytes(), s.plain())
		if err != nil {
			return nil, err
		}
		w.Raw(sealed)
	}
	sum := sha256.Sum256(w.Bytes())
	w.Raw(sum[:])
	return w.Bytes(), nil
}

func (s secrets) version() byte {
	if s.next != ([32]byte{}) || s.rotated != 0 {
		return versionRotated
	}
	return versionFirst
}

func (s secrets) plain() []byte {
	var w wire.Writer
	for _, b := range [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], s.nonce[:], s.instance[:]} {
		w.Raw(b)
	}
	if s.version() == versionRotated {
		w.Raw(s.next[:])
		w.Uint64(s.rotated)
	}
	return w.Bytes()
}

func parseSecrets(version byte, plain []byte) (s secrets, err error) {
	r := wire.NewReader(plain)
	for _, dst := range [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], s.nonce[:], s.instance[:]} {
		r.Fixed(dst)
	}
	if version == versionRotated {
		r.Fixed(s.next[:])
		s.rotated = r.Uint64()
	}
	if r.Close() != nil || s.version() != version {
		return secrets{}, ErrDamaged
	}
	return s, nil
}

// decode reads the file. Whatever it is sealed by is asked for.
func decode(b []byte, with access) (s secrets, by sealing, err error) {
	if len(b) >= 4 && bytes.HasPrefix(b, fileMagic) && b[3] > versionRotated {
		return s, nil, fmt.Errorf("%w: its version is %d, this build reads up to %d", ErrProtected, b[3], versionRotated)
	}
	if len(b) < headSize+sumSize || !bytes.HasPrefix(b, fileMagic) || b[3] < versionFirst {
		return s, nil, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	kind := protection(b[4])
	if kind > protectionKeychain {
		return s, nil, fmt.Errorf("%w: kind %d", ErrProtected, b[4])
	}
	body, sum := b[:len(b)-sumSize], sha256.Sum256(b[:len(b)-sumSize])
	if subtle.ConstantTimeCompare(sum[:], b[len(b)-sumSize:]) == 0 {
		return s, nil, fmt.Errorf("%w: its check does not fit", ErrDamaged)
	}
	switch kind {
	case protectionPermissions:
		s, err = parseSecrets(b[3], body[headSize:])
		return s, nil, err
	case protectionPassphrase:
		p, plain, err := openSealed(body, with.unlock)
		if err != nil {
			return s, nil, err
		}
		s, err = parseSecrets(b[3], plain)
		return s, p, err
	case protectionKeychain:
		k, plain, err := openKeychained(body, with.chain)
		if err != nil {
			return s, nil, err
		}
		s, err = parseSecrets(b[3], plain)
		return s, k, err
	}
	return s, nil, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
}

func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

func readBytes(dir string) ([]byte, error) {
	path := filepath.Join(dir, FileName)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, dir)
	} else if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no regular file", ErrDamaged, path)
	}
	// Windows has access lists instead of these bits; there the file inherits those of the user's folder.
	if open := info.Mode().Perm() & 0o077; open != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%w: %s has mode %04o; if nobody has read it, run: chmod 600 %s",
			ErrPermissions, path, info.Mode().Perm(), path)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, info.Size())
	}
	return os.ReadFile(path)
}

// writeNew makes the file, and fails with ErrExists if there is one: keys are never overwritten by others.
func writeNew(dir string, b []byte) error {
	return write(dir, b, func(temp, path string) error {
		err := os.Link(temp, path)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %s", ErrExists, dir)
		}
		if err == nil {
			return nil
		}
		// A file system without links: look first, then move.
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%w: %s", ErrExists, dir)
		}
		return os.Rename(temp, path)
	})
}

// replace changes the file; a crash leaves the old one or the new one.
func replace(dir string, b []byte) error { return write(dir, b, os.Rename) }

func write(dir string, b []byte, place func(temp, path string) error) (err error) {
	f, err := os.CreateTemp(dir, FileName+".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	if err := place(f.Name(), filepath.Join(dir, FileName)); err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	if err := syncNames(dir); err != nil {
		return errors.Join(errPlaced, err)
	}
	return nil
}

// syncNames is syncFolder; tests have it fail.
var syncNames = syncFolder

// syncFolder makes a new name durable. Windows has no such call; there the file system's journal keeps names.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
