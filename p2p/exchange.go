package p2p

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"

	"chartmesh/p2p/cpace"
	"chartmesh/trust"
	"chartmesh/wire"
)

// The exchange by which a newcomer and an inviter show each other that they know a code's secret, without network and
// storage. Each message stands behind its length, four bytes, big endian:
//
//	hello      newcomer  "cmjn" 2 | invite 16 | session 16 | share 32 | HPKE key
//	challenge  inviter   1 | share 32 | role | founding entry 32 | hash of the HPKE key 32
//	proof      newcomer  MAC 32 | names, sealed
//	answer     inviter   3 | MAC 32                       the administrator is being asked
//	                     4 | MAC 32 | count | entries…    welcome
//	                     5 | MAC 32 | reason              refused
//	or, from the inviter at any time
//	                     2 | reason                       refused
//
// The key is CPace's over: the secret, both device IDs, session, and every byte of hello and challenge. So whoever changes
// one of them, or stands between the two with keys of its own, has both sides fail. The newcomer proves first: a wrong
// guess is counted before anything is said that depends on the secret.

var errNotProven = errors.New("the other side does not know the code")

var joinMagic = []byte{'c', 'm', 'j', 'n', 2}

// Kinds of what the inviter says.
const (
	saysChallenge = 1
	saysRefused   = 2
	saysWaiting   = 3
	saysWelcome   = 4
	saysDenied    = 5
)

// hello is the newcomer's first message.
type hello struct {
	invite  InviteID
	session [16]byte
	share   cpace.Share
	hpke    []byte
}

func (m hello) encode() []byte {
	var w wire.Writer
	w.Raw(joinMagic)
	w.Raw(m.invite[:])
	w.Raw(m.session[:])
	w.Raw(m.share[:])
	w.Blob(m.hpke)
	return w.Bytes()
}

func parseHello(b []byte) (m hello, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(joinMagic)), joinMagic) {
		r.Fail("magic or version")
	}
	r.Fixed(m.invite[:])
	r.Fixed(m.session[:])
	r.Fixed(m.share[:])
	m.hpke = slices.Clone(r.Blob(MaxHPKEKey))
	return m, r.Close()
}

// challenge is the inviter's first message.
type challenge struct {
	share    cpace.Share
	role     trust.Role
	founding trust.EntryID
	hpke     [32]byte
}

func (m challenge) encode() []byte {
	var w wire.Writer
	w.Byte(saysChallenge)
	w.Raw(m.share[:])
	w.Byte(byte(m.role))
	w.Raw(m.founding[:])
	w.Raw(m.hpke[:])
	return w.Bytes()
}

// parseChallenge reads a challenge; a refusal in its place is an error.
func parseChallenge(b []byte) (m challenge, err error) {
	r := wire.NewReader(b)
	switch r.Byte() {
	case saysRefused:
		return m, parseRefusal(r)
	case saysChallenge:
	default:
		r.Fail("kind of message")
	}
	r.Fixed(m.share[:])
	m.role = trust.Role(r.Byte())
	r.Fixed(m.founding[:])
	r.Fixed(m.hpke[:])
	return m, r.Close()
}

func encodeRefusal(why Refusal) []byte { return []byte{saysRefused, byte(why)} }

// parseRefusal reads the rest of a refusal, which is the error.
func parseRefusal(r *wire.Reader) error {
	why := Refusal(r.Byte())
	if err := r.Close(); err != nil {
		return err
	}
	return why
}

// joinKeys are what both sides derive from CPace's key.
type joinKeys struct{ newcomer, inviter, names [32]byte }

func keysFrom(key cpace.Key) (k joinKeys, err error) {
	for _, d := range []struct {
		to    *[32]byte
		label string
	}{{&k.newcomer, "newcomer"}, {&k.inviter, "inviter"}, {&k.names, "names"}} {
		b, err := hkdf.Key(sha512.New, key[:], nil, "chartmesh join 2 "+d.label, len(d.to))
		if err != nil {
			return k, fmt.Errorf("derive keys: %w", err)
		}
		copy(d.to[:], b)
	}
	return k, nil
}

