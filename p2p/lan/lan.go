// Package lan finds the devices of a practice on the local network, by multicast DNS.
//
// Nouns: an [Announcement] says at which ports its sender listens; a [Tag] proves to those who have the practice's key
// which device sent it, and tells others nothing that lasts. [Run] announces this device and hears the others; [Search] asks for
// whoever is there, without the key.
//
// Guarantees: what is sent names neither the practice nor the device nor, but for the ports, the program: the service is
// the generic one of libp2p, the instance a number that is drawn anew each hour and whenever the network changes.
// Addresses are not sent at all; the receiver takes the one that the packet came from. Who is announced is only believed
// if the tag fits one of the members that the caller names, and then it is an address to dial, no more: the handshake
// proves who is there.
//
// What is done with an address is left to package p2p. IPv4 alone is spoken, as a device listens.
//
// On the wire (RFC 6762, port 5353, group 224.0.0.251) an announcement is a response with two records:
//
//	_p2p._udp.local.             PTR  INSTANCE._p2p._udp.local.
//	INSTANCE._p2p._udp.local.    TXT  "n=NONCE" "m=TAG" "u=PORT" "t=PORT" "j=MARK"…
//
// NONCE and TAG are 16 bytes in hexadecimal, INSTANCE is the nonce's, u the port of QUIC, t that of TCP; one may be missing. There
// is a MARK, 8 bytes, for each invitation that is open: who was told its public part finds the device by it.
// See docs/spec/lan-discovery.md.
package lan

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"

	"chartmesh/trust"
)

const (
	service    = "_p2p._udp.local."
	ttl        = 120  // seconds
	maxPacket  = 9000 // bytes; RFC 6762, 17
	maxRecords = 64   // that are looked at in one packet
	tagContext = "chartmesh lan 1"

	markContext = "chartmesh lan invite 1"
	maxMarks    = 8 // in one announcement

	maxSought = 256 // places that one who seeks is told of
)

// Nonce makes an announcement unlike any other; a Tag binds it to a device.
type (
	Nonce [16]byte
	Tag   [16]byte
)

// Locator is the public part of an invitation that is read over the telephone, of 22 bits: by it a newcomer finds the device
// that made it. A Mark says, in one announcement, that its sender has the invitation of a locator.
type (
	Locator uint32
	Mark    [8]byte
)

// Tagger makes the tag of a message under a key that every member has and nobody else.
type Tagger func(message []byte) ([16]byte, error)

// Announcement is what a device tells the local network.
type Announcement struct {
	Nonce    Nonce
	Tag      Tag
	UDP, TCP uint16         // ports of QUIC and TCP; 0: none
	Marks    [maxMarks]Mark // of the invitations that are open; zero: none
}

// message is what the tag of an announcement of device is made of.
func (a Announcement) message(device trust.DeviceID) []byte {
	b := append([]byte(tagContext), a.Nonce[:]...)
	b = append(b, byte(a.UDP>>8), byte(a.UDP), byte(a.TCP>>8), byte(a.TCP))
	return append(b, device[:]...)
}

// Sign sets the tag for device.
func (a *Announcement) Sign(tag Tagger, device trust.DeviceID) error {
	t, err := tag(a.message(device))
	if err != nil {
		return fmt.Errorf("announce on the local network: %w", err)
	}
	a.Tag = t
	return nil
}

// By returns which of the members sent the announcement, if one of them did.
func (a Announcement) By(tag Tagger, members []trust.DeviceID) (trust.DeviceID, bool) {
	for _, d := range members {
		if t, err := tag(a.message(d)); err == nil && subtle.ConstantTimeCompare(t[:], a.Tag[:]) == 1 {
			return d, true
		}
	}
	return trust.DeviceID{}, false
}

// mark is what a holder of the locator looks for. It names neither the locator nor, with the next nonce, the same invitation.
func (a Announcement) mark(l Locator) (m Mark) {
	h := sha256.New()
	h.Write([]byte(markContext))
	h.Write(a.Nonce[:])
	h.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, a.UDP), a.TCP))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(l)))
	copy(m[:], h.Sum(nil))
	return m
}

// Invite marks the announcement with the invitations of the locators, as many as it takes.
func (a *Announcement) Invite(locators []Locator) {
	for i, l := range locators[:min(len(locators), maxMarks)] {
		a.Marks[i] = a.mark(l)
	}
}

// Invites reports whether the sender has the invitation of a locator.
func (a Announcement) Invites(l Locator) bool { return slices.Contains(a.Marks[:], a.mark(l)) }

