package driver

import (
	"bytes"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum/voter"
)

// FuzzValues: what is read of a voter's disk is written the same. The first byte says which value it is.
func FuzzValues(f *testing.F) {
	snapshot, err := marshalSnapshot(&pb.Snapshot{Data: []byte(fuzzing.Canary), Metadata: &pb.SnapshotMetadata{
		Index: proto.Uint64(300), Term: proto.Uint64(2), ConfState: &pb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}, VotersOutgoing: []uint64{1}, AutoLeave: proto.Bool(true)},
	}})
	if err != nil {
		f.Fatal(err)
	}
	first, err := marshalSnapshot(voter.Found(founding(3)).Snapshot)
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{
		append([]byte{0}, Record{Epoch: 1, ID: 2, Log: [32]byte{3}}.marshal()...),
		append([]byte{1}, hardState{1, 2, 3, 4, 500}.marshal()...),
		append([]byte{1}, hardState{term: 1, commit: 1}.marshal()...),
		append([]byte{2}, marshalEntry(&pb.Entry{Index: proto.Uint64(9), Term: proto.Uint64(1), Type: pb.EntryConfChangeV2.Enum(), Data: []byte(fuzzing.Canary)})...),
		append([]byte{2}, marshalEntry(&pb.Entry{Index: proto.Uint64(9), Term: proto.Uint64(1)})...),
		append([]byte{3}, snapshot...),
		append([]byte{3}, first...),
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
			return marshalSnapshot(s)
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
