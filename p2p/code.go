package p2p

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Code invites one device to a practice. It is a secret: whoever has it first, joins. Printed it is "cm1" and base32 in
// lower case; letters that look like digits do not occur.
//
//	version 2 | role | secret 16 | inviter 32 | founding 16 | expires, minutes 4 | count | addresses | checksum 4
//
// An address is a kind and its fields: IPv4 4 or IPv6 16 bytes, then port 2. The checksum is the start of the SHA-256 of
// what stands before it.
type Code struct {
	Role     trust.Role // that the newcomer will have; for display
	Secret   Secret
	Inviter  trust.DeviceID
	Founding [16]byte // the first bytes of the founding entry's ID
	Expires  time.Time
	Addrs    []string // of the inviter, at most MaxCodeAddrs; multiaddrs of IP with quic-v1 or tcp
}

// Secret is a code's secret. It prints as nothing.
type Secret [16]byte

func (Secret) String() string   { return "[secret]" }
func (Secret) GoString() string { return "[secret]" }

// ErrCode says that a text is not a code: mistyped or cut short.
var ErrCode = errors.New("this is not an invitation code: mistyped, or cut short")

const (
	codePrefix   = "cm1"
	linkPrefix   = "chartmesh:join/" // makes a link of a code, which a QR code can carry
	codeVersion  = 2
	codeChecksum = 4
)

// Kinds of addresses in a code.
const (
	addrIP4UDP = 1 // quic-v1
	addrIP4TCP = 2
	addrIP6UDP = 3
	addrIP6TCP = 4
)

// base32 without i, l, o, u; what people read as 1 or 0 is taken for it.
var codeEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
var codeTyping = strings.NewReplacer("o", "0", "i", "1", "l", "1", "-", "", " ", "", "\n", "", "\r", "", "\t", "")

// NewCode makes a code with a fresh secret from random.
func NewCode(random io.Reader, c Code) (Code, error) {
	if _, err := io.ReadFull(random, c.Secret[:]); err != nil {
		return Code{}, fmt.Errorf("make invitation code: %w", err)
	}
	c.Expires = c.Expires.Truncate(time.Minute)
	c.Addrs = codeAddrs(c.Addrs)
	return c, nil
}

// codeAddrs picks the addresses that fit a code, in the order given.
func codeAddrs(addrs []string) []string {
	var fit []string
	for _, a := range addrs {
		var w wire.Writer
		if len(fit) < MaxCodeAddrs && writeAddr(&w, a) == nil {
			r := wire.NewReader(w.Bytes())
			fit = append(fit, readAddr(r))
		}
	}
	return fit
}

// Invite returns the name under which the inviter stores the invite.
func (c Code) Invite() InviteID { return InviteID(c.derive("chartmesh join invite 1")[:16]) }

// Invitation returns what the code is good for.
func (c Code) Invitation() Invitation {
	return Invitation{ID: c.Invite(), Key: c.Key(), Inviter: c.Inviter, Founding: c.Founding, Addrs: c.Addrs}
}

// Key returns the password of the exchange.
func (c Code) Key() JoinKey { return JoinKey(c.derive("chartmesh join key 1")) }

func (c Code) derive(context string) []byte {
	h := hmac.New(sha256.New, c.Secret[:])
	h.Write([]byte(context))
	h.Write(c.Inviter[:])
	h.Write(c.Founding[:])
	return h.Sum(nil)
}

// Text returns the code as it is printed. It contains the secret, so it is not String.
func (c Code) Text() (string, error) {
	var w wire.Writer
	w.Byte(codeVersion)
	w.Byte(byte(c.Role))
	w.Raw(c.Secret[:])
	w.Raw(c.Inviter[:])
	w.Raw(c.Founding[:])
	minutes := c.Expires.Unix() / 60
	if minutes < 0 || minutes > 1<<32-1 {
		return "", errors.New("write invitation code: expiry out of range")
	}
	w.Uint16(uint16(minutes >> 16))
	w.Uint16(uint16(minutes))
	if len(c.Addrs) > MaxCodeAddrs {
		return "", errors.New("write invitation code: too many addresses")
	}
	w.Byte(byte(len(c.Addrs)))
	for _, a := range c.Addrs {
		if err := writeAddr(&w, a); err != nil {
			return "", fmt.Errorf("write invitation code: %w", err)
		}
	}
	sum := sha256.Sum256(w.Bytes())
	w.Raw(sum[:codeChecksum])
	return codePrefix + codeEncoding.EncodeToString(w.Bytes()), nil
}

