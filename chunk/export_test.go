package chunk

import "chartmesh/wire"

// Reencode writes a chunk from its parsed header.
func Reencode(s Sealed) []byte {
	var w wire.Writer
	s.header.append(&w)
	w.Raw(s.raw[s.body:])
	return w.Bytes()
}
