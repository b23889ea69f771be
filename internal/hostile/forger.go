// Package hostile makes what a member of a practice can send that no honest agent would: chunks sealed with its real keys.
// It serves tests alone.
//
// Nouns: a [Forger] writes a log; [List] is what every device must hold alike, or apply, and never fall over.
package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// Forger writes chunks with a member's keys that no honest agent would write.
type Forger struct {
	T          testing.TB
	Keys       *keyring.Keyring
	Membership func() *trust.State
	Scope      trust.ScopeID
	Counter    uint64 // of the last chunk of its log
	Last       chunk.ID
	Pending    [][]byte // of its log, before the chunk that is made
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Document names a document of its scope.
func (f *Forger) Document(parts ...string) crdt.DocumentID {
	f.T.Helper()
	id, err := f.Keys.DocumentID(f.Scope, parts...)
	must(f.T, err)
	return id
}

// Change makes a first change of a document.
func (f *Forger) Change(doc crdt.DocumentID, in ...crdt.Instruction) []byte {
	f.T.Helper()
	return f.Edits(doc, in)[0]
}

// Edits makes changes of a document, each on top of the one before.
func (f *Forger) Edits(doc crdt.DocumentID, edits ...[]crdt.Instruction) [][]byte {
	f.T.Helper()
	return f.EditsOn(doc, nil, edits...)
}

// EditsOn makes changes on top of others.
func (f *Forger) EditsOn(doc crdt.DocumentID, base [][]byte, edits ...[]crdt.Instruction) (raws [][]byte) {
	f.T.Helper()
	e := engine.NewLocal()
	defer func() { must(f.T, e.Close()) }()
	ctx := context.Background()
	_, err := e.Load(ctx, doc, nil, base)
	must(f.T, err)
	for _, in := range edits {
		raw, _, err := e.Edit(ctx, doc, crdt.Edit{
			Actor:        crdt.Actor(chunk.ActorOf(chunk.CurrentLog(f.Keys), doc, 0)),
			Instructions: in, TimeMillis: time.Now().UnixMilli(),
		})
		must(f.T, err)
		raws = append(raws, raw)
	}
	return raws
}

// OnTopOf makes a change on top of the one that a chunk of the forger's carries.
func (f *Forger) OnTopOf(doc crdt.DocumentID, sealed []byte) []byte {
	f.T.Helper()
	s, err := chunk.Parse(sealed)
	must(f.T, err)
	body, err := chunk.Open(f.Keys, s)
	must(f.T, err)
	return f.EditsOn(doc, [][]byte{body.(*chunk.Changes).Changes[0].Raw}, Resource("Basic/x"))[0]
}

// Seal makes the next chunk of the forger's log.
func (f *Forger) Seal(body chunk.Body) []byte {
	f.T.Helper()
	f.Counter++
	s, err := chunk.Seal(f.Keys, chunk.Params{
		Membership: f.Membership(), Scope: f.Scope, Log: chunk.CurrentLog(f.Keys), Counter: f.Counter, Previous: f.Last,
	}, body)
	must(f.T, err)
	f.Last = s.ID()
	return s.Bytes()
}

// SealChange seals one change of a document.
func (f *Forger) SealChange(doc crdt.DocumentID, raw []byte) []byte {
	f.T.Helper()
	c, err := crdt.Decode(raw)
	must(f.T, err)
	return f.Seal(&chunk.Changes{
		Document: doc, Schema: fhir.Schema, TimeMillis: 1, Author: "forger", Origin: chunk.OriginEdit,
		Changes:    []chunk.Change{{Raw: raw}},
		Authorship: []chunk.Authorship{{Seq: c.Seq, Newest: c.Hash}},
	})
}

// Liar seals with a member's keys what the header and the body should not say.
type Liar struct {
	*keyring.Keyring
	Nonce  *[16]byte // another log than its own
	Header *[16]byte // another document's
	Packed []byte    // another packed body, not longer than the one that it takes the place of
}

func (l Liar) LogNonce() [16]byte {
	if l.Nonce != nil {
		return *l.Nonce
	}
	return l.Keyring.LogNonce()
}

func (l Liar) Tag(scope trust.ScopeID, document [32]byte) ([16]byte, error) {
	if l.Header != nil {
		return *l.Header, nil
	}
	return l.Keyring.Tag(scope, document)
}

func (l Liar) SealBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, plain, aad []byte) ([]byte, error) {
	if l.Packed != nil {
		plain = append(bytes.Clone(l.Packed), make([]byte, len(plain)-len(l.Packed))...)
	}
	return l.Keyring.SealBody(scope, epoch, secret, info, plain, aad)
}

// Lie makes the next chunk of the forger's log, bent by how.
func (f *Forger) Lie(l Liar, how func(*chunk.Params), body chunk.Body) []byte {
	f.T.Helper()
	l.Keyring = f.Keys
	p := chunk.Params{
		Membership: f.Membership(), Scope: f.Scope, Log: chunk.CurrentLog(l), Counter: f.Counter + 1, Previous: f.Last,
	}
	if how != nil {
		how(&p)
	}
	s, err := chunk.Seal(l, p, body)
	must(f.T, err)
	if s.Log() == chunk.CurrentLog(f.Keys) && s.Header().Counter == f.Counter+1 && s.Header().Previous == f.Last {
		f.Counter, f.Last = f.Counter+1, s.ID()
	}
	return s.Bytes()
}

// Resign changes a chunk's clear part, makes the signature fit, and takes it for the forger's last.
func (f *Forger) Resign(sealed []byte, change func(head []byte) []byte) []byte {
	f.T.Helper()
	raw := change(bytes.Clone(sealed[:len(sealed)-64]))
	digest := sha256.Sum256(raw)
	raw = append(raw, f.Keys.Sign(trust.ContextChunk, digest[:])...)
	s, err := chunk.Parse(raw)
	must(f.T, err)
	f.Last = s.ID()
	return raw
}

// schemaAt is where the schema number stands in a chunk without a document secret.
func (f *Forger) schemaAt() int {
	return 7 + 16 + 16 + 32 + 16 + len(binary.AppendUvarint(nil, f.Counter)) + 32 + 32 + 32
}

// SealRaw seals bytes as the change of a document, whatever they are.
func (f *Forger) SealRaw(doc crdt.DocumentID, raws ...[]byte) []byte {
	return f.Seal(f.ChangesOf(doc, raws...))
}

// ChangesOf makes a body around changes, with the words of authorship that fit.
func (f *Forger) ChangesOf(doc crdt.DocumentID, raws ...[]byte) *chunk.Changes {
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

// As makes a first change of a document under another actor.
func (f *Forger) As(actor crdt.Actor, doc crdt.DocumentID, in ...crdt.Instruction) []byte {
	f.T.Helper()
	e := engine.NewLocal()
	defer func() { must(f.T, e.Close()) }()
	_, err := e.Load(f.T.Context(), doc, nil, nil)
	must(f.T, err)
	raw, _, err := e.Edit(f.T.Context(), doc, crdt.Edit{Actor: actor, Instructions: in})
	must(f.T, err)
	return raw
}
