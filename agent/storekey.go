package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/trust/keyring"
)

// The store's key is changed by encrypting the whole store anew, so that the old key and old copies of the folder's keyring open
// nothing that is stored from then on. The steps, each of which can be told after a crash from what is there:
//
//	keyring            holds the next key beside the one in force
//	records.next       filled under the next key; thrown away if that was cut short
//	records            → records.before
//	records.next       → records, when it is durable
//	keyring            holds the next key alone
//	records.before     removed
const (
	suffixNext   = ".next"
	suffixBefore = ".before"
)

// RotateOptions say how to open the folder.
type RotateOptions struct {
	Unlock    func() ([]byte, error)
	LeastFree uint64
	Logger    *slog.Logger

	step func(string) error // for tests: called before each step that changes something
}

// RotateStore encrypts the store of a folder that nobody has open anew, under another key.
func RotateStore(ctx context.Context, dir string, opts RotateOptions) (report api.StoreRotation, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	keys, err := keyring.Open(dir, opts.Unlock)
	if err != nil {
		return report, openError(dir, err)
	}
	claim, err := lockClaim(dir)
	if errors.Is(err, storage.ErrInUse) {
		return report, &api.Error{Code: api.CodeInUse, Message: "an agent runs on " + dir, Hint: "stop it, then try again: its store is written anew"}
	} else if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, claim.Close()) }()
	r := rotation{dir: dir, keys: keys, step: opts.step}
	if err := r.settle(); err != nil {
		return report, openError(dir, err)
	}
	if len(setAside(dir)) > 0 {
		return report, &api.Error{Code: api.CodeConflict, Message: "a damaged store lies in " + dir + ", which would not open any more",
			Hint: "run the agent until it is repaired, and remove records.damaged-…"}
	}
	began := time.Now()
	a := &Agent{cfg: Config{Dir: dir, LeastFree: opts.LeastFree}, log: opts.Logger, keys: keys}
	report.Bytes = a.sizeOf(storeIn(dir))
	if free, err := storage.Free(dir); err == nil && free < report.Bytes+report.Bytes/4+a.leastFree() {
		return report, openError(dir, &storage.NoRoom{Free: free, Least: report.Bytes + report.Bytes/4 + a.leastFree()})
	}
	if err := a.tryOpen(ctx, storeIn(dir)); err != nil {
		return report, openError(dir, err)
	}
	report.Values, err = r.copy(ctx, a)
	if err = errors.Join(err, a.store.Close()); err == nil {
		err = r.swap()
	}
	if err != nil {
		return report, openError(dir, err)
	}
	report.Changed, report.Took = keys.StoreKeyChanged(), time.Since(began)
	return report, nil
}

// rotation is a change of the store's key. Whoever has one has claimed the folder.
type rotation struct {
	dir  string
	keys *keyring.Keyring
	step func(string) error
}

func (r *rotation) before(step string) error {
	if r.step == nil {
		return nil
	}
	return r.step(step)
}

// copy fills a store under the next key with what is in the agent's.
func (r *rotation) copy(ctx context.Context, a *Agent) (values uint64, err error) {
	if err := r.before("begin"); err != nil {
		return 0, err
	}
	if err := r.keys.BeginStoreKey(); err != nil {
		return 0, err
	}
	if err := r.before("copy"); err != nil {
		return 0, err
	}
	key, _ := r.keys.NextStoreKey()
	next, err := storage.Open(storeIn(r.dir)+suffixNext, key, storage.Options{Logger: a.log, LeastFree: a.leastFree()})
	if err != nil {
		return 0, err
	}
	values, err = storage.Copy(ctx, next, a.store)
	if err == nil {
		err = r.before("close")
	}
	return values, errors.Join(err, next.Close())
}

// swap puts the new store in the place of the old one, and the next key in force.
func (r *rotation) swap() error {
	store := storeIn(r.dir)
	if err := r.move("aside", store, store+suffixBefore); err != nil {
		return err
	}
	return r.arrive()
}

