package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options change how a store is opened. The zero value is for a workstation.
type Options struct {
	// Logger takes the engine's notes, as constant messages without its arguments, which may hold keys: errors as
	// warnings, the rest at debug level. Nil discards them.
	Logger *slog.Logger
	// Cache is how many bytes of blocks and indexes to keep decrypted in memory; 0 is 32 MiB.
	Cache int64
	// LeastFree is how much room is left free on the disk: with less, nothing is committed (ErrNoRoom). 0 guards nothing.
	LeastFree uint64

	afterPart func(part int) error // for tests: called between the parts of a commit
}

// Open opens the store in dir, which it creates (for this user alone) when it does not exist. Key encrypts it; it is the
// caller's to keep. It fails with ErrInUse, ErrWrongKey, ErrNewer, ErrForeign or ErrDamaged where they say why.
//
// It reads every table once to check it; see inspect.
func Open(dir string, key [32]byte, opts Options) (Store, error) {
	d, err := open(dir, key, opts)
	if err != nil {
		return nil, fmt.Errorf("open store in %s: %w", dir, err)
	}
	return d, nil
}

func open(dir string, key [32]byte, opts Options) (d *disk, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Cache == 0 {
		opts.Cache = 32 << 20
	}
	secrets, err := deriveSecrets(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syncFolder(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	lock, err := acquireLock(filepath.Join(dir, fileLock))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.release())
		}
	}()
	version, err := prepareFolder(dir, secrets.check)
	if err != nil {
		return nil, err
	}
	aead, err := secrets.headsCipher()
	if err != nil {
		return nil, err
	}

	d = &disk{
		dir:   dir,
		lock:  lock,
		log:   opts.Logger,
		tags:  newTagger(secrets.tags),
		turn:  make(chan struct{}, 1),
		guard: guard{dir: dir, least: opts.LeastFree},
		heads: &headKeeper{name: filepath.Join(dir, fileHeads), aead: aead},

		afterPart: opts.afterPart,
	}
	d.heads.warn = func(err error) { d.log.Warn("heads were not written", "err", err) }
	d.views.reading = make(map[uint64]int)
	d.views.idle = make(chan struct{}, 1)
	h, err := d.readHeads()
	if err != nil {
		return nil, err
	}
	if err := inspect(filepath.Join(dir, dirStore), secrets.engine[:], h.serial, lock.before == stateOpen); err != nil {
		return nil, err
	}
	if err := removeEmpty(filepath.Join(dir, dirStore)); err != nil {
		return nil, err
	}
	if err := d.openEngine(engineOptions(filepath.Join(dir, dirStore), secrets.engine[:], opts)); err != nil {
		return nil, err
	}
	if err = d.begin(h); err == nil && version < Version {
		err = d.upgrade(secrets.check)
	}
	if err == nil {
		err = d.keepKeys()
	}
	if err == nil {
		err = lock.say(stateOpen)
	}
	if err != nil {
		d.heads.stop()
		return nil, errors.Join(err, d.closeEngine())
	}
	return d, nil
}

// keepKeys keeps a copy of the engine's registry of keys: it is small, rarely changes, and everything hangs on it. It is
// encrypted with the store's key.
func (d *disk) keepKeys() error {
	b, err := os.ReadFile(filepath.Join(d.dir, dirStore, badger.KeyRegistryFileName))
	if err != nil {
		return fmt.Errorf("copy the engine's keys: %w", err)
	}
	name := filepath.Join(d.dir, fileKeys)
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return replaceFile(name, b)
}

func (d *disk) openEngine(o badger.Options) (err error) {
	gerr := guarded(func() { d.db, err = badger.OpenManaged(o) })
	if gerr != nil {
		return gerr
	}
	if err != nil {
		// The engine's own check of the key comes after ours, so that if it fails its key file is damaged. It gives no
		// other class of error, only texts.
		return damageBy(err)
	}
	return nil
}

// begin compares what the engine holds with what is known to have been durable, and with the version of this build.
func (d *disk) begin(h heads) error {
	if err := d.recover(); err != nil {
		return err
	}
	d.discard()
	if err := d.compareHeads(h); err != nil {
		return err
	}
	if err := d.readLarge(); err != nil {
		return err
	}
	var found []byte
	err := d.View(func(r Reader) (err error) {
		found, err = r.(*diskReader).get(keyFormat.Key(0))
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound) && d.serial.Load() == 0: // a new store
		var b Batch
		b.Put(keyFormat.Key(0), []byte(strconv.Itoa(Version)))
		if err := d.commit(context.Background(), &b); err != nil {
			return err
		}
		// It follows at once, so that an engine that lost everything is never taken for a new one.
		return d.heads.write()
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: its version record is missing", ErrDamaged)
	case err != nil:
		return err
	}
	version, err := strconv.ParseUint(string(found), 10, 32)
	switch {
	case err != nil:
		return fmt.Errorf("%w: its version record is malformed", ErrDamaged)
	case version > Version:
		return fmt.Errorf("%w: its version is %d, this build reads up to %d", ErrNewer, version, Version)
	case h.serial == 0: // the process ended right after the first commit
		return d.heads.write()
	}
	return nil
}

// memTableSize is how large the engine's tables in memory are: small, since it keeps eight builders for tables, each many
// times a table's size; see plan for what that means for large batches. (One of 28 MiB took 1.4 GB while 91,000 resources
// were written.)
const memTableSize = 2 << 20

func engineOptions(dir string, key []byte, opts Options) badger.Options {
	o := badger.DefaultOptions(dir)
	o.Logger = engineLog{opts.Logger}
	o.MetricsEnabled = false
	o.SyncWrites = true
	o.EncryptionKey = key
	o.DetectConflicts = false // batches are blind writes
	o.NumVersionsToKeep = 1

	o.MemTableSize = memTableSize
	o.BaseTableSize = tableSize(dir)
	o.TableSizeMultiplier = 1
	o.NumMemtables = 2
	o.NumLevelZeroTables = 4
	o.NumLevelZeroTablesStall = 12
	o.NumCompactors = 2
	o.CompactL0OnClose = true

	// No value reaches the value log: segments are shorter than the threshold.
	o.ValueThreshold = 256 << 10
	o.ValueLogFileSize = 1 << 20

	o.Compression = options.Snappy // half of the processor time of zstd, and a quarter more disk
	o.BlockSize = blockSize
	o.BlockCacheSize = opts.Cache / 2
	o.IndexCacheSize = opts.Cache / 2
	o.ChecksumVerificationMode = options.OnBlockRead // and inspect before
	return o
}

const blockSize = 8 << 10

// tableSize returns how large the engine's tables shall become: small, and larger in a large store, since each is an
// open file, and an engine that runs out of those while it merges tables loses what was in them.
func tableSize(dir string) int64 {
	const least, most, tables = 512 << 10, 8 << 20, 1000
	var total int64
	entries, _ := os.ReadDir(dir) // a new store has none, and any other failure shows elsewhere
	for _, e := range entries {
		if info, err := e.Info(); err == nil && filepath.Ext(e.Name()) == ".sst" {
			total += info.Size()
		}
	}
	return min(max(total/tables, least), most)
}

// Size returns the bytes that the store in dir takes on disk. Files that the engine extends in advance count what they
// take, where the system tells.
func (d *disk) Size() (int64, error) {
	var total int64
	err := filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // the engine removes files at any time
				return nil
			}
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		total += allocated(info)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure store: %w", err)
	}
	return total, nil
}