// Link returns the code as a link.
func (c Code) Link() (string, error) {
	text, err := c.Text()
	return linkPrefix + text, err
}

// String hides the secret.
func (c Code) String() string { return "invitation of " + c.Inviter.String() }

// GoString hides the secret.
func (c Code) GoString() string { return c.String() }

// ParseCode reads a code or a link as printed; case, spaces, line breaks and dashes do not matter.
func ParseCode(text string) (Code, error) {
	if len(text) > MaxCodeText {
		return Code{}, ErrCode
	}
	text = codeTyping.Replace(strings.TrimPrefix(strings.TrimSpace(strings.ToLower(text)), linkPrefix))
	// The prefix has no letter that the replacer changes but none may be lost in it either: "cm1".
	body, ok := strings.CutPrefix(text, codePrefix)
	if !ok {
		return Code{}, ErrCode
	}
	b, err := codeEncoding.DecodeString(body)
	if err != nil || len(b) < codeChecksum || codeEncoding.EncodeToString(b) != body {
		return Code{}, ErrCode
	}
	b, sum := b[:len(b)-codeChecksum], b[len(b)-codeChecksum:]
	if want := sha256.Sum256(b); [codeChecksum]byte(sum) != [codeChecksum]byte(want[:codeChecksum]) {
		return Code{}, ErrCode
	}
	r := wire.NewReader(b)
	if v := r.Byte(); v != codeVersion {
		return Code{}, fmt.Errorf("invitation code of version %d: made by a newer chartmesh", v)
	}
	var c Code
	c.Role = trust.Role(r.Byte())
	r.Fixed(c.Secret[:])
	r.Fixed(c.Inviter[:])
	r.Fixed(c.Founding[:])
	minutes := int64(r.Uint16()) << 16
	minutes |= int64(r.Uint16())
	c.Expires = time.Unix(60*minutes, 0)
	n := int(r.Byte())
	if n > MaxCodeAddrs {
		return Code{}, ErrCode
	}
	for range n {
		c.Addrs = append(c.Addrs, readAddr(r))
	}
	if r.Close() != nil {
		return Code{}, ErrCode
	}
	return c, nil
}

func writeAddr(w *wire.Writer, addr string) error {
	m, err := ma.NewMultiaddr(addr)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	m, _ = peer.SplitAddr(m)
	if len(m) < 2 || len(m) > 3 {
		return errors.New("address: not an IP address with a port")
	}
	ip, port := m[0], m[1]
	quic := port.Protocol().Code == ma.P_UDP && len(m) == 3 && m[2].Protocol().Code == ma.P_QUIC_V1
	tcp := port.Protocol().Code == ma.P_TCP && len(m) == 2
	switch {
	case ip.Protocol().Code == ma.P_IP4 && quic:
		w.Byte(addrIP4UDP)
	case ip.Protocol().Code == ma.P_IP4 && tcp:
		w.Byte(addrIP4TCP)
	case ip.Protocol().Code == ma.P_IP6 && quic:
		w.Byte(addrIP6UDP)
	case ip.Protocol().Code == ma.P_IP6 && tcp:
		w.Byte(addrIP6TCP)
	default:
		return errors.New("address: neither quic-v1 nor tcp over IP")
	}
	w.Raw(ip.RawValue())
	w.Raw(port.RawValue())
	return nil
}

func readAddr(r *wire.Reader) string {
	kind := r.Byte()
	size, version := 4, "ip4"
	if kind == addrIP6UDP || kind == addrIP6TCP {
		size, version = 16, "ip6"
	}
	ip, _ := netip.AddrFromSlice(r.Raw(size))
	port := r.Uint16()
	if r.Err() != nil {
		return ""
	}
	switch kind {
	case addrIP4UDP, addrIP6UDP:
		return fmt.Sprintf("/%s/%s/udp/%d/quic-v1", version, ip, port)
	case addrIP4TCP, addrIP6TCP:
		return fmt.Sprintf("/%s/%s/tcp/%d", version, ip, port)
	}
	r.Fail("kind of address")
	return ""
}