// arrive does what is left when the old store is out of the way.
func (r *rotation) arrive() error {
	store := storeIn(r.dir)
	if err := r.move("place", store+suffixNext, store); err != nil {
		return err
	}
	return r.end()
}

// end does what is left when the new store is in its place.
func (r *rotation) end() error {
	if err := r.before("end"); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if err := r.keys.EndStoreKey(time.Now()); err != nil {
		return err
	}
	if err := r.before("remove"); err != nil {
		return err
	}
	if err := os.RemoveAll(storeIn(r.dir) + suffixBefore); err != nil {
		return fmt.Errorf("remove the store under the old key: %w", err)
	}
	return syncFolder(r.dir)
}

// check opens the new store and reads all of its keys, while the old one is still there.
func (r *rotation) check() error {
	key, _ := r.keys.NextStoreKey()
	err := readStore(storeIn(r.dir), key, func([]byte) error { return nil })
	if err != nil {
		return fmt.Errorf("read the store under the new key; the one under the old key is whole in records%s: %w", suffixBefore, err)
	}
	return nil
}

// readStore calls fn with every key of a store; if that one was not closed in order, another process tries it first.
func readStore(dir string, key [32]byte, fn func(key []byte) error) (err error) {
	if !storage.EndedInOrder(dir) {
		if err := tryStore(context.Background(), dir, key); err != nil {
			return err
		}
	}
	store, err := storage.Open(dir, key, storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.View(func(v storage.Reader) error { return v.Keys(nil, nil, fn) })
}

// clear sets aside what lies where the new store belongs, if nothing can be read from it.
func (r *rotation) clear() error {
	store := storeIn(r.dir)
	empty := true
	err := readStore(store, r.keys.StoreKey(), func([]byte) error {
		empty = false
		return storage.ErrStop
	})
	switch {
	case errors.Is(err, storage.ErrDamaged), errors.Is(err, storage.ErrForeign):
	case err != nil:
		return err
	case !empty:
		return &api.Error{Code: api.CodeConflict, Message: "a change of the store's key was cut short in " + r.dir + ", and another store was begun since",
			Hint: "nothing was removed: the records are in records" + suffixNext + " and records" + suffixBefore +
				"; if those are what you want, move records elsewhere and try again"}
	}
	return r.move("clear", store, store+suffixDamaged+time.Now().UTC().Format(damagedTime))
}

func (r *rotation) move(step, from, to string) error {
	if err := r.before(step); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("put the new store in its place: %w", err)
	}
	return syncFolder(r.dir)
}

// settle brings a change of the store's key that was cut short to its end, or undoes it where the new store was not whole.
func (r *rotation) settle() error {
	if err := r.keys.Unchanged(); err != nil {
		return err
	}
	store := storeIn(r.dir)
	here, next, before := there(store), there(store+suffixNext), there(store+suffixBefore)
	_, pending := r.keys.NextStoreKey()
	switch {
	case pending && next && before:
		// The old store is out of the way, and so the new one whole.
		if here {
			if err := r.clear(); err != nil {
				return err
			}
		}
		return r.arrive()
	case pending && here && !next && before:
		return r.end()
	case pending && !here && !next && before:
		// The new store was in its place and is gone; before its key is in force nothing is written to it.
		if err := r.move("back", store+suffixBefore, store); err != nil {
			return err
		}
	case !pending && !next && !before, !here:
		return nil // nothing of this; a store that is missing is looked after elsewhere
	}
	// The new store goes before its key, so that none is left without; the old one is not needed where a store is in its place.
	for _, dir := range []string{store + suffixNext, store + suffixBefore} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what a change of the store's key has left: %w", err)
		}
	}
	if err := syncFolder(r.dir); err != nil {
		return err
	}
	if pending {
		return r.keys.DropStoreKey()
	}
	return nil
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
