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

var fileMagic = []byte{'c', 'm', 'k', 1}

// protection says how the secrets in the file are protected. The numbers are part of the format.
type protection uint8

const (
	protectionPermissions protection = 1 // by the file's permissions alone
	protectionPassphrase  protection = 2 // sealed under a key that argon2id makes of a passphrase
)

func (p protection) String() string {
	if p == protectionPassphrase {
		return "passphrase"
	}
	return "permissions"
}

const (
	secretsSize = 4*32 + 16 + 32
	headSize    = 4 + 1
	sumSize     = sha256.Size
	plainSize   = headSize + secretsSize + sumSize
	maxFile     = 4096
)

// encode returns the file: magic and version, protection, secrets, SHA-256 of all before. The hash is against damage; who
// can write the file can do anything.
func (s secrets) encode(by *passphrase) ([]byte, error) {
	var w wire.Writer
	w.Raw(fileMagic)
	if by == nil {
		w.Byte(byte(protectionPermissions))
		w.Raw(s.plain())
	} else {
		w.Byte(byte(protectionPassphrase))
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

func (s secrets) plain() []byte {
	var w wire.Writer
	for _, b := range [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], s.nonce[:], s.instance[:]} {
		w.Raw(b)
	}
	return w.Bytes()
}

func parseSecrets(plain []byte) (s secrets, err error) {
	r := wire.NewReader(plain)
	for _, dst := range [][]byte{s.seed[:], s.hpke[:], s.store[:], s.device[:], s.nonce[:], s.instance[:]} {
		r.Fixed(dst)
	}
	if r.Close() != nil {
		return secrets{}, ErrDamaged
	}
	return s, nil
}

// decode reads the file. unlock is asked for the passphrase if there is one.
func decode(b []byte, unlock Unlock) (s secrets, by *passphrase, err error) {
	if len(b) >= 4 && bytes.Equal(b[:3], fileMagic[:3]) && b[3] > fileMagic[3] {
		return s, nil, fmt.Errorf("%w: its version is %d, this build reads up to %d", ErrProtected, b[3], fileMagic[3])
	}
	if len(b) < headSize+sumSize || !bytes.Equal(b[:4], fileMagic) {
		return s, nil, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	kind := protection(b[4])
	if kind > protectionPassphrase {
		return s, nil, fmt.Errorf("%w: kind %d", ErrProtected, b[4])
	}
	body, sum := b[:len(b)-sumSize], sha256.Sum256(b[:len(b)-sumSize])
	if subtle.ConstantTimeCompare(sum[:], b[len(b)-sumSize:]) == 0 {
		return s, nil, fmt.Errorf("%w: its check does not fit", ErrDamaged)
	}
	switch kind {
	case protectionPermissions:
		s, err = parseSecrets(body[headSize:])
		return s, nil, err
	case protectionPassphrase:
		by, plain, err := openSealed(body, unlock)
		if err != nil {
			return s, nil, err
		}
		s, err = parseSecrets(plain)
		return s, by, err
	}
	return s, nil, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
}

func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

func readFile(dir string, unlock Unlock) (secrets, *passphrase, error) {
	path := filepath.Join(dir, FileName)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secrets{}, nil, fmt.Errorf("%w: %s", ErrNotFound, dir)
	} else if err != nil {
		return secrets{}, nil, err
	}
	if !info.Mode().IsRegular() {
		return secrets{}, nil, fmt.Errorf("%w: %s is no regular file", ErrDamaged, path)
	}
	// Windows has access lists instead of these bits; there the file inherits those of the user's folder.
	if open := info.Mode().Perm() & 0o077; open != 0 && runtime.GOOS != "windows" {
		return secrets{}, nil, fmt.Errorf("%w: %s has mode %04o; if nobody has read it, run: chmod 600 %s",
			ErrPermissions, path, info.Mode().Perm(), path)
	}
	if info.Size() > maxFile {
		return secrets{}, nil, fmt.Errorf("%w: %d bytes", ErrDamaged, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return secrets{}, nil, err
	}
	return decode(b, unlock)
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
	return syncFolder(dir)
}

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
