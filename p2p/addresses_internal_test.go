package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
)

// TestPaced: a member is asked when its link begins, 10 s later and every 5 minutes, and not once the link is gone.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began, asked := time.Now(), []time.Duration(nil)
		go paced(ctx, func() bool {
			asked = append(asked, time.Since(began))
			return true
		})
		time.Sleep(12 * time.Minute)
		cancel()
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		if want := []time.Duration{0, 10 * time.Second, 310 * time.Second, 610 * time.Second}; !slices.Equal(asked, want) {
			t.Errorf("asked at %v, not at %v", asked, want)
		}
	})
}

// TestTellingPace: a member is answered one question at a time, four at once, then one a minute; others are not in its way.
func TestTellingPace(t *testing.T) {
	h := &Host{}
	h.mu.peers = map[trust.DeviceID]*member{}
	one, other := trust.DeviceID(ed25519.NewKeyFromSeed(make([]byte, 32))[32:]), trust.DeviceID(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))[32:])
	now := time.Unix(1_800_000_000, 0)
	answers := func(d trust.DeviceID, now time.Time) (n int) {
		for range 10 {
			if h.beginTelling(d, now) {
				if h.beginTelling(d, now) {
					t.Error("two questions at a time are answered")
				}
				h.endTelling(d)
				n++
			}
		}
		return n
	}
	for i, x := range []struct {
		d    trust.DeviceID
		at   time.Duration
		want int
	}{{one, 0, tellBurst}, {other, 0, tellBurst}, {one, 59 * time.Second, 0}, {one, 61 * time.Second, 1}, {one, time.Hour, tellBurst}} {
		if got := answers(x.d, now.Add(x.at)); got != x.want {
			t.Errorf("step %d: %d answers, not %d", i, got, x.want)
		}
	}
}

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
