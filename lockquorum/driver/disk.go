package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Disk keeps what a voter stored.
type Disk interface {
	// Load returns what was saved; nil: nothing ever was. It is voter.ErrLost if something of it is not there any more, and what Ended said.
	Load(ctx context.Context) (*voter.Stored, error)
	// Save stores what a Batch says. Where Sync is set, it is durable when Save returns. After an error nothing more is saved.
	Save(ctx context.Context, w Write) error
	// Keep stores pieces of a snapshot that is to be saved, which then takes less time. It may be called beside Save, as what follows may.
	Keep(ctx context.Context, sums []lockquorum.Sum, from lockquorum.Pieces) error
	// Lacks returns those of the pieces that are not stored, and Piece one that is.
	Lacks(sums []lockquorum.Sum) []lockquorum.Sum
	lockquorum.Pieces
}

// Write is what is to be stored, all or nothing. Nil: as it was.
type Write struct {
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Pieces    lockquorum.Pieces // of the snapshot
	Replace   bool              // the snapshot takes the place of all entries
	Entries   []*pb.Entry       // take the place of those from the first one's index on
	Forget    uint64            // entries up to there are not needed any more; 0: all are
	Sync      bool
	// Ended is voter.ErrLost or voter.ErrOver once the voter has ended for good, which Load is from now on.
	Ended error
}

// What there is one of for a voter, under storage.Quorum.
const (
	itemVoter    = 1
	itemHard     = 2
	itemSnapshot = 3
	itemLost     = 5 // 4 is lockquorum/local's
	itemPrepared = 8
	itemBegins   = 9
)

// Record says which voter a store is of.
type Record struct {
	Practice trust.EntryID // by its founding entry
	Epoch    uint64        // of the quorum when this voter began
	ID       uint64
	Log      [32]byte // the device's log: another one is begun by a folder that was copied, moved or put back
}

// StoreDisk is a Disk in a store. One at a time may be open.
type StoreDisk struct {
	store storage.Store
	hard  hardState // as it is to be stored next

	pieces sync.Mutex
	has    map[lockquorum.Sum]bool // that are stored
}

// hardState is Raft's, and which entries follow the snapshot: a scan that ends early must not look like a shorter log.
type hardState struct {
	term, vote, commit uint64
	first, last        uint64 // 0: there is none
}

// OpenDisk returns the Disk in a store, and which voter it is of. It is storage.ErrNotFound if no voter ever was.
func OpenDisk(store storage.Store) (*StoreDisk, Record, error) {
	var rec Record
	err := store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(itemVoter))
		if err != nil {
			return err
		}
		rec, err = parseRecord(b)
		return err
	})
	if err != nil {
		return nil, rec, fmt.Errorf("read which voter this is: %w", err)
	}
	return &StoreDisk{store: store}, rec, nil
}

// Found stores a voter that begins, with what it begins with (voter.Found). It is durable when Found returns. A store has one voter.
func Found(ctx context.Context, store storage.Store, rec Record, from *voter.Stored) error {
	_, _, err := OpenDisk(store)
	if !errors.Is(err, storage.ErrNotFound) {
		return errors.Join(errors.New("found voter: there is one already"), err)
	}
	d := &StoreDisk{store: store}
	if err := d.keepFoundLocked(ctx, from); err != nil {
		return fmt.Errorf("found voter: %w", err)
	}
	var b storage.Batch
	b.Put(storage.Quorum.Key(itemVoter), rec.marshal())
	w := Write{Sync: true}
	if from != nil {
		w.HardState, w.Snapshot, w.Replace, w.Entries = from.HardState, from.Snapshot, from.Snapshot != nil, from.Entries
	}
	if err := d.put(&b, w); err != nil {
		return fmt.Errorf("found voter: %w", err)
	}
	if err := store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("found voter: %w", err)
	}
	return nil
}

// Forget removes the voter of a store, so that another may begin in it. It must have no part in its quorum any more.
func Forget(ctx context.Context, store storage.Store) error {
	var b storage.Batch
	err := erase(store, &b)
	if err == nil {
		err = store.Commit(ctx, &b)
	}
	if err == nil {
		_, err = sweep(ctx, store)
	}
	if err != nil {
		return fmt.Errorf("forget voter: %w", err)
	}
	return nil
}

// Rebind notes that the device goes on under another log, of which its folder is the one that it was.
func (d *StoreDisk) Rebind(ctx context.Context, rec Record) error {
	var b storage.Batch
	b.Put(storage.Quorum.Key(itemVoter), rec.marshal())
	return d.store.Commit(ctx, &b)
}

