package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/dgraph-io/ristretto/v2/z"
	"golang.org/x/sync/errgroup"
)

// inspect reads the engine's tables before the engine does, and changes nothing. The engine takes damage badly: it
// panics in goroutines of its own (printing what it had decrypted), deletes tables that its manifest does not list,
// answers a damaged block with silence, and makes that silence lasting when it next merges tables.
//
// What it cannot see is damage in the engine's logs (.mem): there the engine keeps what comes before. After an orderly
// Close there are none, and the mark tells what was in the tables then.
func inspect(dir string, key []byte, m mark) error {
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		if len(tables) > 0 || m.serial > 0 {
			return fmt.Errorf("%w: the engine's manifest is missing", ErrDamaged)
		}
		return nil // a new store
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var manifest badger.Manifest
	if gerr := guarded(func() {
		manifest, _, err = badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	}); gerr != nil {
		err = gerr
	}
	if err != nil {
		return fmt.Errorf("read the engine's manifest: %w", damageBy(err))
	}
	versions, err := inspectTables(dir, key, manifest.Tables)
	if err != nil {
		return err
	}
	if len(logs) == 0 && versions < m.serial {
		return fmt.Errorf("%w: it holds commits up to %d, but %d was durable", ErrDamaged, versions, m.serial)
	}
	return nil
}

// inspectTables checks every block of every table and returns the highest version in them.
func inspectTables(dir string, key []byte, tables map[uint64]badger.TableManifest) (highest uint64, err error) {
	if len(tables) == 0 {
		return 0, nil
	}
	var registry *badger.KeyRegistry
	if gerr := guarded(func() {
		registry, err = badger.OpenKeyRegistry(badger.KeyRegistryOptions{ReadOnly: true, Dir: dir, EncryptionKey: key})
	}); gerr != nil {
		err = gerr
	}
	if err != nil {
		return 0, fmt.Errorf("read the engine's keys: %w", damageBy(err))
	}
	// A table asks for its index once for each block, from this cache or else by decrypting it again.
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *fb.TableIndex]{
		NumCounters: 1000, MaxCost: 8 << 20, BufferItems: 1,
	})
	if err != nil {
		return 0, fmt.Errorf("make a cache: %w", err)
	}
	defer cache.Close()

	found := make(chan uint64, len(tables))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0))
	for id, in := range tables {
		all.Go(func() error {
			var version uint64
			var err error
			if gerr := guarded(func() { version, err = inspectTable(dir, id, in, registry, cache) }); gerr != nil {
				err = gerr
			}
			if err != nil {
				return fmt.Errorf("read table %d: %w", id, damageBy(err))
			}
			found <- version
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return 0, err
	}
	close(found)
	for v := range found {
		highest = max(highest, v)
	}
	return highest, nil
}

func inspectTable(
	dir string, id uint64, in badger.TableManifest, registry *badger.KeyRegistry,
	cache *ristretto.Cache[uint64, *fb.TableIndex],
) (version uint64, err error) {
	dataKey, err := registry.DataKey(in.KeyID)
	if err != nil {
		return 0, err
	}
	file, err := z.OpenMmapFile(table.NewFilename(id, dir), os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close(-1) }() // -1: as long as it is; it was read alone
	t, err := table.OpenTable(file, table.Options{
		ReadOnly:    true,
		BlockSize:   blockSize,
		Compression: in.Compression,
		DataKey:     dataKey,
		IndexCache:  cache,
		ChkMode:     options.NoVerification, // below instead, since this one closes the file, and we do too
	})
	if err != nil {
		return 0, err
	}
	return t.MaxVersion(), t.VerifyChecksum()
}
