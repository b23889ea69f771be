package replica_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// liar seals with a member's keys what the header and the body should not say.
type liar struct {
	*keyring.Keyring
	nonce  *[16]byte // another log than its own
	tag    *[16]byte // another document's
	packed []byte    // another packed body, not longer than the one that it takes the place of
}

func (l liar) LogNonce() [16]byte {
	if l.nonce != nil {
		return *l.nonce
	}
	return l.Keyring.LogNonce()
}

func (l liar) Tag(scope trust.ScopeID, document [32]byte) ([16]byte, error) {
	if l.tag != nil {
		return *l.tag, nil
	}
	return l.Keyring.Tag(scope, document)
}

func (l liar) SealBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, plain, aad []byte) ([]byte, error) {
	if l.packed != nil {
		plain = append(bytes.Clone(l.packed), make([]byte, len(plain)-len(l.packed))...)
	}
	return l.Keyring.SealBody(scope, epoch, secret, info, plain, aad)
}

// lie makes the next chunk of the forger's log, bent by how.
func (f *forger) lie(l liar, how func(*chunk.Params), body chunk.Body) []byte {
	f.t.Helper()
	l.Keyring = f.keys
	p := chunk.Params{
		Membership: f.State(), Scope: f.scope, Log: chunk.CurrentLog(l), Counter: f.counter + 1, Previous: f.last,
	}
	if how != nil {
		how(&p)
	}
	s, err := chunk.Seal(l, p, body)
	must(f.t, err)
	if s.Log() == chunk.CurrentLog(f.keys) && s.Header().Counter == f.counter+1 && s.Header().Previous == f.last {
		f.counter, f.last = f.counter+1, s.ID()
	}
	return s.Bytes()
}

// resign changes a chunk's clear part, makes the signature fit, and takes it for the forger's last.
func (f *forger) resign(sealed []byte, change func(head []byte) []byte) []byte {
	f.t.Helper()
	raw := change(bytes.Clone(sealed[:len(sealed)-64]))
	digest := sha256.Sum256(raw)
	raw = append(raw, f.keys.Sign(trust.ContextChunk, digest[:])...)
	s, err := chunk.Parse(raw)
	must(f.t, err)
	f.last = s.ID()
	return raw
}

// schemaAt is where the schema number stands in a chunk without a document secret.
func (f *forger) schemaAt() int {
	return 7 + 16 + 16 + 32 + 16 + len(binary.AppendUvarint(nil, f.counter)) + 32 + 32 + 32
}

// sealRaw seals bytes as the change of a document, whatever they are.
func (f *forger) sealRaw(doc crdt.DocumentID, raws ...[]byte) []byte {
	return f.seal(f.changesOf(doc, raws...))
}

// changesOf makes a body around changes, with the words of authorship that fit.
func (f *forger) changesOf(doc crdt.DocumentID, raws ...[]byte) *chunk.Changes {
	body := &chunk.Changes{Document: doc, Schema: fhir.Schema, TimeMillis: 1, Author: "forger", Origin: chunk.OriginEdit,
		Authorship: []chunk.Authorship{{Seq: 1}}}
	for _, raw := range raws {
		body.Changes = append(body.Changes, chunk.Change{Raw: raw})
		if c, err := crdt.Decode(raw); err == nil {
			body.Authorship[0].Seq, body.Authorship[0].Newest = c.Seq, c.Hash
		}
	}
	return body
}

// envelope makes an Automerge chunk of a type around its contents, with a checksum that fits.
func envelope(kind byte, contents []byte) []byte {
	b := append([]byte{0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind}, binary.AppendUvarint(nil, uint64(len(contents)))...)
	return mend(append(b, contents...))
}

// mend makes the checksum of a bent change fit again.
func mend(raw []byte) []byte {
	if len(raw) > 8 {
		sum := sha256.Sum256(raw[8:])
		copy(raw[4:8], sum[:4])
	}
	return raw
}

// operationBomb claims n operations in some 60 bytes: runs of one row, repeated.
func operationBomb(actor crdt.Actor, n int64) []byte {
	run := func(value ...byte) []byte { return append(signed(n), value...) }
	columns := []struct {
		number byte
		data   []byte
	}{{0x15, run(1, 'k')}, {0x34, binary.AppendUvarint(nil, uint64(n))}, {0x42, run(1)}, {0x56, run(0)}, {0x70, run(0)}}
	b := append([]byte{0, 16}, actor[:]...)
	b = append(b, 1, 1, 0, 0, 0, byte(len(columns)))
	for _, c := range columns {
		b = append(b, c.number, byte(len(c.data)))
	}
	for _, c := range columns {
		b = append(b, c.data...)
	}
	return envelope(1, b)
}

func signed(v int64) (b []byte) {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// zstdBomb is a frame of n bytes that says nothing of its size: blocks of one byte, repeated.
func zstdBomb(n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x68} // no size, a window of 8 MiB
	const block = 128 << 10
	for ; n > 0; n -= block {
		head := uint32(1<<1 | min(n, block)<<3)
		if n <= block {
			head |= 1
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return b
}

// packedBomb is a packed body that says it inflates to the cap, and whose frame inflates to n bytes.
func packedBomb(n int) []byte {
	frame := zstdBomb(n)
	b := append([]byte{1}, binary.AppendUvarint(nil, chunk.MaxBody)...)
	b = append(b, binary.AppendUvarint(nil, uint64(len(frame)))...)
	return append(b, frame...)
}

// crowdChange makes Patient/crowd, and then n values of one field beside each other.
func crowdChange(actor crdt.Actor, n int) []byte {
	total := int64(n)
	cols := []struct {
		number byte
		data   []byte
	}{
		{0x01, append([]byte{0, 1}, append(signed(total), 0)...)},                                                          // object actor: null, then 0
		{0x02, append([]byte{0, 1}, append(signed(total), 1)...)},                                                          // object counter: null, then 1
		{0x15, slices.Concat(signed(-1), []byte{13}, []byte("Patient/crowd"), signed(total), []byte{6}, []byte("gender"))}, // key
		{0x34, binary.AppendUvarint(nil, uint64(total+1))},                                                                 // insert: false
		{0x42, slices.Concat(signed(-1), []byte{0}, signed(total), []byte{1})},                                             // make map, then put
		{0x56, slices.Concat(signed(-1), []byte{0}, signed(total), binary.AppendUvarint(nil, 4<<4|6))},                     // null, then strings of 4
		{0x57, nil},
		{0x70, append(signed(total+1), 0)}, // no predecessors
	}
	for i := range n {
		cols[6].data = fmt.Appendf(cols[6].data, "%04d", i)
	}
	b := append([]byte{0, 16}, actor[:]...)
	b = append(b, 1, 1, 0, 0, 0, byte(len(cols)))
	for _, c := range cols {
		b = append(b, c.number)
		b = binary.AppendUvarint(b, uint64(len(c.data)))
	}
	for _, c := range cols {
		b = append(b, c.data...)
	}
	return envelope(1, b)
}
