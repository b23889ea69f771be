package keyring

import (
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/trust"
	"chartmesh/wire"
)

// namesPad is the step to which names are padded, so that their length tells little.
const namesPad = 64

// Names returns the names of a device or anchor and of its site, also of a removed one; empty when they cannot be read.
func (o *opened) Names(st *trust.State, device trust.DeviceID) (deviceName, site string) {
	return o.openNames(st, device, st.Names(device))
}

// PracticeName returns the practice's name; empty when it cannot be read.
func (o *opened) PracticeName(st *trust.State) string {
	name, _ := o.openNames(st, trust.DeviceID{}, st.PracticeName())
	return name
}

func (o *opened) openNames(st *trust.State, device trust.DeviceID, sealed []byte) (first, second string) {
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok || len(sealed) < chacha20poly1305.NonceSizeX {
		return "", ""
	}
	index, err := o.indexKey(scope)
	if err != nil {
		return "", ""
	}
	cipher, err := chacha20poly1305.NewX(derive(index[:], "chartmesh names 1", chacha20poly1305.KeySize))
	if err != nil {
		return "", ""
	}
	nonce, box := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plain, err := cipher.Open(nil, nonce, box, namesContext(st.Founding().Nonce, device))
	if err != nil {
		return "", ""
	}
	r := wire.NewReader(plain)
	first, second = r.String(trust.MaxName), r.String(trust.MaxName)
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail("padding")
		}
	}
	if r.Err() != nil {
		return "", ""
	}
	return first, second
}

// sealNames seals two names so that every member can read them: under a key derived from the clinical scope's index key,
// bound to practice and device. A zero device is the practice itself.
func sealNames(random func([]byte) error, index, practice [32]byte, device trust.DeviceID, first, second string) ([]byte, error) {
	if len(first) > trust.MaxName || len(second) > trust.MaxName {
		return nil, fmt.Errorf("seal names: a name is over %d bytes", trust.MaxName)
	}
	var w wire.Writer
	w.String(first)
	w.String(second)
	for len(w.Bytes())%namesPad != 0 {
		w.Byte(0)
	}
	cipher, err := chacha20poly1305.NewX(derive(index[:], "chartmesh names 1", chacha20poly1305.KeySize))
	if err != nil {
		return nil, fmt.Errorf("seal names: %w", err)
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	if err := random(nonce); err != nil {
		return nil, fmt.Errorf("seal names: %w", err)
	}
	return cipher.Seal(nonce, nonce, w.Bytes(), namesContext(practice, device)), nil
}

func namesContext(practice [32]byte, device trust.DeviceID) []byte {
	var w wire.Writer
	w.String("chartmesh names 1")
	w.Raw(practice[:])
	w.Raw(device[:])
	return w.Bytes()
}