// Append appends the announcement as a packet.
func (a Announcement) Append(b []byte) ([]byte, error) {
	name, err := dnsmessage.NewName(service)
	if err != nil {
		return nil, err
	}
	instance, err := dnsmessage.NewName(hex.EncodeToString(a.Nonce[:]) + "." + service)
	if err != nil {
		return nil, err
	}
	text := []string{"n=" + hex.EncodeToString(a.Nonce[:]), "m=" + hex.EncodeToString(a.Tag[:])}
	if a.UDP != 0 {
		text = append(text, "u="+strconv.Itoa(int(a.UDP)))
	}
	if a.TCP != 0 {
		text = append(text, "t="+strconv.Itoa(int(a.TCP)))
	}
	for _, m := range a.Marks {
		if m != (Mark{}) {
			text = append(text, "j="+hex.EncodeToString(m[:]))
		}
	}
	m := dnsmessage.NewBuilder(b, dnsmessage.Header{Response: true, Authoritative: true})
	head := dnsmessage.ResourceHeader{Class: dnsmessage.ClassINET, TTL: ttl}
	errs := []error{m.StartAnswers()}
	head.Name = name
	errs = append(errs, m.PTRResource(head, dnsmessage.PTRResource{PTR: instance}))
	head.Name = instance
	errs = append(errs, m.TXTResource(head, dnsmessage.TXTResource{TXT: text}))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("write announcement: %w", err)
	}
	return m.Finish()
}

// AppendQuery appends the question who is there.
func AppendQuery(b []byte) ([]byte, error) {
	name, err := dnsmessage.NewName(service)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.NewBuilder(b, dnsmessage.Header{})
	if err := errors.Join(m.StartQuestions(),
		m.Question(dnsmessage.Question{Name: name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET})); err != nil {
		return nil, fmt.Errorf("write question: %w", err)
	}
	return m.Finish()
}

// Packet is what of a packet matters here.
type Packet struct {
	Asks          bool // who is there
	Announcements []Announcement
}

// Parse reads a packet from anybody. What is not ours is passed over; what is malformed ends it without an error, since a
// network has all kinds of speakers.
func Parse(b []byte) (out Packet) {
	if len(b) > maxPacket {
		return out
	}
	var p dnsmessage.Parser
	head, err := p.Start(b)
	if err != nil {
		return out
	}
	if !head.Response {
		for range maxRecords {
			q, err := p.Question()
			if err != nil {
				return out
			}
			if (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL) && isService(q.Name) {
				out.Asks = true
				return out
			}
		}
		return out
	}
	if p.SkipAllQuestions() != nil {
		return out
	}
	left := maxRecords
	section := func(next func() (dnsmessage.ResourceHeader, error), skip func() error) bool {
		for ; left > 0; left-- {
			h, err := next()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				return true
			}
			if err != nil {
				return false
			}
			if h.Type != dnsmessage.TypeTXT {
				if skip() != nil {
					return false
				}
				continue
			}
			txt, err := p.TXTResource()
			if err != nil {
				return false
			}
			if a, ok := parseText(txt.TXT); ok {
				out.Announcements = append(out.Announcements, a)
			}
		}
		return false
	}
	// Some responders repeat others' records in the later sections.
	if section(p.AnswerHeader, p.SkipAnswer) && p.SkipAllAuthorities() == nil {
		section(p.AdditionalHeader, p.SkipAdditional)
	}
	return out
}

// isService compares as DNS does, without regard to case.
func isService(name dnsmessage.Name) bool {
	return bytes.EqualFold(name.Data[:name.Length], []byte(service))
}

func parseText(text []string) (a Announcement, ok bool) {
	var nonce, tag bool
	marks := 0
	for _, s := range text {
		if len(s) < 2 || s[1] != '=' {
			return a, false
		}
		value := s[2:]
		switch s[0] {
		case 'n':
			nonce = parseHex(a.Nonce[:], value)
		case 'm':
			tag = parseHex(a.Tag[:], value)
		case 'u':
			a.UDP = parsePort(value)
		case 't':
			a.TCP = parsePort(value)
		case 'j':
			if marks < maxMarks && parseHex(a.Marks[marks][:], value) && a.Marks[marks] != (Mark{}) {
				marks++
			}
		}
	}
	return a, nonce && tag && (a.UDP != 0 || a.TCP != 0)
}

func parseHex(to []byte, s string) bool {
	if len(s) != 2*len(to) {
		return false
	}
	_, err := hex.Decode(to, []byte(s))
	return err == nil
}

func parsePort(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}
