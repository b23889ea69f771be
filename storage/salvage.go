package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// Salvaged counts what Salvage met.
type Salvaged struct {
	Files   int // tables and logs
	Damaged int // of them, those that did not read whole
}

// Salvage reads what can still be read of the store in dir, which need not open and is not changed: every table and
// every log on its own, whatever the manifest says of them. It calls fn with the pairs of some kinds whose tags are
// right, in no order; of several values of one key the newest that was found comes last. A value that was removed may come
// back. fn may keep neither slice, and its error ends the reading.
//
// The engine's code may end the process on damage that its checks let pass, so it is to be called in one of its own.
func Salvage(dir string, key [32]byte, wanted []Kind, fn func(key, value []byte) error) (Salvaged, error) {
	secrets, err := deriveSecrets(key)
	if err != nil {
		return Salvaged{}, err
	}
	s := &salvage{dir: filepath.Join(dir, dirStore), tags: newTagger(secrets.tags), fn: fn, seen: map[string]uint64{}}
	for _, k := range wanted {
		s.wanted[k.number] = true
	}
	for _, in := range []string{s.dir, dir} { // where the engine has its keys, and where the copy is
		if s.registry, err = s.openKeys(in, secrets.engine[:]); err == nil {
			break
		}
	}
	if err != nil {
		return s.count, fmt.Errorf("salvage: %w", err)
	}
	for id := uint64(1); ; id++ {
		dataKey, err := s.registry.DataKey(id)
		if err != nil || dataKey == nil {
			break
		}
		s.keys = append([][]byte{dataKey.Data}, s.keys...)
	}
	for pass := range 2 {
		s.second = pass == 1
		if s.second && len(s.large) == 0 {
			break
		}
		if err := s.read(); err != nil {
			return s.count, fmt.Errorf("salvage: %w", err)
		}
	}
	return s.count, s.emitLarge()
}

type salvage struct {
	dir      string
	tags     *tagger
	registry *badger.KeyRegistry
	wanted   [256]bool
	fn       func(key, value []byte) error
	seen     map[string]uint64      // the newest version of each key that came
	keys     [][]byte               // of the engine, for tables, newest first
	large    map[string]description // values in segments, by key
	segments map[string][]byte      // of those, in the second pass
	second   bool
	count    Salvaged
}

// openKeys reads the registry in a folder, or its copy, which has another name.
func (s *salvage) openKeys(dir string, key []byte) (*badger.KeyRegistry, error) {
	if dir == s.dir {
		if _, err := os.Stat(filepath.Join(dir, badger.KeyRegistryFileName)); err != nil {
			return nil, fmt.Errorf("%w: the engine's keys are missing", ErrDamaged)
		}
		return openRegistry(dir, key)
	}
	b, err := os.ReadFile(filepath.Join(dir, fileKeys))
	if err != nil {
		return nil, fmt.Errorf("read the copy of the engine's keys: %w", err)
	}
	temp, err := os.MkdirTemp("", "chartmesh-keys-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := os.WriteFile(filepath.Join(temp, badger.KeyRegistryFileName), b, 0o600); err != nil {
		return nil, err
	}
	return openRegistry(temp, key)
}

func (s *salvage) read() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		var whole bool
		read := s.table
		switch filepath.Ext(name) {
		case ".sst":
		case extLog:
			read = s.log
		default:
			continue
		}
		gerr := guarded(func() { whole, err = read(name) })
		if stop, ok := errors.AsType[stopped](err); ok {
			return stop.error
		}
		if !s.second {
			s.count.Files++
			if gerr != nil || err != nil || !whole {
				s.count.Damaged++
			}
		}
	}
	return nil
}

// stopped is an error of the caller's, which ends the reading, unlike damage.
type stopped struct{ error }

// take judges one version of a key.
func (s *salvage) take(key, record []byte, version uint64) error {
	if s.second {
		if len(key) == 0 || key[0] != keySegment.number {
			return nil
		}
		if _, part, err := s.tags.open(key, record); err == nil && s.seen[string(key)] <= version {
			s.seen[string(key)] = version
			s.segments[string(key)] = bytes.Clone(part)
		}
		return nil
	}
	if len(key) == 0 || !s.wanted[key[0]] {
		return nil
	}
	form, body, err := s.tags.open(key, record)
	if err != nil {
		return nil //nolint:nilerr // damaged: what is not there is found by whoever looks for it
	}
	if last, ok := s.seen[string(key)]; ok && last >= version {
		return nil
	}
	s.seen[string(key)] = version
	delete(s.large, string(key))
	switch form {
	case formWhole:
		if err := s.fn(key, body); err != nil {
			return stopped{err}
		}
	case formSegmented:
		if desc, ok := parseDescription(body); ok {
			if s.large == nil {
				s.large, s.segments = map[string]description{}, map[string][]byte{}
			}
			s.large[string(key)] = desc
		}
	}
	return nil
}

// emitLarge puts large values together from their segments.
func (s *salvage) emitLarge() error {
	for key, desc := range s.large {
		at := sha256.Sum256([]byte(key))
		var value []byte
		for n := range desc.segments {
			value = append(value, s.segments[string(keySegment.Key(at, n))]...)
		}
		if uint64(len(value)) != desc.length || sha256.Sum256(value) != desc.sum {
			continue
		}
		if err := s.fn([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// log reads what comes before the damage in a log, whole transactions or not, and what can be made out behind it.
func (s *salvage) log(name string) (whole bool, err error) {
	l, err := openLog(name, s.registry)
	if err != nil || len(l.b) < logHead || l.key == nil {
		return err == nil, err
	}
	whole = true
	content := len(bytes.TrimRight(l.b, "\x00"))
	for at := logHead; at < content; {
		e, ok := parseLogEntry(l.b, at)
		if !ok {
			whole = false
			at++
			continue
		}
		at = e.next
		if e.meta&(metaFin|metaDelete) != 0 {
			continue
		}
		key, record, version, err := l.open(e)
		if err != nil {
			whole = false
			continue
		}
		if err := s.take(key, record, version); err != nil {
			return false, err
		}
	}
	return whole, nil
}
