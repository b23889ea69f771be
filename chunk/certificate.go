package chunk

import (
	"bytes"
	"fmt"
	"slices"

	"chartmesh/trust"
	"chartmesh/wire"
)

// certificateVersion is the version of a CERTIFICATE's content.
const certificateVersion = 1

// Certificate is the body of a CERTIFICATE chunk: a voter's word on which heads of a protected document are certified, and the heads, which
// the voter knows as a hash alone. What the statement says is for package certificate to read; the voter need not be the chunk's author.
type Certificate struct {
	Document  [32]byte
	Statement []byte
	Voter     trust.DeviceID
	Signature [64]byte
	Heads     [][32]byte // ascending
}

// Kind returns KindCertificate.
func (*Certificate) Kind() Kind { return KindCertificate }

// DocumentID returns the document.
func (c *Certificate) DocumentID() [32]byte { return c.Document }

func (c *Certificate) append(w *wire.Writer) {
	w.Raw(c.Document[:])
	w.Uvarint(certificateVersion)
	w.Blob(c.Statement)
	w.Raw(c.Voter[:])
	w.Raw(c.Signature[:])
	w.Uvarint(uint64(len(c.Heads)))
	for _, h := range c.Heads {
		w.Raw(h[:])
	}
}

func parseCertificate(b []byte) (*Certificate, error) {
	c := &Certificate{}
	r := wire.NewReader(b)
	r.Fixed(c.Document[:])
	if v := r.Uvarint(1<<32 - 1); r.Err() == nil && v == 0 {
		r.Fail("certificate: version")
	} else if r.Err() == nil && v > certificateVersion {
		return nil, fmt.Errorf("certificate version %d: %w", v, ErrNewer)
	}
	c.Statement = bytes.Clone(r.Blob(MaxStatement))
	r.Fixed(c.Voter[:])
	r.Fixed(c.Signature[:])
	c.Heads = make([][32]byte, r.Uvarint(MaxHeads))
	for i := range c.Heads {
		r.Fixed(c.Heads[i][:])
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return c, c.check()
}

// Bounds of the body of a CERTIFICATE.
const (
	minCertificate = 32 + 1 + 1 + 1 + 32 + 64 + 1
	maxCertificate = minCertificate + 6 + MaxStatement + MaxHeads*32
)

// Equal reports whether both say the same.
func (c *Certificate) Equal(d *Certificate) bool {
	return c.Document == d.Document && bytes.Equal(c.Statement, d.Statement) && c.Voter == d.Voter && c.Signature == d.Signature &&
		slices.Equal(c.Heads, d.Heads)
}

// check holds for what is sealed and for what is opened alike.
func (c *Certificate) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: certificate: %s", wire.ErrMalformed, what) }
	switch {
	case c.Document == [32]byte{}:
		return fail("document")
	case len(c.Statement) == 0 || len(c.Statement) > MaxStatement:
		return fail("statement")
	case len(c.Heads) > MaxHeads:
		return fail("number of heads")
	}
	for i := 1; i < len(c.Heads); i++ {
		if bytes.Compare(c.Heads[i-1][:], c.Heads[i][:]) >= 0 {
			return fail("heads out of order")
		}
	}
	return nil
}
