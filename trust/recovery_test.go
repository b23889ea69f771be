package trust_test

import (
	"errors"
	"testing"

	"chartmesh/trust"
	"chartmesh/wire"
)

// TestRecoveryNeedsItsKey: nobody puts a root key in force that does not sign for it; else a log could be made in which somebody
// else's is.
func TestRecoveryNeedsItsKey(t *testing.T) {
	root, next, admin, other := people["root"], people["root2"], people["ada"], people["ben"]
	m := trust.Recovery{Replaced: root.Device(), Root: next.Device(), Key: fill("root2", trust.HPKEPublicSize)}
	for name, c := range map[string]struct {
		signers []trust.Signer
		ok      bool
	}{
		"author alone":        {[]trust.Signer{admin}, false},
		"the replaced key":    {[]trust.Signer{admin, root}, false},
		"somebody else":       {[]trust.Signer{admin, other}, false},
		"and somebody else":   {[]trust.Signer{admin, next, other}, false},
		"the new key":         {[]trust.Signer{admin, next}, true},
		"both":                {[]trust.Signer{admin, next, root}, true},
		"by the replaced key": {[]trust.Signer{root, next}, true},
	} {
		d := trust.Draft{Kind: trust.KindRecovery, Parents: []trust.EntryID{{1}}, Payload: m.Encode()}
		_, err := d.Sign(c.signers[0], c.signers[1:]...)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
