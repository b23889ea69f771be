package agent

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Contacts is what a device needs to speak to the others again when its store is lost: the membership log, where the
// members were last seen, and its own ports. It lies beside the store, in a file of its own:
//
//	"cmc" 1 | nonce 12 | AES-256-GCM( uvarint count | blobs of entries | string UDP port | string TCP port |
//	                                  uvarint count | count × ( device 32 | uvarint count | strings ) )
//
// under a key that the keyring derives.
type contacts struct {
	entries [][]byte // ascending
	ports   map[string]string
	addrs   map[trust.DeviceID][]string
}

const (
	fileContacts    = "contacts"
	contactsContext = "contacts 1"
	maxContacts     = 64 << 20
)

var contactsMagic = []byte{'c', 'm', 'c', 1}

var errContacts = errors.New("the file of contacts is damaged")

func (c contacts) marshal() []byte {
	var w wire.Writer
	w.Uvarint(uint64(len(c.entries)))
	for _, e := range c.entries {
		w.Blob(e)
	}
	w.String(c.ports["udp"])
	w.String(c.ports["tcp"])
	devices := slices.SortedFunc(maps.Keys(c.addrs), func(a, b trust.DeviceID) int { return bytes.Compare(a[:], b[:]) })
	w.Uvarint(uint64(len(devices)))
	for _, d := range devices {
		w.Raw(d[:])
		w.Uvarint(uint64(len(c.addrs[d])))
		for _, a := range c.addrs[d] {
			w.String(a)
		}
	}
	return w.Bytes()
}

func parseContacts(b []byte) (c contacts, err error) {
	r := wire.NewReader(b)
	for range r.Uvarint(trust.MaxEntries) {
		c.entries = append(c.entries, slices.Clone(r.Blob(trust.MaxEntry)))
		if r.Err() != nil {
			return contacts{}, r.Err()
		}
	}
	c.ports = map[string]string{}
	for _, transport := range []string{"udp", "tcp"} {
		if p := r.String(maxPort); p != "" {
			c.ports[transport] = p
		}
	}
	c.addrs = map[trust.DeviceID][]string{}
	for range r.Uvarint(trust.MaxEntries) {
		var d trust.DeviceID
		r.Fixed(d[:])
		var addrs []string
		for range r.Uvarint(maxPeerAddrs) {
			addrs = append(addrs, r.String(maxPeerAddr))
		}
		if r.Err() != nil {
			return contacts{}, r.Err()
		}
		c.addrs[d] = addrs
	}
	return c, r.Close()
}

const maxPort = 8

func contactsCipher(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func readContacts(dir string, key [32]byte) (contacts, error) {
	name := filepath.Join(dir, fileContacts)
	info, err := os.Stat(name)
	if err != nil {
		return contacts{}, err
	}
	if info.Size() > maxContacts {
		return contacts{}, errContacts
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return contacts{}, err
	}
	if len(b) < len(contactsMagic)+12 || !bytes.Equal(b[:len(contactsMagic)], contactsMagic) {
		return contacts{}, errContacts
	}
	aead, err := contactsCipher(key)
	if err != nil {
		return contacts{}, err
	}
	rest := b[len(contactsMagic):]
	plain, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], contactsMagic)
	if err != nil {
		return contacts{}, errContacts
	}
	c, err := parseContacts(plain)
	if err != nil {
		return contacts{}, errContacts
	}
	return c, nil
}

// writeContacts replaces the file.
func writeContacts(dir string, key [32]byte, plain []byte) error {
	aead, err := contactsCipher(key)
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	b := aead.Seal(append(slices.Clone(contactsMagic), nonce...), nonce, plain, contactsMagic)
	name := filepath.Join(dir, fileContacts)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncFolder(dir)
}

// contactsKey is what the file is encrypted with.
func (a *Agent) contactsKey() [32]byte { return a.keys.Derive(contactsContext) }

// keepContacts brings the file up to date; it does nothing when nothing has changed since.
func (a *Agent) keepContacts() error {
	a.contacts.Lock()
	defer a.contacts.Unlock()
	ports, err := a.ports()
	if err != nil {
		return err
	}
	c := contacts{entries: a.records.EntriesSince(nil), ports: ports, addrs: a.peers.known()}
	slices.SortFunc(c.entries, bytes.Compare)
	plain := c.marshal()
	if bytes.Equal(plain, a.contacts.written) {
		return nil
	}
	if a.contacts.written == nil { // nothing was written since the start
		if have, err := readContacts(a.cfg.Dir, a.contactsKey()); err == nil && bytes.Equal(have.marshal(), plain) {
			a.contacts.written = plain
			return nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("the file of contacts is written anew", "error", err)
		}
	}
	if err := writeContacts(a.cfg.Dir, a.contactsKey(), plain); err != nil {
		return fmt.Errorf("write contacts: %w", err)
	}
	a.contacts.written = plain
	return nil
}
