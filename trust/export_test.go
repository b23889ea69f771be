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
	if e.p.states != nil {
		w.Blob(e.p.states.Encode())
	} else {
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

// ReencodePayload reads the payload of an entry of some kind and writes it again; nil for an unknown kind.
func ReencodePayload(kind Kind, b []byte) ([]byte, error) {
	p, err := parseStatement(kind, b)
	if err != nil || p == nil {
		return nil, err
	}
	return p.Encode(), nil
}
