package driver

import (
	"bytes"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum/voter"
	"chartmesh/trust"
)

// FuzzValues: what is read of a voter's disk is written the same. The first byte says which value it is.
func FuzzValues(f *testing.F) {
	snapshot := marshalSnapshot(&pb.Snapshot{Data: []byte(fuzzing.Canary), Metadata: &pb.SnapshotMetadata{
		Index: proto.Uint64(300), Term: proto.Uint64(2), ConfState: &pb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}, VotersOutgoing: []uint64{1}, AutoLeave: proto.Bool(true)},
	}})
	first := marshalSnapshot(voter.Found(founding(3)).Snapshot)
	seeds := [][]byte{
		append([]byte{0}, Record{Epoch: 1, ID: 2, Log: [32]byte{3}}.marshal()...),
		append([]byte{1}, hardState{1, 2, 3, 4, 500}.marshal()...),
		append([]byte{1}, hardState{term: 1, commit: 1}.marshal()...),
		append([]byte{2}, marshalEntry(&pb.Entry{Index: proto.Uint64(9), Term: proto.Uint64(1), Type: pb.EntryConfChangeV2.Enum(), Data: []byte(fuzzing.Canary)})...),
		append([]byte{2}, marshalEntry(&pb.Entry{Index: proto.Uint64(9), Term: proto.Uint64(1)})...),
		append([]byte{3}, snapshot...),
		append([]byte{3}, first...),
		append([]byte{4}, Prepared{Record{Epoch: 1 << 33, ID: 2, Log: [32]byte{3}}, trust.EntryID{9}}.marshal()...),
	}
	read := func(b []byte) (again []byte, err error) {
		if len(b) == 0 {
			return nil, nil
		}
		switch b[0] {
		case 0:
			rec, err := parseRecord(b[1:])
			return rec.marshal(), err
		case 1:
			h, err := parseHard(b[1:])
			return h.marshal(), err
		case 2:
			e, err := parseEntry(b[1:])
			if err != nil {
				return nil, err
			}
			return marshalEntry(e), nil
		case 3:
			s, err := parseSnapshot(b[1:])
			if err != nil {
				return nil, err
			}
			return marshalSnapshot(s), nil
		case 4:
			p, err := parsePrepared(b[1:])
			return p.marshal(), err
		}
		return b[1:], nil
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err }, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 8, 8<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && len(b) > 0 && !bytes.Equal(again, b[1:]) {
			t.Fatalf("%x is written %x", b[1:], again)
		}
	})
}

// FuzzKept: what a voter stored comes to another device as it is, and amounts to a State or is refused.
func FuzzKept(f *testing.F) {
	entry := &pb.Entry{Index: proto.Uint64(2), Term: proto.Uint64(1), Data: []byte(fuzzing.Canary)}
	var seeds [][]byte
	for _, k := range []Kept{
		{Epoch: 1, ID: 1, Whole: true, Stored: *voter.Found(founding(3))},
		{Epoch: 1 << 33, ID: 3, Stored: voter.Stored{HardState: &pb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(2), Commit: proto.Uint64(3)}, Entries: []*pb.Entry{entry, entry}}},
		{Epoch: 1, ID: 1, Whole: true, Stored: voter.Stored{Snapshot: &pb.Snapshot{Data: founding(1).Snapshot(), Metadata: voter.Found(founding(1)).Snapshot.Metadata}, Entries: []*pb.Entry{entry}}},
	} {
		b, err := k.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := ParseKept(b); return err }, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		var k Kept
		var err error
		fuzzing.Allocates(t, len(b), 64, 8<<10, func() { k, err = ParseKept(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again, err := k.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is written %x (%v)", b, again, err)
		}
		_, _, err = k.Latest()
		fuzzing.Quiet(t, err)
	})
}
