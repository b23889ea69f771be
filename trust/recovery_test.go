package trust_test

import (
	"errors"
	"testing"

	"chartmesh/trust"
	"chartmesh/wire"
)

// TestRecoveryNeedsItsKey: nobody but a root key's owner makes an entry that proves that it is in force; what builds before wrote
// without that is still read.
func TestRecoveryNeedsItsKey(t *testing.T) {
	root, next, admin, other := people["root"], people["root2"], people["ada"], people["ben"]
	m := trust.Recovery{Replaced: root.Device(), Root: next.Device(), Key: fill("root2", trust.HPKEPublicSize)}
	for name, c := range map[string]struct {
		signers    []trust.Signer
		ok, proves bool
	}{
		"author alone":        {[]trust.Signer{admin}, true, false},
		"the replaced key":    {[]trust.Signer{admin, root}, true, false},
		"somebody else":       {[]trust.Signer{admin, other}, false, false},
		"and somebody else":   {[]trust.Signer{admin, next, other}, false, false},
		"the new key":         {[]trust.Signer{admin, next}, true, true},
		"both":                {[]trust.Signer{admin, next, root}, true, true},
		"by the replaced key": {[]trust.Signer{root, next}, true, true},
	} {
		d := trust.Draft{Kind: trust.KindRecovery, Parents: []trust.EntryID{{1}}, Payload: m.Encode()}
		e, err := d.Sign(c.signers[0], c.signers[1:]...)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (e.Proves(next.Device()) != c.proves || e.Proves(root.Device()) || e.Proves(admin.Device())) {
			t.Errorf("%s: what it proves is wrong", name)
		}
	}
}
