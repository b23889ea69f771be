package keyring

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/trust"
	"chartmesh/wire"
)

// opened holds the keys of epochs that have been opened, and everything that can be done with them. It is shared by
// Keyring and Recovery.
type opened struct {
	epochs struct {
		sync.RWMutex
		keys  map[trust.EpochID]epochKeys
		index map[trust.ScopeID][32]byte
		shut  map[trust.EpochID]bool // the own box of which holds no keys, or not those that the log commits to
	}
}

type epochKeys struct {
	scope trust.ScopeID
	body  [32]byte
}

func (o *opened) put(scope trust.ScopeID, epoch trust.EpochID, body, index [32]byte) {
	o.epochs.Lock()
	defer o.epochs.Unlock()
	if o.epochs.keys == nil {
		o.epochs.keys = map[trust.EpochID]epochKeys{}
		o.epochs.index = map[trust.ScopeID][32]byte{}
	}
	o.epochs.keys[epoch] = epochKeys{scope, body}
	o.epochs.index[scope] = index
	delete(o.epochs.shut, epoch)
}

// shut notes that the box of an epoch for the own key does not hold its keys. Whoever made it seals to nobody what he wants, or erred.
func (o *opened) shut(epoch trust.EpochID) {
	o.epochs.Lock()
	defer o.epochs.Unlock()
	if o.epochs.shut == nil {
		o.epochs.shut = map[trust.EpochID]bool{}
	}
	o.epochs.shut[epoch] = true
}

func (o *opened) isShut(epoch trust.EpochID) bool {
	o.epochs.RLock()
	defer o.epochs.RUnlock()
	return o.epochs.shut[epoch]
}

func (o *opened) has(epoch trust.EpochID) bool {
	o.epochs.RLock()
	defer o.epochs.RUnlock()
	_, ok := o.epochs.keys[epoch]
	return ok
}

// Opens reports whether an epoch's key is held.
func (o *opened) Opens(epoch trust.EpochID) bool { return o.has(epoch) }

func (o *opened) indexKey(scope trust.ScopeID) ([32]byte, error) {
	o.epochs.RLock()
	defer o.epochs.RUnlock()
	key, ok := o.epochs.index[scope]
	if !ok {
		return key, fmt.Errorf("index key of scope %v: %w", scope, trust.ErrNoKey)
	}
	return key, nil
}

func (o *opened) epochKey(scope trust.ScopeID, epoch trust.EpochID) ([32]byte, error) {
	o.epochs.RLock()
	defer o.epochs.RUnlock()
	key, ok := o.epochs.keys[epoch]
	if !ok || key.scope != scope {
		return [32]byte{}, fmt.Errorf("key of epoch %v in scope %v: %w", epoch, scope, trust.ErrNoKey)
	}
	return key.body, nil
}

// learn opens the boxes for a recipient (zero: the recovery key), and the epochs before those that it has.
func (o *opened) learn(private hpke.PrivateKey, st *trust.State, recipient trust.DeviceID) error {
	var errs []error
	shut := map[trust.EpochID]error{}
	public := private.PublicKey().Bytes()
	for _, b := range st.Boxes(recipient) {
		if o.has(b.Epoch) || !bytes.Equal(public, b.HPKE) {
			// Another key: the device was added twice, apart, or the recovery code was replaced.
			continue
		}
		keys, err := hpke.Open(private, kdf, aead, trust.BoxInfo(b.Scope, b.Commitment, public), b.Sealed)
		if err != nil || len(keys) != 64 {
			o.shut(b.Epoch)
			shut[b.Epoch] = fmt.Errorf("open key box of epoch %v: %w", b.Epoch, trust.ErrSealBroken)
			continue
		}
		if err := o.take(b.Scope, b.Epoch, [32]byte(keys[:32]), [32]byte(keys[32:]), b.Commitment); err != nil {
			o.shut(b.Epoch)
			shut[b.Epoch] = err
		}
	}
	for _, sc := range st.Scopes() {
		errs = append(errs, o.learnPrevious(sc))
		for _, e := range sc.Epochs {
			if !o.has(e.ID) { // else another that follows it opens it
				errs = append(errs, shut[e.ID])
			}
		}
	}
	return errors.Join(errs...)
}

