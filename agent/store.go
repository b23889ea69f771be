package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A store that is damaged is set aside as it is, under a name that says when, and a new one is begun: under a new log, with
// what can still be read of the old one. What is missing then comes from the other devices by the ordinary session. The
// steps, each of which can be repeated after a crash:
//
//	records            found damaged → records.damaged-20251125T201500Z
//	records.new        filled; thrown away and filled again if that was cut short
//	records.new        → records, when it is durable
const (
	suffixDamaged = ".damaged-"
	suffixRefill  = ".new"
	damagedTime   = "20060102T150405Z"
)

// openRoom is how much room opening a store may need: its log, and the tables that it is merged into. With less, the
// storage engine would end the process.
const openRoom = 32 << 20

func (a *Agent) leastFree() uint64 { return cmp.Or(a.cfg.LeastFree, storage.DefaultLeastFree) }

// openStore opens the store, after it was repaired if need be.
func (a *Agent) openStore(ctx context.Context) error {
	dir := storeIn(a.cfg.Dir)
	if err := a.checkRoom(); err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		// A repair was cut short, or somebody took the store away. Without a word about a practice there is none.
		if !a.mayRefill() {
			a.store, err = a.openDir(dir)
			return err
		}
		if !a.cfg.Repair {
			return fmt.Errorf("%w: %s is missing", storage.ErrDamaged, filepath.Base(dir))
		}
		if err := a.refill(ctx, "the store was missing", chunk.LogID{}); err != nil {
			return err
		}
	}
	err := a.tryOpen(ctx, dir)
	if !a.repairs(err) {
		return err
	}
	return a.repair(ctx, err)
}

func (a *Agent) openDir(dir string) (storage.Store, error) {
	return storage.Open(dir, a.keys.StoreKey(), storage.Options{Logger: a.log, LeastFree: a.leastFree()})
}

// tryOpen opens the store; after an end that was not in order, another process tries it first.
func (a *Agent) tryOpen(ctx context.Context, dir string) (err error) {
	if !storage.EndedInOrder(dir) {
		// Whoever has it is no reason to start a process, for as long as which an agent could not claim the folder.
		if err := storage.InUse(dir); err != nil {
			return err
		}
		start := time.Now()
		if err := tryStore(ctx, dir, a.keys.StoreKey()); err != nil {
			if roomErr := a.checkRoom(); roomErr != nil {
				return roomErr // it may be the disk that ended the other process
			}
			return err
		}
		a.log.Debug("the store was not closed in order; it opens", "took", time.Since(start))
	}
	a.store, err = a.openDir(dir)
	if errors.Is(err, storage.ErrForeign) && a.mayRefill() {
		return fmt.Errorf("%w: %w", storage.ErrDamaged, err) // it was a store when its contacts were written
	}
	return err
}

// repairs reports whether an error is one that a repair mends here and now.
func (a *Agent) repairs(err error) bool { return a.cfg.Repair && errors.Is(err, storage.ErrDamaged) }

// checkRoom refuses a disk on which the store cannot even be opened.
func (a *Agent) checkRoom() error {
	free, err := storage.Free(a.cfg.Dir)
	if need := min(uint64(openRoom), a.leastFree()); err == nil && free < need {
		return &storage.NoRoom{Free: free, Least: need}
	}
	return nil
}

// openRecords opens the replica on the store. What the store did not notice may show here: then the repair comes now.
func (a *Agent) openRecords(ctx context.Context) (err error) {
	open := func() error {
		a.records, err = replica.Open(replica.Config{Store: a.metrics.commits.Of(a.store), Keyring: a.keys, Engine: a.engine, Logger: a.log, Build: a.cfg.Version,
			Quorum: quorum.Names{Keys: a.keys, Members: a.members}})
		return err
	}
	err = open()
	if errors.Is(err, storage.ErrNotFound) && a.mayRefill() {
		err = fmt.Errorf("%w: %w", storage.ErrDamaged, err) // a store that says nothing of a practice, and there is one
	}
	if !a.repairs(err) {
		return err
	}
	if err := errors.Join(a.store.Close(), a.repair(ctx, err)); err != nil {
		return err
	}
	return open()
}

// repair sets the damaged store aside and opens a new one.
func (a *Agent) repair(ctx context.Context, why error) error {
	dir := storeIn(a.cfg.Dir)
	reason := strings.ReplaceAll(why.Error(), "open store in "+dir+": ", "")
	reason = strings.TrimPrefix(reason, storage.ErrDamaged.Error()+": ")
	aside := dir + suffixDamaged + time.Now().UTC().Format(damagedTime)
	for n := 2; ; n++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s%s%s-%d", dir, suffixDamaged, time.Now().UTC().Format(damagedTime), n)
	}
	a.log.Error("the records are damaged; they are set aside and filled anew", "folder", aside, "reason", reason)
	last := chunk.CurrentLog(a.keys)
	if err := os.Rename(dir, aside); err != nil {
		return fmt.Errorf("set the damaged store aside: %w", err)
	}
	if err := syncFolder(a.cfg.Dir); err != nil {
		return fmt.Errorf("set the damaged store aside: %w", err)
	}
	if err := a.refill(ctx, reason, last); err != nil {
		return err
	}
	var err error
	a.store, err = a.openDir(dir)
	return err
}

