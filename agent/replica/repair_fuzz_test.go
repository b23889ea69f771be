package replica

import (
	"bytes"
	"testing"
	"time"
)

func FuzzRepair(f *testing.F) {
	full := Repair{Since: time.UnixMilli(5), Done: time.UnixMilli(9), Folder: "records.damaged", Reason: "why", Logs: []RepairLog{{Own: true, Target: 3}}}
	f.Add(full.marshal())
	f.Add(marshalCounter(7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseRepair(b); err == nil {
			again, err := parseRepair(p.marshal())
			if err != nil || !bytes.Equal(again.marshal(), p.marshal()) {
				t.Errorf("%x came back as %x, %v", b, again.marshal(), err)
			}
		}
		if n, err := parseCounter(b); err == nil && !bytes.Equal(marshalCounter(n), b) {
			t.Errorf("%x came back as %x", b, marshalCounter(n))
		}
	})
}
