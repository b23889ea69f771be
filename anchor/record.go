package anchor

import (
	"time"

	"chartmesh/trust"
	"chartmesh/wire"
)

// record is what is kept of a practice beside its logs:
//
//	2 | number | admitted, milliseconds since 1970 | device 32 | bytes | chunks | connections | rate
//
// The last four are its quota: 0 for the anchor's default, or one more than the limit. Version 1 has none.
type record struct {
	Number   uint64 // of its part of the store; never given to another
	By       trust.DeviceID
	Admitted time.Time
	Quota    ownQuota
}

const recordVersion = 2

func (r record) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(r.Number)
	w.Varint(r.Admitted.UnixMilli())
	w.Raw(r.By[:])
	for _, l := range r.Quota {
		w.Uvarint(uint64(l))
	}
	return w.Bytes()
}

func parseRecord(b []byte) (rec record, err error) {
	r := wire.NewReader(b)
	version := r.Byte()
	if version == 0 || version > recordVersion {
		r.Fail("version")
	}
	rec.Number = r.Uvarint(1 << 62)
	rec.Admitted = time.UnixMilli(r.Varint()).UTC()
	r.Fixed(rec.By[:])
	if version >= 2 {
		for i := range rec.Quota {
			rec.Quota[i] = ownLimit(r.Uvarint(maxLimit + 1))
		}
	}
	return rec, r.Close()
}
