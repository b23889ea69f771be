package p2p

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"

	"chartmesh/trust"
)

// EncodeHello is for tests that speak the join protocol by hand.
func EncodeHello(inv Invitation, inviter trust.DeviceID, n Newcomer) []byte {
	return ask(inv, inviter, n, [16]byte{1}).hello
}

// Opened reports whether others are let in.
func (h *Host) Opened() bool { return h.gate.open.Load() }

// WithChecksum gives a code that was written by hand the checksum that fits, in place of its own.
func WithChecksum(text string) string {
	body, ok := strings.CutPrefix(text, codePrefix)
	b, err := codeEncoding.DecodeString(body)
	if !ok || err != nil || len(b) < codeChecksum {
		return text
	}
	b = b[:len(b)-codeChecksum]
	sum := sha256.Sum256(b)
	return codePrefix + codeEncoding.EncodeToString(append(b, sum[:codeChecksum]...))
}

// Bare returns addresses without the device's name.
func Bare(addrs []string) (list []string) {
	for _, a := range parseAddrs(addrs) {
		list = append(list, a.String())
	}
	return list
}

// EncodeRecoverRequest and the others are for tests of the messages of recovery.
func EncodeRecoverRequest(entries [][]byte) []byte { return recoverRequest(entries).encode() }

func EncodeRecoverAnswer(entries [][]byte) []byte { return recoverAnswer(entries).encode() }

// EncodeKnock and the others are for tests of knocking.
func EncodeKnock(entries [][]byte) []byte { return encodeKnock(entries) }

func ReencodeKnock(b []byte) ([]byte, error) {
	list, err := parseKnock(b)
	return encodeKnock(list), err
}

const (
	KnockRefused  = knockRefused
	KnockTaken    = knockTaken
	KnockSoon     = knockSoon
	KnockAgain    = knockAgain
	MaxKnocking   = maxKnocking
	ReasonRemoved = reasonRemoved
)

type Knocks struct{ *knocks }

func NewKnocks() Knocks { return Knocks{newKnocks()} }

func (k Knocks) Enter(d trust.DeviceID, now time.Time) bool  { return k.enter(d, now) }
func (k Knocks) Inside(d trust.DeviceID, now time.Time) bool { return k.inside(d, now) }
func (k Knocks) Use(d trust.DeviceID, now time.Time) bool    { return k.use(d, now) }
func (k Knocks) Done(d trust.DeviceID)                       { k.done(d) }
func (k Knocks) Readmitted(d trust.DeviceID)                 { k.readmitted(d) }

func ReencodeRecoverRequest(b []byte) ([]byte, error) {
	q, err := parseRecoverRequest(b)
	return q.encode(), err
}

func ReencodeRecoverAnswer(b []byte) ([]byte, error) {
	a, err := parseRecoverAnswer(b)
	return a.encode(), err
}

// Connected lists who has a connection, strangers too.
func (h *Host) Connected() (list []trust.DeviceID) {
	for _, id := range h.host.Network().Peers() {
		if d, err := DeviceOf(id); err == nil {
			list = append(list, d)
		}
	}
	return list
}

// WebSocket makes the options of the transport.
var WebSocket = webSocket

// Rank orders dials.
var Rank = rank

// Dialable reports whether an address that has worked is kept.
var Dialable = dialable

// Await waits until bytes that have arrived for a replica are within its rate.
var Await = await

// Libp2p is the host with the options that the product has.
func (h *Host) Libp2p() host.Host { return h.host }

// EncodeSought and the others are for tests of what members tell each other of where others are.
func EncodeSought(list ...trust.DeviceID) []byte { return sought(list).encode() }

func EncodePeerRecords(list [][]byte) []byte { return peerRecords(list).encode() }

// OpenPeerRecords reads an answer, with its length before it, and returns of whom it tells.
func OpenPeerRecords(b []byte) (list []trust.DeviceID, err error) {
	a, err := parsePeerRecords(b[min(len(b), 4):])
	for _, rec := range a {
		d, _, err := parsePeerRecord(rec)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, err
}

// ToldPlaces says which addresses that another told may be dialled.
var ToldPlaces = toldPlaces

// AskAddresses asks a connected member at once.
func (h *Host) AskAddresses(ctx context.Context, d trust.DeviceID) error {
	id, err := PeerID(d)
	if err != nil {
		return err
	}
	for _, c := range h.host.Network().ConnsToPeer(id) {
		return h.askAddresses(ctx, c)
	}
	return errNotConnected
}

// HasRecord reports whether a device has said where it is.
func (h *Host) HasRecord(d trust.DeviceID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.peers[d] != nil && h.mu.peers[d].record != nil
}

// Hearsay lists where others said that a device is.
func (h *Host) Hearsay(d trust.DeviceID) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.mu.peers[d]; m != nil {
		for _, a := range m.hearsay {
			list = append(list, a.String())
		}
	}
	return list
}
