package fuzzing

import (
	"errors"
	"fmt"
	"testing"
)

// said is a test that only notes that it failed.
type said struct {
	testing.TB
	failed bool
}

func (*said) Helper()                 {}
func (s *said) Errorf(string, ...any) { s.failed = true }

var sink []byte

// TestAllocates: what the helper measures is what was allocated, and it does fail.
func TestAllocates(t *testing.T) {
	for _, test := range []struct {
		size, input, perByte, fixed int
		fails                       bool
	}{
		{1 << 20, 1 << 10, 10, 2 << 20, false},
		{1 << 20, 1 << 20, 2, 0, false},
		{1 << 20, 1 << 10, 10, 1 << 18, true},
		{64 << 20, 10, 1 << 10, 1 << 20, true},
	} {
		s := &said{TB: t}
		Allocates(s, test.input, test.perByte, test.fixed, func() { sink = make([]byte, test.size) })
		if s.failed != test.fails {
			t.Errorf("%+v: failed is %v", test, s.failed)
		}
	}
}

func TestQuiet(t *testing.T) {
	for _, test := range []struct {
		err   error
		fails bool
	}{
		{nil, false},
		{errors.New("parse: malformed: cut short"), false},
		{fmt.Errorf("parse %q: malformed", "given="+Canary), true},
		{errors.New("parse: unexpected 'ANTHIPP'"), true},
	} {
		s := &said{TB: t}
		Quiet(s, test.err)
		if s.failed != test.fails {
			t.Errorf("%v: failed is %v", test.err, s.failed)
		}
	}
}
