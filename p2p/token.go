package p2p

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/trust"
	"chartmesh/wire"
)

// AnchorToken is what the administrator of a practice gives to whoever runs an anchor, so that it admits the practice. It is no secret: it
// names the practice, whose founding entry hashes to its ID, and the device that is going to bring the membership log. Printed it is "cma1-"
// and base32 in lower case.
//
//	version 1 | anchor 32 | practice 32 | device 32 | checksum 4
//
// The checksum is the start of the SHA-256 of what stands before it.
type AnchorToken struct {
	Anchor   trust.DeviceID // the only one that takes it
	Practice trust.EntryID  // the founding entry
	Device   trust.DeviceID // that made it
}

// SplitAddress takes a multiaddr that ends in /p2p/ apart, of a device or anchor.
func SplitAddress(text string) (d trust.DeviceID, addr string, err error) {
	if len(text) > maxAddrBytes {
		return d, "", errors.New("the address is too long")
	}
	m, err := ma.NewMultiaddr(text)
	if err != nil {
		return d, "", fmt.Errorf("read address: %w", err)
	}
	m, id := peer.SplitAddr(m)
	if m == nil || id == "" {
		return d, "", errors.New("the address does not say where, or does not end in /p2p/ and a peer ID")
	}
	if d, err = DeviceOf(id); err != nil {
		return d, "", err
	}
	return d, m.String(), nil
}

// ErrToken says that a text is not a token: mistyped or cut short.
var ErrToken = errors.New("this is not a token of `chartmesh anchor add`: mistyped, or cut short")

const (
	tokenPrefix   = "cma1-"
	tokenVersion  = 1
	tokenChecksum = 4
	maxTokenText  = 512
)

var tokenText = base32.NewEncoding("abcdefghjkmnpqrstuvwxyz023456789").WithPadding(base32.NoPadding)

// String returns the token as it is printed.
func (t AnchorToken) String() string {
	var w wire.Writer
	w.Byte(tokenVersion)
	w.Raw(t.Anchor[:])
	w.Raw(t.Practice[:])
	w.Raw(t.Device[:])
	sum := sha256.Sum256(w.Bytes())
	w.Raw(sum[:tokenChecksum])
	return tokenPrefix + tokenText.EncodeToString(w.Bytes())
}

// ParseAnchorToken reads what String printed; space around it does not matter.
func ParseAnchorToken(text string) (t AnchorToken, err error) {
	text = strings.TrimSpace(text)
	if len(text) > maxTokenText || !strings.HasPrefix(text, tokenPrefix) {
		return t, ErrToken
	}
	b, err := tokenText.DecodeString(strings.TrimPrefix(text, tokenPrefix))
	if err != nil || len(b) < tokenChecksum {
		return t, ErrToken
	}
	said, sum := b[:len(b)-tokenChecksum], sha256.Sum256(b[:len(b)-tokenChecksum])
	r := wire.NewReader(said)
	if r.Byte() != tokenVersion || !bytes.Equal(b[len(said):], sum[:tokenChecksum]) {
		return t, ErrToken
	}
	r.Fixed(t.Anchor[:])
	r.Fixed(t.Practice[:])
	r.Fixed(t.Device[:])
	if r.Close() != nil || t.String() != text {
		return AnchorToken{}, ErrToken
	}
	return t, nil
}