// Load implements Disk.
func (d *StoreDisk) Load(ctx context.Context) (out *voter.Stored, err error) {
	err = d.store.View(func(r storage.Reader) error {
		if err := ended(r); err != nil {
			return err
		}
		out, d.hard, err = read(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.pieces.Lock()
	defer d.pieces.Unlock()
	if d.has, err = sweep(ctx, d.store); err != nil {
		return nil, lost(err)
	}
	if d.hard == (hardState{}) && out.Snapshot == nil {
		return nil, nil
	}
	out.Pieces = d
	return out, nil
}

// read reads what a voter stored, as far as it reads: beside voter.ErrLost too.
func read(r storage.Reader) (*voter.Stored, hardState, error) {
	out, hard := &voter.Stored{}, hardState{}
	b, err := r.Get(storage.Quorum.Key(itemSnapshot))
	if err == nil {
		out.Snapshot, err = parseSnapshot(b)
	}
	if storage.IgnoreNotFound(err) != nil {
		out.Snapshot = nil
		return out, hard, lost(err)
	}
	if b, err = r.Get(storage.Quorum.Key(itemHard)); err != nil {
		return out, hard, lost(err)
	}
	if hard, err = parseHard(b); err != nil {
		return out, hard, lost(err)
	}
	out.HardState = &pb.HardState{Term: proto.Uint64(hard.term), Vote: proto.Uint64(hard.vote), Commit: proto.Uint64(hard.commit)}
	for i := hard.first; i != 0 && i <= hard.last; i++ {
		b, err := r.Get(storage.QuorumEntry.Key(i))
		if err != nil {
			return out, hard, lost(err)
		}
		e, err := parseEntry(b)
		if err != nil || e.GetIndex() != i {
			return out, hard, lost(errors.Join(err, fmt.Errorf("entry %d does not read: %w", i, wire.ErrMalformed)))
		}
		out.Entries = append(out.Entries, e)
	}
	return out, hard, nil
}

// lost says that something is not there that was stored, unless the disk itself is to blame.
func lost(err error) error {
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged) || errors.Is(err, wire.ErrMalformed) {
		return fmt.Errorf("%w: %w", voter.ErrLost, err)
	}
	return err
}

// Save implements Disk. What need not be durable is stored with what comes next.
func (d *StoreDisk) Save(ctx context.Context, w Write) error {
	if w.Snapshot != nil {
		return d.saveSnapshot(ctx, w)
	}
	var b storage.Batch
	if err := d.put(&b, w); err != nil {
		return err
	}
	if !w.Sync && len(w.Entries) == 0 {
		return nil
	}
	return d.store.Commit(ctx, &b)
}

func (d *StoreDisk) put(b *storage.Batch, w Write) error {
	if hs := w.HardState; hs != nil {
		d.hard.term, d.hard.vote, d.hard.commit = hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	}
	if w.Ended != nil {
		note(b, w.Ended)
	}
	if w.Snapshot != nil {
		b.Put(storage.Quorum.Key(itemSnapshot), marshalSnapshot(w.Snapshot))
	}
	forget := func(from, to uint64) {
		for i := from; i != 0 && i <= to; i++ {
			b.Delete(storage.QuorumEntry.Key(i))
		}
	}
	if w.Replace {
		forget(d.hard.first, d.hard.last)
		d.hard.first, d.hard.last = 0, 0
	}
	if n := len(w.Entries); n > 0 {
		first, last := w.Entries[0].GetIndex(), w.Entries[n-1].GetIndex()
		if d.hard.last != 0 && (first < d.hard.first || first > d.hard.last+1) {
			return fmt.Errorf("store entries %d to %d after those to %d: %w", first, last, d.hard.last, voter.ErrLost)
		}
		forget(last+1, d.hard.last)
		for _, e := range w.Entries {
			b.Put(storage.QuorumEntry.Key(e.GetIndex()), marshalEntry(e))
		}
		if d.hard.first == 0 {
			d.hard.first = first
		}
		d.hard.last = last
	}
	if to := min(w.Forget, d.hard.last); d.hard.first != 0 && to >= d.hard.first {
		forget(d.hard.first, to)
		if d.hard.first = to + 1; to == d.hard.last {
			d.hard.first, d.hard.last = 0, 0
		}
	}
	b.Put(storage.Quorum.Key(itemHard), d.hard.marshal())
	return nil
}

// recordVersion begins every value that a StoreDisk writes.
const recordVersion = 1

// maxIndex is beyond any term or index.
const maxIndex = 1<<63 - 1

// marshal writes: 1 | founding entry (32) | epoch | number | log (32).
func (rec Record) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(rec.Practice[:])
	w.Uvarint(rec.Epoch)
	w.Uvarint(rec.ID)
	w.Raw(rec.Log[:])
	return w.Bytes()
}

func parseRecord(b []byte) (rec Record, err error) {
	r := wire.NewReader(b)
	version(r)
	r.Fixed(rec.Practice[:])
	rec.Epoch = r.Uvarint(maxIndex)
	if rec.ID = r.Uvarint(maxIndex); rec.ID == 0 {
		r.Fail("number")
	}
	r.Fixed(rec.Log[:])
	return rec, r.Close()
}

func version(r *wire.Reader) {
	if r.Byte() != recordVersion {
		r.Fail("version")
	}
}

// marshal writes: 1 | term | vote | commit | first entry | last entry.
func (h hardState) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	for _, v := range []uint64{h.term, h.vote, h.commit, h.first, h.last} {
		w.Uvarint(v)
	}
	return w.Bytes()
}

