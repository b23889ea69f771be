package chunk

import "chartmesh/wire"

// Reencode writes a chunk from its parsed header.
func Reencode(s Sealed) []byte {
	var w wire.Writer
	s.header.append(&w)
	if s.header.Algorithm == Algorithm2 {
		w.Blob(s.clear)
	}
	w.Raw(s.raw[s.body:])
	return w.Bytes()
}

// Plain writes a body as it is sealed.
func Plain(b Body) []byte {
	var w wire.Writer
	b.append(&w)
	return w.Bytes()
}
