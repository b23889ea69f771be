package replica

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
)

// A checkpoint of a protected document packs what is certified and the certificates, so that everything that a judgement follows from is still there
// when the chunks are deleted (decision 0077). What is pending, late, or contradicted stays in its own chunk.

// counts reports whether a change is applied and more than an overlay.
func (d *document) counts(h crdt.ChangeHash) bool {
	_, overlaid := d.overlay[h]
	return d.index.Has(h) && !overlaid
}

// countAll reports whether all changes of a chunk of a protected document are certified: a part of a chunk cannot be packed.
func (d *document) countAll(changes []chunk.Change) bool {
	return d.lock == "" || !slices.ContainsFunc(changes, func(ch chunk.Change) bool {
		h, ok := hashOf(ch.Raw)
		return !ok || !d.counts(h)
	})
}

// takeCertificates covers the certificates of the document that count and are in their place.
func (p *packing) takeCertificates() error {
	for _, c := range p.d.certificates {
		at := spot{c.place.Log, c.place.Counter}
		if c.packed() || p.certs[at] != nil || p.r.logs.Forked(p.scope, at.log) || !p.r.reached(p.scope, at.log, at.counter) ||
			!p.r.State().MayWrite(c.device, p.scope) {
			continue
		}
		sealed, err := logs.ReadChunk(p.v, p.scope, at.log, at.counter)
		if errors.Is(err, storage.ErrNotFound) || err == nil && sealed.ID() != c.place.ID {
			continue // loose still
		}
		if err != nil {
			return err
		}
		if held, err := isHeld(p.v, p.scope, sealed); err != nil {
			return err
		} else if held {
			continue // it does not count, and is shown where it stands
		}
		opened, err := chunk.Open(p.r.keys, sealed)
		if err != nil {
			return fmt.Errorf("open chunk: %w", err)
		}
		body, ok := opened.(*chunk.Certificate)
		if !ok {
			return fmt.Errorf("%w: a certificate's record names a chunk of another kind", storage.ErrDamaged)
		}
		p.certs[at], p.keys[at.log], p.runs[at] = body, sealed.LogKey(), linkOf(sealed)
	}
	return nil
}

// packed says that a certificate is in a checkpoint, whatever has become of its chunk.
func (c *certified) packed() bool { return c.place.ID == chunk.ID{} }

// takePacked notes the certificates in a checkpoint, each as if it had come alone. A verdict that is not nil says why the checkpoint is refused.
func (t *transaction) takePacked(d *document, body *chunk.Checkpoint) (*held, error) {
	var list []*certified
	for _, p := range body.Certificates {
		c, verdict := t.verified(d, p.Certificate)
		if verdict != nil {
			return verdict, nil
		}
		c.place.Scope = d.scope
		list = append(list, c)
	}
	for _, c := range list {
		value := c.marshal()
		key := storage.Certificate.Key(d.id, sha256.Sum256(value))
		if slices.ContainsFunc(d.certificates, func(o *certified) bool { return o.packed() && o.same(c) }) {
			continue
		}
		t.docs[d.id] = d
		d.certificates, d.judged = append(d.certificates, c), nil
		t.batch.Put(key, value)
	}
	return nil, nil
}

// same reports whether two certificates say the same, by the same voter.
func (c *certified) same(o *certified) bool {
	return c.voter == o.voter && slices.Equal(c.raw, o.raw) && slices.Equal(c.Plain, o.Plain)
}

// verified reads a certificate, and says why it is none if it is not.
func (t *transaction) verified(d *document, body *chunk.Certificate) (*certified, *held) {
	if d.lock == "" {
		return nil, quarantine("the document that it is about is not a protected one")
	}
	if t.r.quorum == nil {
		return nil, park("this device knows of no quorum yet", missing{Kind: missingQuorum})
	}
	signed := certificate.Signed{Statement: body.Statement, Voter: body.Voter, Signature: body.Signature}
	st, err := signed.Verify(t.r.quorum, t.subject(d), body.Heads)
	switch {
	case errors.Is(err, certificate.ErrNewer):
		return nil, newer()
	case errors.Is(err, certificate.ErrOther):
		return nil, quarantine("what was signed is not what it says")
	case errors.Is(err, certificate.ErrBadSignature):
		return nil, quarantine("its voter did not sign it")
	case err != nil:
		return nil, quarantine("what was signed is malformed")
	}
	return &certified{raw: slices.Clone(body.Statement), voter: body.Voter, Certified: certificate.Certified{Statement: st, Plain: body.Heads}}, nil
}

// dropCertificates forgets the chunks of certificates that are deleted for a checkpoint which packs them. They are known by that.
func (t *transaction) dropCertificates(v storage.Reader, d *document, covers chunk.Covers) error {
	var kept []*certified
	for _, c := range d.certificates {
		gone := !c.packed() && covers.Holds(c.place.Log, c.place.Counter)
		if gone {
			sealed, err := logs.ReadChunk(v, d.scope, c.place.Log, c.place.Counter)
			if err := storage.IgnoreNotFound(err); err != nil {
				return err
			}
			gone = err == nil && sealed.ID() == c.place.ID
		}
		if !gone {
			kept = append(kept, c)
			continue
		}
		t.docs[d.id] = d
		t.batch.Delete(storage.Certificate.Key(d.id, c.place.ID))
		if err := t.release(c.place); err != nil {
			return err
		}
	}
	if len(kept) < len(d.certificates) {
		d.certificates, d.judged = kept, nil
	}
	return nil
}
