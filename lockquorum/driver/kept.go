package driver

import (
	"bytes"
	"errors"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/wire"
)

// Kept is all that a voter stored, agreed on or not, whether it runs, has ended, or has lost something: a quorum that is founded anew begins with the log that
// reaches farthest.
type Kept struct {
	Epoch  uint64 // of the quorum when this voter began
	ID     uint64
	Whole  bool // nothing of it is known to be missing
	Stored voter.Stored
}

// Reach is how far it reaches.
type Reach = voter.Reach

// keptMagic begins what Marshal writes.
var keptMagic = []byte{'c', 'm', 'q', 'l', 1}

// MaxKept is how long what Marshal writes may be.
const MaxKept = lockquorum.MaxSnapshot + 96<<20

// maxKeptSnapshot is how long a snapshot may be in it.
const maxKeptSnapshot = lockquorum.MaxSnapshot + 1<<10

// maxKeptEntry is how long an entry may be in it: a command, in an envelope.
const maxKeptEntry = lockquorum.MaxCommand + 1<<10

// ReadKept reads what the voter of a store stored. It is storage.ErrNotFound if no voter ever was.
func ReadKept(store storage.Store) (k Kept, err error) {
	err = store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(itemVoter))
		if err != nil {
			return err
		}
		rec, err := parseRecord(b)
		if err != nil {
			return lost(err)
		}
		_, err = r.Get(storage.Quorum.Key(itemLost))
		if storage.IgnoreNotFound(err) != nil {
			return err
		}
		k.Epoch, k.ID, k.Whole = rec.Epoch, rec.ID, err != nil
		stored, _, err := read(r)
		if errors.Is(err, voter.ErrLost) { // what there is still counts
			k.Whole, err = false, nil
		}
		if k.Stored = *stored; err != nil {
			return err
		}
		if k.Stored.Snapshot, err = inOne(k.Stored.Snapshot, within{r}); errors.Is(err, voter.ErrLost) {
			k.Whole, err = false, nil
		}
		return err
	})
	if err != nil {
		return Kept{}, fmt.Errorf("read what the voter stored: %w", err)
	}
	return k, nil
}

// inOne returns a snapshot that needs no pieces; nil: it lacks some.
func inOne(s *pb.Snapshot, pieces lockquorum.Pieces) (*pb.Snapshot, error) {
	if s == nil {
		return nil, nil
	}
	st, err := voter.Restore(s, pieces)
	if err != nil {
		return nil, lost(err)
	}
	return &pb.Snapshot{Metadata: s.GetMetadata(), Data: st.Snapshot()}, nil
}

// Latest returns the State that the whole of it amounts to, and how far it reaches: voter.Latest, also of what is not whole any more.
func (k Kept) Latest() (*lockquorum.State, Reach, error) {
	from := k.Stored
	if !k.Whole {
		from = joined(from)
	}
	return voter.Latest(&from)
}

// joined returns of what is not whole the beginning that is.
func joined(s voter.Stored) (out voter.Stored) {
	m := s.Snapshot.GetMetadata()
	out.Snapshot = s.Snapshot
	next, term := m.GetIndex()+1, m.GetTerm()
	for _, e := range s.Entries {
		if e.GetIndex() < next {
			continue // the snapshot has it
		}
		if e.GetIndex() > next || e.GetTerm() < term {
			break
		}
		out.Entries = append(out.Entries, e)
		next, term = next+1, e.GetTerm()
	}
	out.HardState = &pb.HardState{Term: proto.Uint64(term)}
	return out
}

// Marshal writes: "cmql" 1 | epoch | number | whole 1 | term | vote | agreed on up to | snapshot (a blob, as stored; empty: none) | count | entries (blobs, as stored).
func (k Kept) Marshal() ([]byte, error) {
	var w wire.Writer
	w.Raw(keptMagic)
	w.Uvarint(k.Epoch)
	w.Uvarint(k.ID)
	w.Bool(k.Whole)
	hs := k.Stored.HardState
	for _, v := range []uint64{hs.GetTerm(), hs.GetVote(), hs.GetCommit()} {
		w.Uvarint(v)
	}
	var snapshot []byte
	if k.Stored.Snapshot != nil {
		snapshot = marshalSnapshot(k.Stored.Snapshot)
	}
	w.Blob(snapshot)
	w.Uvarint(uint64(len(k.Stored.Entries)))
	for _, e := range k.Stored.Entries {
		w.Blob(marshalEntry(e))
	}
	if n := len(w.Bytes()); n > MaxKept {
		return nil, fmt.Errorf("what the voter stored has %d bytes: %w", n, storage.ErrTooLarge)
	}
	return w.Bytes(), nil
}

// ParseKept reads what Marshal wrote. That it fits together Latest finds out.
func ParseKept(b []byte) (k Kept, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(keptMagic)), keptMagic) {
		r.Fail("magic or version")
	}
	k.Epoch = r.Uvarint(maxIndex)
	if k.ID = r.Uvarint(maxIndex); k.ID == 0 {
		r.Fail("number")
	}
	k.Whole = r.Bool()
	k.Stored.HardState = &pb.HardState{
		Term: proto.Uint64(r.Uvarint(maxIndex)), Vote: proto.Uint64(r.Uvarint(maxIndex)), Commit: proto.Uint64(r.Uvarint(maxIndex)),
	}
	if snapshot := r.Blob(maxKeptSnapshot); len(snapshot) > 0 {
		if k.Stored.Snapshot, err = parseSnapshot(snapshot); err != nil {
			return Kept{}, err
		}
	}
	for range r.Uvarint(MaxKept) {
		value := r.Blob(maxKeptEntry)
		if r.Err() != nil {
			return Kept{}, r.Err()
		}
		e, err := parseEntry(value)
		if err != nil {
			return Kept{}, err
		}
		k.Stored.Entries = append(k.Stored.Entries, e)
	}
	if err := r.Close(); err != nil {
		return Kept{}, err
	}
	return k, nil
}
