package storage

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The folder of a store:
//
//	FORMAT   what this is: name, version, and a check of the key (below)
//	LOCK     locked by the process that has the store open; says which, and how far it came (lock.go)
//	HEADS    what is known to be durable, so that an emptied or older engine is noticed (heads.go)
//	KEYS     a copy of the engine's registry of keys, without which nothing in store/ can be read
//	store/   the engine's files
//
// FORMAT is lines of text that end in a sum over the lines before. All but LOCK are replaced, never changed.
const (
	fileFormat = "FORMAT"
	fileLock   = "LOCK"
	fileHeads  = "HEADS"
	fileKeys   = "KEYS"
	fileMark   = "MARK" // of version 1, in the place of HEADS
	dirStore   = "store"

	// Version is the version of the folder and of the records in it. Versions, newest first:
	//
	//	2  2026-11-25  HEADS and KEYS; MARK goes
	//	1  2026-11-22  the first
	Version = 2
)

// secrets are what a store derives from its key, each for one use.
type secrets struct {
	engine [32]byte // the engine's encryption
	tags   [32]byte // tags of records and of MARK
	check  [16]byte // stands in FORMAT, to tell a wrong key from a damaged store
	heads  [32]byte // encrypts HEADS
}

func deriveSecrets(key [32]byte) (s secrets, err error) {
	for _, d := range []struct {
		to  []byte
		use string
	}{{s.engine[:], "engine"}, {s.tags[:], "tags"}, {s.check[:], "check"}, {s.heads[:], "heads"}} {
		b, err := hkdf.Key(sha256.New, key[:], nil, "chartmesh store 1 "+d.use, len(d.to))
		if err != nil {
			return secrets{}, fmt.Errorf("derive store keys: %w", err)
		}
		copy(d.to, b)
	}
	return s, nil
}

// format is what FORMAT holds.
type format struct {
	version uint64
	check   [16]byte
}

const formatName = "chartmesh store"

func (f format) append() []byte {
	return withSum(fmt.Appendf(nil, "%s\nversion %d\ncheck %x\n", formatName, f.version, f.check), plainSum)
}

// parseFormat tells what is not ours (ErrForeign) from what is newer (ErrNewer, judged by the first two lines alone,
// since what follows may have changed) and from what was ours (ErrDamaged).
func parseFormat(b []byte) (f format, err error) {
	name, rest, _ := strings.Cut(string(b), "\n")
	if name != formatName {
		return f, ErrForeign
	}
	line, _, _ := strings.Cut(rest, "\n")
	if v, ok := strings.CutPrefix(line, "version "); ok {
		if f.version, err = strconv.ParseUint(v, 10, 32); err == nil && f.version > Version && v[0] != '0' {
			return f, fmt.Errorf("%w: its version is %d, this build reads up to %d", ErrNewer, f.version, Version)
		}
	}
	body, ok := cutSum(b, plainSum)
	if !ok {
		return f, fmt.Errorf("%s: %w", fileFormat, ErrDamaged)
	}
	_, err = fmt.Sscanf(string(body), formatName+"\nversion %d\ncheck %32x\n", &f.version, hexTo(f.check[:]))
	if err != nil || !bytes.Equal(f.append(), b) {
		return f, fmt.Errorf("%s: %w", fileFormat, ErrDamaged)
	}
	return f, nil
}

// appendMark is MARK as version 1 wrote it: a serial and a keyed sum.
func appendMark(serial uint64, t *tagger) []byte {
	return withSum(fmt.Appendf(nil, "chartmesh mark\nserial %d\n", serial), t.fileSum)
}

func parseMark(b []byte, t *tagger) (serial uint64, err error) {
	body, ok := cutSum(b, t.fileSum)
	if ok {
		_, err = fmt.Sscanf(string(body), "chartmesh mark\nserial %d\n", &serial)
	}
	if !ok || err != nil || !bytes.Equal(appendMark(serial, t), b) {
		return 0, fmt.Errorf("%s: %w", fileMark, ErrDamaged)
	}
	return serial, nil
}

func plainSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:tagLen]
}

func (t *tagger) fileSum(b []byte) []byte {
	sum := make([]byte, tagLen)
	t.tag(sum, []byte(fileMark), b)
	return sum
}

func withSum(b []byte, sum func([]byte) []byte) []byte { return fmt.Appendf(b, "sum %x\n", sum(b)) }

func cutSum(b []byte, sum func([]byte) []byte) (body []byte, ok bool) {
	const length = len("sum \n") + 2*tagLen
	if len(b) < length {
		return nil, false
	}
	body = b[:len(b)-length]
	return body, bytes.Equal(withSum(bytes.Clone(body), sum), b)
}

// hexTo scans hex digits into dst.
func hexTo(dst []byte) fmt.Scanner { return (*hexScanner)(&dst) }

type hexScanner []byte

func (h *hexScanner) Scan(state fmt.ScanState, _ rune) error {
	token, err := state.Token(true, nil)
	if err != nil {
		return err
	}
	b, err := hex.DecodeString(string(token))
	if err != nil || len(b) != len(*h) {
		return ErrDamaged
	}
	copy(*h, b)
	return nil
}

// prepareFolder makes dir a store's folder or makes sure that it is one, and returns its version. The caller holds its
// lock.
func prepareFolder(dir string, check [16]byte) (version uint64, err error) {
	name := filepath.Join(dir, fileFormat)
	b, err := os.ReadFile(name)
	switch {
	case err == nil:
		f, err := parseFormat(b)
		if err != nil {
			return 0, err
		}
		if f.check != check {
			return 0, ErrWrongKey
		}
		return f.version, nil
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	// FORMAT is written before anything else, so that without it there is nothing of a store here. An empty store folder
	// is no harm; one with files in it was a store.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		switch e.Name() {
		case fileLock, fileFormat + suffixNew:
		case fileMark, fileHeads, fileKeys, dirStore:
			return 0, fmt.Errorf("%s is missing: %w", fileFormat, ErrDamaged)
		default:
			return 0, ErrForeign
		}
	}
	return Version, replaceFile(name, format{version: Version, check: check}.append())
}

// upgrade makes a folder of an older version one of this: what the older version lacks comes first, and FORMAT last, so
// that a crash leaves a folder that either version reads.
func (d *disk) upgrade(check [16]byte) error {
	if err := d.heads.write(); err != nil {
		return err
	}
	var b Batch
	b.Put(keyFormat.Key(0), []byte(strconv.Itoa(Version)))
	if err := d.commit(context.Background(), &b); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(d.dir, fileFormat), format{version: Version, check: check}.append()); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, fileMark)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(d.dir)
}

const suffixNew = ".new"

// replaceFile makes b the durable content of a file, or leaves it as it was.
func replaceFile(name string, b []byte) error {
	f, err := os.OpenFile(name+suffixNew, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(name+suffixNew, name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}
