package crdt

import "testing"

// Every column has one form.
func TestColumnForms(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kind   columnKind
		data   string
		rows   int
		reason string
	}{
		{"absent", uintColumn, "", 3, ""},
		{"literal", uintColumn, "\x7e\x01\x02", 2, ""},
		{"repetition", uintColumn, "\x02\x05", 2, ""},
		{"repetition, then others", uintColumn, "\x02\x05\x7e\x06\x05", 4, ""},
		{"value, nulls, the same value", uintColumn, "\x7f\x05\x00\x02\x7f\x05", 4, ""},
		{"strings", stringColumn, "\x7e\x01a\x01b\x02\x01a", 4, ""},
		{"differences", deltaColumn, "\x02\x01\x7f\x7f", 3, ""},

		{"repetition of one", uintColumn, "\x01\x05", 1, ReasonEncoding},
		{"equal values in a literal", uintColumn, "\x7e\x05\x05", 2, ReasonEncoding},
		{"equal strings in a literal", stringColumn, "\x7e\x01a\x01a", 2, ReasonEncoding},
		{"equal differences in a literal", deltaColumn, "\x7e\x01\x01", 2, ReasonEncoding},
		{"two literals", uintColumn, "\x7f\x05\x7f\x06", 2, ReasonEncoding},
		{"two repetitions of one value", uintColumn, "\x02\x05\x02\x05", 4, ReasonEncoding},
		{"literal that begins as the repetition ended", uintColumn, "\x02\x05\x7e\x05\x06", 4, ReasonEncoding},
		{"repetition of what the literal ended with", uintColumn, "\x7e\x05\x06\x02\x06", 4, ReasonEncoding},
		{"no nulls", uintColumn, "\x7f\x05\x00\x00\x7f\x06", 2, ReasonEncoding},
		{"nulls in two runs", uintColumn, "\x00\x01\x00\x01\x7f\x05", 3, ReasonEncoding},
		{"nulls alone", uintColumn, "\x00\x02", 2, ReasonEncoding},
		{"number not minimal", uintColumn, "\x7f\x85\x00", 1, ReasonEncoding},
		{"run not minimal", uintColumn, "\xff\x7f\x05", 1, ReasonEncoding},
		{"number too large", uintColumn, "\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1, ReasonEncoding},
		{"cut short", uintColumn, "\x7f", 1, ReasonEncoding},
		{"too few rows", uintColumn, "\x7e\x01\x02", 3, ReasonRows},
		{"too many rows in a run", uintColumn, "\x03\x01", 2, ReasonRows},
		{"too many runs", uintColumn, "\x02\x01\x02\x02", 2, ReasonRows},
		{"sum below zero", deltaColumn, "\x7e\x01\x7e", 2, ReasonReference},
		{"sum over the cap", deltaColumn, "\x7f\x81\x80\x80\x80\x08", 1, ReasonReference},
	} {
		t.Run(tt.name, func(t *testing.T) {
			why := ""
			c := newColumn(tt.data, tt.kind, &why)
			for range tt.rows {
				c.next()
			}
			if c.close(); why != tt.reason {
				t.Errorf("got %q, want %q", why, tt.reason)
			}
		})
	}
	for data, reason := range map[string]string{
		"\x02": "", "\x00\x02": "", "\x01\x01": "",
		"": ReasonRows, "\x01": ReasonRows, "\x03": ReasonRows, "\x00\x00\x02": ReasonEncoding, "\x01\x00\x01": ReasonEncoding,
		"\x82\x00": ReasonEncoding,
	} {
		why := ""
		c := boolColumn{reader: reader{rest: data, why: &why}}
		for range 2 {
			c.next()
		}
		if c.close(); why != reason {
			t.Errorf("%x: got %q, want %q", data, why, reason)
		}
	}
}