// learnPrevious opens a scope's epochs by those that follow them. One that does not open so was not held by who began the other.
func (o *opened) learnPrevious(sc trust.Scope) error {
	index, err := o.indexKey(sc.ID)
	if err != nil {
		return nil // nothing of it is open
	}
	commitments := map[trust.EpochID][32]byte{}
	for _, e := range sc.Epochs {
		commitments[e.ID] = e.Commitment
	}
	var errs []error
	for _, e := range slices.Backward(sc.Epochs) { // each comes after those that it follows
		body, err := o.epochKey(sc.ID, e.ID)
		if err != nil {
			continue
		}
		for _, p := range e.Previous {
			if o.has(p.Epoch) {
				continue
			}
			previous, err := openPrevious(body, p.Epoch, p.Sealed)
			if err == nil {
				err = o.take(sc.ID, p.Epoch, previous, index, commitments[p.Epoch])
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// loose returns the epochs of a scope, newest first, that are open here and that none opens which is read now: who began those
// could not open them, or what began them does not stand. A newcomer and whoever lacks them cannot read what was written under them
// until an epoch is begun that opens them. None of them opens another.
func (o *opened) loose(sc trust.Scope) (loose []trust.Epoch) {
	index, err := o.indexKey(sc.ID)
	if err != nil {
		return nil
	}
	commitments := map[trust.EpochID][32]byte{}
	for _, e := range sc.Epochs {
		commitments[e.ID] = e.Commitment
	}
	reached := map[trust.EpochID]bool{}
	for _, id := range sc.Newest {
		reached[id] = true
	}
	for _, e := range slices.Backward(sc.Epochs) {
		body, err := o.epochKey(sc.ID, e.ID)
		if err != nil {
			continue
		}
		if !reached[e.ID] {
			loose = append(loose, e)
		}
		for _, p := range e.Previous {
			previous, err := openPrevious(body, p.Epoch, p.Sealed)
			if err == nil && trust.Commit(sc.ID, previous, index) == commitments[p.Epoch] {
				reached[p.Epoch] = true
			}
		}
	}
	return loose
}

// Loose returns the epochs of a scope that are open here and that nothing opens which is read now, newest first.
func (o *opened) Loose(st *trust.State, scope trust.ScopeID) (ids []trust.EpochID) {
	if sc, ok := st.Scope(scope); ok {
		for _, e := range o.loose(sc) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// SealUnder seals the key of one epoch of a scope under that of another, for who holds that one.
func (o *opened) SealUnder(scope trust.ScopeID, under, epoch trust.EpochID) (p trust.PreviousEpoch, err error) {
	next, err := o.epochKey(scope, under)
	if err != nil {
		return p, err
	}
	body, err := o.epochKey(scope, epoch)
	if err != nil {
		return p, err
	}
	return trust.PreviousEpoch{Epoch: epoch, Sealed: sealPrevious(next, epoch, body)}, nil
}

// TakeUnder opens a key of SealUnder, and with it the epochs before that one. It reports whether it is the one that the log commits to.
// It is trust.ErrNoKey while the other epoch's is not held.
func (o *opened) TakeUnder(st *trust.State, scope trust.ScopeID, under trust.EpochID, p trust.PreviousEpoch) (bool, error) {
	next, err := o.epochKey(scope, under)
	if err != nil {
		return false, err
	}
	index, err := o.indexKey(scope)
	if err != nil {
		return false, err
	}
	sc, _ := st.Scope(scope)
	at := slices.IndexFunc(sc.Epochs, func(e trust.Epoch) bool { return e.ID == p.Epoch })
	if at < 0 {
		return false, fmt.Errorf("epoch %v is not known: %w", p.Epoch, trust.ErrNoKey)
	}
	body, err := openPrevious(next, p.Epoch, p.Sealed)
	if err != nil || trust.Commit(scope, body, index) != sc.Epochs[at].Commitment {
		return false, nil
	}
	if !o.has(p.Epoch) {
		o.put(scope, p.Epoch, body, index)
		_ = o.learnPrevious(sc) // what was sealed wrongly under it was so by who began it
	}
	return true, nil
}

// Count returns how many epochs are open.
func (o *opened) Count() int {
	o.epochs.RLock()
	defer o.epochs.RUnlock()
	return len(o.epochs.keys)
}

// take keeps an epoch's keys if they are those that the log commits to.
func (o *opened) take(scope trust.ScopeID, epoch trust.EpochID, body, index, commitment [32]byte) error {
	if trust.Commit(scope, body, index) != commitment {
		return fmt.Errorf("open epoch %v: not the keys that the log commits to: %w", epoch, trust.ErrSealBroken)
	}
	o.put(scope, epoch, body, index)
	return nil
}

// sealPrevious seals an epoch's key under that of the epoch that follows it. Key and nonce seal one key alone: an
// epoch's key is new, and whoever seals an earlier one under it again writes the same.
func sealPrevious(next [32]byte, epoch trust.EpochID, body [32]byte) []byte {
	cipher, nonce := previousCipher(next, epoch)
	return cipher.Seal(nil, nonce, body[:], nil)
}

func openPrevious(next [32]byte, epoch trust.EpochID, sealed []byte) (body [32]byte, err error) {
	cipher, nonce := previousCipher(next, epoch)
	plain, err := cipher.Open(nil, nonce, sealed, nil)
	if err != nil || len(plain) != len(body) {
		return body, fmt.Errorf("open epoch %v by the one that follows it: %w", epoch, trust.ErrSealBroken)
	}
	return [32]byte(plain), nil
}

func previousCipher(next [32]byte, epoch trust.EpochID) (aead cipher.AEAD, nonce []byte) {
	once := derive(next[:], "chartmesh previous epoch 1\x00"+string(epoch[:]), chacha20poly1305.KeySize+chacha20poly1305.NonceSizeX)
	aead, err := chacha20poly1305.NewX(once[:chacha20poly1305.KeySize])
	if err != nil {
		panic("keyring: a key of fixed size was refused")
	}
	return aead, once[chacha20poly1305.KeySize:]
}

// sealBox seals an epoch's keys to a recipient's public key.
func sealBox(scope trust.ScopeID, body, index [32]byte, recipient []byte) ([]byte, error) {
	public, err := kem.NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("seal key box: recipient's HPKE key: %w", err)
	}
	info := trust.BoxInfo(scope, trust.Commit(scope, body, index), recipient)
	box, err := hpke.Seal(public, kdf, aead, info, append(body[:], index[:]...))
	if err != nil {
		return nil, fmt.Errorf("seal key box: %w", err)
	}
	return box, nil
}

// DocumentID derives the ID of a document from what names it, under the scope's index key: all devices find the same,
// and nobody without the key can link it to a patient. It begins as the scope's ID does, so that no chunk of another scope
// can claim the document. It is trust.ErrNoKey before Learn.
func (o *opened) DocumentID(scope trust.ScopeID, parts ...string) ([32]byte, error) {
	key, err := o.indexKey(scope)
	if err != nil {
		return [32]byte{}, err
	}
	var w wire.Writer
	w.String("chartmesh document 1")
	w.Uvarint(uint64(len(parts)))
	for _, p := range parts {
		w.String(p)
	}
	id := keyedHash(key, w.Bytes())
	copy(id[:trust.DocumentPrefix], scope[:])
	return id, nil
}

// Tag derives the tag by which chunks of a document are known to those who cannot open them.
func (o *opened) Tag(scope trust.ScopeID, document [32]byte) ([16]byte, error) {
	key, err := o.indexKey(scope)
	if err != nil {
		return [16]byte{}, err
	}
	var w wire.Writer
	w.String("chartmesh tag 1")
	w.Raw(document[:])
	h := keyedHash(key, w.Bytes())
	return [16]byte(h[:16]), nil
}

// AnnouncementTag proves to the members of a scope, and to nobody else, that a message comes from one who has its key.
// Whoever has been removed keeps the key.
func (o *opened) AnnouncementTag(scope trust.ScopeID, message []byte) ([16]byte, error) {
	key, err := o.indexKey(scope)
	if err != nil {
		return [16]byte{}, err
	}
	var w wire.Writer
	w.String("chartmesh announcement 1")
	w.Raw(message)
	h := keyedHash(key, w.Bytes())
	return [16]byte(h[:16]), nil
}

func keyedHash(key [32]byte, msg []byte) [32]byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(msg)
	return [32]byte(h.Sum(nil))
}

// SealBody encrypts a chunk's body. The key and nonce are used once: the caller makes info so that it never comes twice
// (log, counter and salt are in it). It is trust.ErrNoKey when the epoch or the document secret is not held.
func (o *opened) SealBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, plain, aad []byte) (
	[]byte, error) {
	once, err := o.bodyKey(scope, epoch, secret, info)
	if err != nil {
		return nil, fmt.Errorf("seal body: %w", err)
	}
	cipher, err := chacha20poly1305.NewX(once[:chacha20poly1305.KeySize])
	if err != nil {
		return nil, fmt.Errorf("seal body: %w", err)
	}
	out := make([]byte, 0, len(plain)+cipher.Overhead())
	return cipher.Seal(out, once[chacha20poly1305.KeySize:], plain, aad), nil
}

// OpenBody decrypts what SealBody made: trust.ErrNoKey, or trust.ErrSealBroken when anything of it was altered.
func (o *opened) OpenBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, sealed, aad []byte) (
	[]byte, error) {
	once, err := o.bodyKey(scope, epoch, secret, info)
	if err != nil {
		return nil, fmt.Errorf("open body: %w", err)
	}
	cipher, err := chacha20poly1305.NewX(once[:chacha20poly1305.KeySize])
	if err != nil {
		return nil, fmt.Errorf("open body: %w", err)
	}
	plain, err := cipher.Open(nil, once[chacha20poly1305.KeySize:], sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("open body: %w", trust.ErrSealBroken)
	}
	return plain, nil
}

// bodyKey returns key and nonce for one body.
func (o *opened) bodyKey(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info []byte) ([]byte, error) {
	key, err := o.epochKey(scope, epoch)
	if err != nil {
		return nil, err
	}
	if secret != ([16]byte{}) {
		return nil, fmt.Errorf("document secret %x: %w", secret[:4], trust.ErrNoKey)
	}
	return derive(key[:], "chartmesh body 1\x00"+string(info), chacha20poly1305.KeySize+chacha20poly1305.NonceSizeX), nil
}