func parseHard(b []byte) (h hardState, err error) {
	r := wire.NewReader(b)
	version(r)
	for _, v := range []*uint64{&h.term, &h.vote, &h.commit, &h.first, &h.last} {
		*v = r.Uvarint(maxIndex)
	}
	if (h.first == 0) != (h.last == 0) || h.first > h.last {
		r.Fail("entries")
	}
	return h, r.Close()
}

// marshalEntry writes: 1 | index | term | type | data.
func marshalEntry(e *pb.Entry) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(e.GetIndex())
	w.Uvarint(e.GetTerm())
	w.Uvarint(uint64(e.GetType()))
	w.Raw(e.GetData())
	return w.Bytes()
}

func parseEntry(b []byte) (*pb.Entry, error) {
	r := wire.NewReader(b)
	version(r)
	e := &pb.Entry{Index: proto.Uint64(r.Uvarint(maxIndex)), Term: proto.Uint64(r.Uvarint(maxIndex))}
	e.Type = pb.EntryType(r.Uvarint(uint64(pb.EntryConfChangeV2))).Enum()
	if rest := r.Rest(); r.Err() == nil && len(rest) > 0 {
		e.Data = append([]byte(nil), rest...)
	}
	return e, r.Err()
}

// Versions of a snapshot that is stored: with its State in one, as older voters wrote it and a quorum is founded anew with, and with its manifest.
const (
	snapshotInOne    = 1
	snapshotInPieces = 2
)

// marshalSnapshot writes: version | index | term | four lists of voters, each a count and numbers | leaves by itself (1) | State, or its manifest.
func marshalSnapshot(s *pb.Snapshot) []byte {
	var w wire.Writer
	if lockquorum.IsManifest(s.GetData()) {
		w.Byte(snapshotInPieces)
	} else {
		w.Byte(snapshotInOne)
	}
	m := s.GetMetadata()
	w.Uvarint(m.GetIndex())
	w.Uvarint(m.GetTerm())
	c := m.GetConfState()
	for _, list := range [][]uint64{c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing(), c.GetLearnersNext()} {
		w.Uvarint(uint64(len(list)))
		for _, id := range list {
			w.Uvarint(id)
		}
	}
	w.Bool(c.GetAutoLeave())
	w.Raw(s.GetData())
	return w.Bytes()
}

func parseSnapshot(b []byte) (*pb.Snapshot, error) {
	r := wire.NewReader(b)
	v := r.Byte()
	if v != snapshotInOne && v != snapshotInPieces {
		r.Fail("version")
	}
	c := &pb.ConfState{}
	m := &pb.SnapshotMetadata{Index: proto.Uint64(r.Uvarint(maxIndex)), Term: proto.Uint64(r.Uvarint(maxIndex)), ConfState: c}
	for _, list := range []*[]uint64{&c.Voters, &c.Learners, &c.VotersOutgoing, &c.LearnersNext} {
		for range r.Uvarint(lockquorum.MaxVoters) {
			if *list = append(*list, r.Uvarint(maxIndex)); r.Err() != nil {
				return nil, r.Err()
			}
		}
	}
	if r.Bool() {
		c.AutoLeave = proto.Bool(true)
	}
	s := &pb.Snapshot{Metadata: m, Data: append([]byte(nil), r.Rest()...)}
	if lockquorum.IsManifest(s.Data) != (v == snapshotInPieces) {
		r.Fail("a State that is written otherwise than the version says")
	}
	return s, r.Err()
}
