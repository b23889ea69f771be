package trust

import "chartmesh/wire"

// Reencode writes an entry from its parsed fields.
func (e Entry) Reencode() []byte {
	var w wire.Writer
	w.Raw(entryMagic)
	w.Byte(byte(e.p.kind))
	w.Raw(e.p.author[:])
	w.Uvarint(uint64(len(e.p.parents)))
	for _, p := range e.p.parents {
		w.Raw(p[:])
	}
	w.Varint(e.p.time)
	switch {
	case e.p.founding != nil:
		w.Blob(e.p.founding.Encode())
	case e.p.addition != nil:
		w.Blob(e.p.addition.Encode())
	default:
		w.Blob(e.p.payload)
	}
	w.Uvarint(uint64(len(e.p.sigs)))
	for _, s := range e.p.sigs {
		w.Raw(s.signer[:])
		w.Raw(s.sig)
	}
	return w.Bytes()
}

// Payload returns the payload as it stands in the entry.
func (e Entry) Payload() []byte { return e.p.payload }

// ReencodeFounding reads the payload of a founding entry and writes it again.
func ReencodeFounding(b []byte) ([]byte, error) {
	p, err := parseFounding(b)
	if err != nil {
		return nil, err
	}
	return p.Encode(), nil
}

// ReencodeAddition reads the payload of an add entry and writes it again.
func ReencodeAddition(b []byte) ([]byte, error) {
	p, err := parseAddition(b)
	if err != nil {
		return nil, err
	}
	return p.Encode(), nil
}