func mac(key [32]byte, parts ...[]byte) [32]byte {
	h := hmac.New(sha256.New, key[:])
	for _, p := range parts {
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// channel says between whom an exchange is.
func channel(newcomer, inviter trust.DeviceID) []byte {
	return slices.Concat([]byte("chartmesh join 2"), newcomer[:], inviter[:])
}

// sealer seals one text, once, under a key that no other exchange has.
func sealer(key [32]byte) (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, err
	}
	return aead, make([]byte, aead.NonceSize()), nil
}

// proof is the newcomer's second message.
type proof struct {
	mac   [32]byte
	names []byte // sealed
}

func (m proof) encode() []byte {
	var w wire.Writer
	w.Raw(m.mac[:])
	w.Blob(m.names)
	return w.Bytes()
}

func parseProof(b []byte) (m proof, err error) {
	r := wire.NewReader(b)
	r.Fixed(m.mac[:])
	m.names = slices.Clone(r.Blob(maxSealedNames))
	return m, r.Close()
}

// asking is the newcomer's side.
type asking struct {
	invitation Invitation
	run        *cpace.Exchange
	hello      []byte
	keys       joinKeys
	proof      [32]byte
	challenge  challenge
	heard      bool // the inviter has proven that it knows the secret
}

// ask begins an exchange with inviter, whose device ID the connection proves.
func ask(inv Invitation, inviter trust.DeviceID, n Newcomer, session [16]byte) *asking {
	a := &asking{invitation: inv, run: cpace.Begin(inv.Key[:], channel(n.Device, inviter), session[:])}
	a.hello = hello{invite: inv.ID, session: session, share: a.run.Share(), hpke: n.HPKE}.encode()
	return a
}

// prove answers the challenge.
func (a *asking) prove(b []byte, n Newcomer) ([]byte, error) {
	c, err := parseChallenge(b)
	if err != nil {
		return nil, err
	}
	if !a.invitation.Spoken && [16]byte(c.founding[:16]) != a.invitation.Founding {
		return nil, errors.New("the device that answered is of another practice than the code")
	}
	a.challenge = c
	key, err := a.run.Initiated(a.hello, c.share, b)
	if err != nil {
		return nil, err
	}
	if a.keys, err = keysFrom(key); err != nil {
		return nil, err
	}
	aead, nonce, err := sealer(a.keys.names)
	if err != nil {
		return nil, err
	}
	var names wire.Writer
	names.String(n.DeviceName)
	names.String(n.SiteName)
	p := proof{names: aead.Seal(nil, nonce, names.Bytes(), nil)}
	p.mac = mac(a.keys.newcomer, p.names)
	a.proof = p.mac
	return p.encode(), nil
}

// answer is what the inviter says to who has proven that it knows the secret.
type answer struct {
	kind    byte
	why     Refusal
	entries [][]byte
}

func (a answer) body() []byte {
	var w wire.Writer
	switch a.kind {
	case saysWelcome:
		appendEntries(&w, a.entries)
	case saysDenied:
		w.Byte(byte(a.why))
	}
	return w.Bytes()
}

func (a answer) encode(key, proof [32]byte) []byte {
	body := a.body()
	m := mac(key, proof[:], []byte{a.kind}, body)
	return slices.Concat([]byte{a.kind}, m[:], body)
}

func parseAnswer(b []byte) (a answer, said [32]byte, err error) {
	r := wire.NewReader(b)
	a.kind = r.Byte()
	if a.kind == saysRefused {
		a.why = Refusal(r.Byte())
		return a, said, r.Close()
	}
	r.Fixed(said[:])
	switch a.kind {
	case saysWaiting:
	case saysDenied:
		a.why = Refusal(r.Byte())
	case saysWelcome:
		if a.entries = readEntries(r); len(a.entries) == 0 {
			r.Fail("number of entries")
		}
	default:
		r.Fail("kind of answer")
	}
	return a, said, r.Close()
}

// hear reads an answer and whether it comes from who knows the secret; done is false while the administrator is asked.
func (a *asking) hear(b []byte) (entries [][]byte, done bool, err error) {
	got, said, err := parseAnswer(b)
	if err != nil {
		return nil, true, err
	}
	if got.kind == saysRefused {
		return nil, true, got.why // anybody can say so; there is nothing to be had here either way
	}
	if want := mac(a.keys.inviter, a.proof[:], []byte{got.kind}, got.body()); !hmac.Equal(want[:], said[:]) {
		return nil, true, errNotProven
	}
	a.heard = true
	switch got.kind {
	case saysWaiting:
		return nil, false, nil
	case saysDenied:
		return nil, true, got.why
	}
	founds := func(e []byte) bool { return sha256.Sum256(e) == a.challenge.founding }
	if !slices.ContainsFunc(got.entries, founds) {
		return nil, true, errors.New("the answer is of another practice than was agreed on")
	}
	return got.entries, true, nil
}

// answering is the inviter's side.
type answering struct {
	newcomer Newcomer
	invite   InviteID
	keys     joinKeys
	proof    [32]byte
	proven   bool

	run       *cpace.Exchange
	hello     []byte
	challenge []byte
	share     cpace.Share
}

// challengeTo answers a hello on the terms of its invite.
func challengeTo(b []byte, m hello, terms Terms, self, device trust.DeviceID) *answering {
	a := &answering{newcomer: Newcomer{Device: device, HPKE: m.hpke}, invite: m.invite, hello: b, share: m.share,
		run: cpace.Begin(terms.Key[:], channel(device, self), m.session[:])}
	a.challenge = challenge{share: a.run.Share(), role: terms.Role, founding: terms.Founding, hpke: terms.HPKE}.encode()
	return a
}

// judge reports whether a proof is that of somebody who knows the secret, and reads the names if so.
func (a *answering) judge(p proof) error {
	key, err := a.run.Responded(a.challenge, a.share, a.hello)
	if err != nil {
		return err
	}
	if a.keys, err = keysFrom(key); err != nil {
		return err
	}
	if want := mac(a.keys.newcomer, p.names); !hmac.Equal(want[:], p.mac[:]) {
		return errNotProven
	}
	a.proof = p.mac
	aead, nonce, err := sealer(a.keys.names)
	if err != nil {
		return err
	}
	names, err := aead.Open(nil, nonce, p.names, nil)
	if err != nil {
		return errNotProven
	}
	r := wire.NewReader(names)
	a.newcomer.DeviceName, a.newcomer.SiteName = r.String(MaxJoinName), r.String(MaxJoinName)
	return r.Close()
}

func (a *answering) say(m answer) []byte { return m.encode(a.keys.inviter, a.proof) }

// refusal is what a newcomer is told: who has proven nothing hears no more than that it is wrong, or blocked.
func (a *answering) refusal(why Refusal) []byte {
	if a.proven {
		return a.say(answer{kind: saysDenied, why: why})
	}
	return encodeRefusal(why)
}