// setAside lists the damaged stores that lie here, the newest last.
func setAside(dir string) []string {
	names, err := filepath.Glob(globbed(storeIn(dir)) + suffixDamaged + "*")
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// globbed escapes what a pattern would give a meaning.
func globbed(path string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// mayRefill reports whether there is anything to fill a new store with.
func (a *Agent) mayRefill() bool {
	_, err := readContacts(a.cfg.Dir, a.contactsKey())
	return err == nil || len(setAside(a.cfg.Dir)) > 0
}

// refill makes a new store of what the newest damaged one and the contacts still say, under a new log: what the old log
// had beyond what is known now may be with other devices, and no counter may be used twice.
func (a *Agent) refill(ctx context.Context, reason string, last chunk.LogID) (err error) {
	if err := a.keys.MintLog(); err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	dir := storeIn(a.cfg.Dir)
	fresh := dir + suffixRefill
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	store, err := a.openDir(fresh)
	if err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	rep, err := a.refillFrom(ctx, store, reason, last)
	if err = errors.Join(err, store.Close()); err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	if err := os.Rename(fresh, dir); err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	if err := syncFolder(a.cfg.Dir); err != nil {
		return fmt.Errorf("fill a new store: %w", err)
	}
	a.log.Warn("a new store was begun", "salvaged_chunks", rep.Salvaged(), "own_chunks_unsure", rep.Unsure())
	return nil
}

func (a *Agent) refillFrom(ctx context.Context, store storage.Store, reason string, last chunk.LogID) (replica.Repair, error) {
	f := replica.NewRefill(store)
	d := replica.Damaged{Reason: reason, Device: a.keys.Device(), Log: last}
	// What the contacts say comes first, so that what the store itself said last stands.
	if c, err := readContacts(a.cfg.Dir, a.contactsKey()); err == nil {
		if err := takeContacts(ctx, f, c); err != nil {
			return replica.Repair{}, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("the file of contacts does not read", "error", err)
	}
	if aside := setAside(a.cfg.Dir); len(aside) > 0 {
		from := aside[len(aside)-1]
		d.Folder = filepath.Base(from)
		_, heads, err := storage.ReadHeads(from, a.keys.StoreKey())
		if err != nil {
			a.log.Warn("what was durable in the damaged store is not known", "error", err)
		}
		d.Heads = heads
		whole, err := salvage(ctx, from, a.keys.StoreKey(), func(key, value []byte) error { return f.Take(ctx, key, value) })
		if err != nil {
			return replica.Repair{}, err
		}
		if !whole {
			a.log.Warn("the damaged store could not be read to its end")
		}
	}
	return f.Finish(ctx, time.Now(), d)
}

func takeContacts(ctx context.Context, f *replica.Refill, c contacts) error {
	var entries []trust.Entry
	for _, b := range c.entries {
		if e, err := trust.ParseEntry(b); err == nil {
			entries = append(entries, e)
		}
	}
	f.Members(entries)
	if len(c.ports) > 0 {
		if err := f.Take(ctx, storage.Meta.Key(replica.MetaPorts), marshalPorts(c.ports)); err != nil {
			return err
		}
	}
	for d, addrs := range c.addrs {
		if err := f.Take(ctx, storage.Peer.Key(d), marshalPeer(peerRecord{Addrs: addrs})); err != nil {
			return err
		}
	}
	return nil
}

// watchRepair ends a repair when everything is here that was, or when every device that is there has given what it has.
func (a *Agent) watchRepair(ctx context.Context) {
	p, have, of, err := a.records.Repair()
	if err != nil || p.Since.IsZero() {
		return
	}
	if !p.Done.IsZero() {
		if have < of && !a.savedLost { // an agent before this one may have ended in between
			a.saveLost(ctx)
		}
		return
	}
	alone := len(a.records.State().Members()) == 1
	if !a.records.AtEnd() {
		return
	}
	if have < of && !alone {
		if s, err := a.Status(ctx, ""); err != nil || !s.InSync {
			return
		}
	}
	p, err = a.records.EndRepair(ctx)
	if err != nil {
		a.log.Warn("the end of the repair was not noted", "error", err)
		return
	}
	own, others := p.Lost()
	a.log.Info("the records are repaired", "own_chunks_lost", own, "other_chunks_lost", others)
	if own+others > 0 {
		a.saveLost(ctx)
	} else if err := a.records.ForgetSaved(ctx); err != nil {
		a.log.Warn("what was kept of damaged chunks was not forgotten", "error", err)
	}
}

// saveLost writes once more what is still shown of lost chunks.
func (a *Agent) saveLost(ctx context.Context) {
	n, err := a.records.SaveLost(ctx)
	a.savedLost = err == nil
	if err != nil {
		a.log.Error("what was shown of lost chunks is kept and not all written once more; it is tried again", "error", err)
	} else if n > 0 {
		a.log.Warn("what was shown of lost chunks was written once more", "resources", n)
	}
}

// A running agent reads all of its chunks once a day, for the first time when it has settled, and never in a hurry.
const (
	scrubFirst = 20 * time.Minute
	scrubEvery = 24 * time.Hour
	scrubPause = 50 * time.Millisecond
)

func (a *Agent) scrub(ctx context.Context) {
	timer := time.NewTimer(scrubFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		n, err := a.records.Scrub(ctx, scrubPause)
		if ctx.Err() != nil {
			return
		}
		a.noteScrubbed(ctx, began, n, err == nil)
		switch {
		case err != nil:
			a.log.Warn("the chunks were not all read", "error", err)
		default:
			a.log.Info("all chunks were read", "chunks", n.Chunks, "damaged", n.Damaged)
		}
		timer.Reset(scrubEvery)
	}
}

// storeStatus says how things stand on the disk.
func (a *Agent) storeStatus(s api.Status) (api.Store, error) {
	st := api.Store{State: api.StoreOK}
	p, have, of, err := a.records.Repair()
	if err != nil {
		return st, err
	}
	if !p.Since.IsZero() {
		own, others := p.Lost()
		st.Repair = &api.Repair{Since: p.Since, Reason: p.Reason, Have: have, Of: of, Salvaged: p.Salvaged(), From: []string{},
			Unsure: p.Unsure(), LostOwn: own, LostOthers: others, Kept: p.Kept()}
		if p.Done.IsZero() {
			st.State = api.StoreRepairing
			for _, peer := range s.Peers {
				if peer.State != "offline" && peer.State != "incompatible" {
					st.Repair.From = append(st.Repair.From, peer.Name)
				}
			}
		} else {
			st.Repair.Done = &p.Done
		}
	}
	if g, ok := a.store.(storage.Guard); ok {
		var full bool
		if st.FreeBytes, st.LeastBytes, full, err = g.Room(); err == nil && full {
			st.State = api.StoreReadOnly
		}
	}
	for _, dir := range setAside(a.cfg.Dir) {
		st.SetAside = append(st.SetAside, api.SetAside{Path: dir, Bytes: a.sizeOf(dir)})
	}
	return st, nil
}

// full reports whether the disk is nearly full, and logs when that changes.
func (a *Agent) full() bool {
	g, ok := a.store.(storage.Guard)
	if !ok {
		return false
	}
	free, least, full, err := g.Room()
	if err != nil || a.wasFull.Swap(full) == full {
		return full
	}
	if full {
		a.log.Warn("the disk is nearly full: nothing is written until there is more room", "free", free, "least", least)
	} else {
		a.log.Info("there is room on the disk again: writing goes on", "free", free)
	}
	return full
}

// sizeOf measures a folder that does not change any more, once.
func (a *Agent) sizeOf(dir string) uint64 {
	a.aside.Lock()
	defer a.aside.Unlock()
	if n, ok := a.aside.sizes[dir]; ok {
		return n
	}
	var total uint64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be seen counts nothing
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			total += uint64(info.Size())
		}
		return nil
	})
	if a.aside.sizes == nil {
		a.aside.sizes = map[string]uint64{}
	}
	a.aside.sizes[dir] = total
	return total
}

// storeReason is the one sentence of a status, if the disk gives one; it comes before the network's.
func storeReason(s api.Status) string {
	switch st := s.Store; {
	case st.State == api.StoreReadOnly:
		return fmt.Sprintf("read-only: %d MB are free on the disk, and %d MB must be before anything is written",
			st.FreeBytes/1_000_000, st.LeastBytes/1_000_000)
	case st.State == api.StoreRepairing && len(st.Repair.From) == 0:
		return fmt.Sprintf("repairing: %d of %d chunks; the rest waits for another device", st.Repair.Have, st.Repair.Of)
	case st.State == api.StoreRepairing:
		return fmt.Sprintf("repairing: %d of %d chunks, from %s", st.Repair.Have, st.Repair.Of, strings.Join(st.Repair.From, ", "))
	}
	return s.Reason
}
