package keyring

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Names and notes of a quorum, whose voters may be anchors, are made under the index key of a scope: every member who reads it has that key, no
// anchor has, and it never changes, so that a name stays what it is (decision 0065).

// QuorumName derives what a quorum knows a thing by, from its kind and what names it. It is trust.ErrNoKey before Learn.
func (o *opened) QuorumName(scope trust.ScopeID, kind string, parts ...string) ([32]byte, error) {
	key, err := o.indexKey(scope)
	if err != nil {
		return [32]byte{}, err
	}
	var w wire.Writer
	w.String("chartmesh quorum name 1")
	w.String(kind)
	w.Uvarint(uint64(len(parts)))
	for _, p := range parts {
		w.String(p)
	}
	return keyedHash(key, w.Bytes()), nil
}

// notePad is the step to which notes are padded.
const notePad = 64

// SealNote seals a note for every member who reads a scope. It opens with the same context alone.
func (k *Keyring) SealNote(scope trust.ScopeID, context, plain []byte) ([]byte, error) {
	index, err := k.indexKey(scope)
	if err != nil {
		return nil, fmt.Errorf("seal note: %w", err)
	}
	cipher, err := chacha20poly1305.NewX(derive(index[:], "chartmesh quorum note 1", chacha20poly1305.KeySize))
	if err != nil {
		return nil, fmt.Errorf("seal note: %w", err)
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	if err := k.fill(nonce); err != nil {
		return nil, fmt.Errorf("seal note: %w", err)
	}
	padded := append(bytes.Clone(plain), 1)
	padded = append(padded, make([]byte, (notePad-len(padded)%notePad)%notePad)...)
	return cipher.Seal(nonce, nonce, padded, context), nil
}

// OpenNote opens what SealNote made: trust.ErrNoKey, or trust.ErrSealBroken when anything of it was altered.
func (o *opened) OpenNote(scope trust.ScopeID, context, sealed []byte) ([]byte, error) {
	index, err := o.indexKey(scope)
	if err != nil {
		return nil, fmt.Errorf("open note: %w", err)
	}
	cipher, err := chacha20poly1305.NewX(derive(index[:], "chartmesh quorum note 1", chacha20poly1305.KeySize))
	if err != nil {
		return nil, fmt.Errorf("open note: %w", err)
	}
	broken := errors.Join(errors.New("open note"), trust.ErrSealBroken)
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, broken
	}
	padded, err := cipher.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], context)
	if err != nil {
		return nil, broken
	}
	plain := bytes.TrimRight(padded, "\x00")
	if len(plain) == 0 || plain[len(plain)-1] != 1 || len(padded)%notePad != 0 || len(padded)-len(plain) >= notePad {
		return nil, broken
	}
	return plain[:len(plain)-1], nil
}
