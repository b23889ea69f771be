package p2p

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
)

// FuzzAddressesProtocol reads what members say of where others are: the first byte says whether it is a question, an answer or a record in one.
func FuzzAddressesProtocol(f *testing.F) {
	read := func(b []byte) ([]byte, error) {
		if len(b) == 0 {
			b = []byte{0}
		}
		switch kind, rest := b[0], b[1:]; kind {
		case 0:
			q, err := parseSought(rest)
			return append([]byte{kind}, q.encode()...), err
		case 1:
			a, err := parsePeerRecords(rest)
			return append([]byte{kind}, a.encode()...), err
		default:
			if len(rest) > maxRecord {
				rest = rest[:maxRecord]
			}
			d, rec, err := parsePeerRecord(rest)
			if err != nil {
				return nil, err
			}
			if of, err := DeviceOf(rec.PeerID); err != nil || of != d || len(toldPlaces(rec.Addrs, true)) > maxAddrs {
				f.Errorf("a record of %v is taken as %v's", rec.PeerID, d)
			}
			return b, nil // protobuf has more than one form; who signed it has chosen
		}
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	e, err := record.Seal(&peer.PeerRecord{PeerID: id, Seq: 7, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/udp/4801/quic-v1")}}, key)
	if err != nil {
		f.Fatal(err)
	}
	rec, err := e.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, sought{}.encode()...),
		append([]byte{0}, sought{trust.DeviceID{1}, trust.DeviceID{2}}.encode()...),
		append([]byte{1}, peerRecords{}.encode()...),
		append([]byte{1}, peerRecords{rec, []byte(fuzzing.Canary)}.encode()...),
		append([]byte{2}, rec...))
	f.Add(append([]byte{2}, fuzzing.Canary...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 80, 32<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && len(b) > 0 && !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}
