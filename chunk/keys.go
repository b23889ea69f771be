package chunk

import (
	"bytes"
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

// keysVersion is the version of a KEYS chunk's content.
const keysVersion = 1

// Keys is the body of a KEYS chunk: keys of epochs of its scope that nothing opens which is read now, each sealed under the epoch of the
// chunk as in a rotation. So who holds such a key and begins no epochs gives it to the others, and what was written under it is read.
// What the keys are is for package keyring to check against the membership log.
type Keys struct {
	Epochs []trust.PreviousEpoch // ascending by epoch
}

// Kind returns KindKeys.
func (*Keys) Kind() Kind { return KindKeys }

// DocumentID returns zeros: the whole scope.
func (*Keys) DocumentID() [32]byte { return [32]byte{} }

func (k *Keys) append(w *wire.Writer) {
	document := k.DocumentID()
	w.Raw(document[:])
	w.Uvarint(keysVersion)
	w.Uvarint(uint64(len(k.Epochs)))
	for _, e := range k.Epochs {
		w.Raw(e.Epoch[:])
		w.Raw(e.Sealed)
	}
}

func parseKeys(b []byte) (*Keys, error) {
	k := &Keys{}
	r := wire.NewReader(b)
	if err := readScoped(r, KindKeys, keysVersion); err != nil {
		return nil, err
	}
	k.Epochs = make([]trust.PreviousEpoch, r.Uvarint(MaxKeys))
	for i := range k.Epochs {
		r.Fixed(k.Epochs[i].Epoch[:])
		k.Epochs[i].Sealed = r.Raw(trust.PreviousEpochSize)
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return k, k.check()
}

// check holds for what is sealed and for what is opened alike.
func (k *Keys) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: keys: %s", wire.ErrMalformed, what) }
	if len(k.Epochs) == 0 || len(k.Epochs) > MaxKeys {
		return fail("number of epochs")
	}
	for i, e := range k.Epochs {
		if len(e.Sealed) != trust.PreviousEpochSize {
			return fail("sealed key")
		}
		if i > 0 && bytes.Compare(k.Epochs[i-1].Epoch[:], e.Epoch[:]) >= 0 {
			return fail("epochs out of order")
		}
	}
	return nil
}
