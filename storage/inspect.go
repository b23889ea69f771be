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
// Of the engine's logs (.mem) it sees what damage leaves readable behind itself; see inspectLog. After an orderly close
// there are none; after another end of a process that had the store open, there must be one. Commits are numbered without
// a gap, so that each log goes on where the tables and the logs before it end.
//
// Durable is the serial of a commit that is known to be durable.
func inspect(dir string, key []byte, durable uint64, wasOpen bool) error {
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	logs, err := fullLogs(dir)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		if len(tables) > 0 || durable > 0 {
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
	if len(manifest.Tables) == 0 && len(logs) == 0 {
		if durable > 0 {
			return fmt.Errorf("%w: it is empty, but commits up to %d were durable", ErrDamaged, durable)
		}
		return nil
	}
	registry, err := openRegistry(dir, key)
	if err != nil {
		return err
	}
	highest, err := inspectTables(dir, manifest.Tables, registry)
	if err != nil {
		return err
	}
	for _, name := range logs {
		var first, last uint64
		if gerr := guarded(func() { first, last, err = inspectLog(name, registry) }); gerr != nil {
			err = gerr
		}
		if err == nil && first > highest+1 {
			err = fmt.Errorf("%w: it begins with commit %d, and before it there are commits up to %d", ErrDamaged, first, highest)
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", filepath.Base(name), err)
		}
		highest = max(highest, last)
	}
	switch {
	case len(logs) == 0 && wasOpen:
		return fmt.Errorf("%w: the engine's log is missing", ErrDamaged)
	case highest < durable:
		return fmt.Errorf("%w: it holds commits up to %d, but %d was durable", ErrDamaged, highest, durable)
	}
	return nil
}

// openRegistry reads the engine's keys, each of which is encrypted with the store's.
func openRegistry(dir string, key []byte) (registry *badger.KeyRegistry, err error) {
	if gerr := guarded(func() {
		registry, err = badger.OpenKeyRegistry(badger.KeyRegistryOptions{ReadOnly: true, Dir: dir, EncryptionKey: key})
	}); gerr != nil {
		err = gerr
	}
	if err != nil {
		return nil, fmt.Errorf("read the engine's keys: %w", damageBy(err))
	}
	return registry, nil
}

// inspectTables checks every block of every table and returns the highest version in them.
func inspectTables(dir string, tables map[uint64]badger.TableManifest, registry *badger.KeyRegistry) (highest uint64, err error) {
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
