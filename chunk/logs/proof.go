package logs

import (
	"cmp"
	"errors"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// Proof is what a skip rests on: a checkpoint and a word, or an order to erase and an assent, of which MayErase tells whether they count.
type Proof struct {
	Checkpoint chunk.Sealed
	Word       chunk.Sealed // none if the device whose log it is made the checkpoint
}

// Covers returns the run for which the checkpoint stands in the skip's place; ErrNotCovered if it does not.
func (p Proof) Covers(skip chunk.Skip) (chunk.Covered, error) {
	covers, err := p.Checkpoint.Covers()
	run, ok := covers.Find(skip.Log, skip.To)
	if err != nil || !ok || run.From > skip.From || run.To != skip.To || run.Last != skip.Last || p.Checkpoint.Header().Scope != skip.Scope {
		return chunk.Covered{}, ErrNotCovered
	}
	return run, nil
}

// Assents finds the assent that makes an order count, if there is one.
type Assents func(order chunk.Sealed) (assent chunk.Sealed, found bool, err error)

// ReadProof returns the checkpoint of a skip, or what stands for it by now, with the word of the device whose log it is:
// out of what has just come, or as stored. ErrNoWord if the word is another one; storage.ErrNotFound if not all is here.
// Assents are asked where another order stands for the one that the skip names, which it cannot where that is in came: nil will do then.
func ReadProof(v storage.Reader, skip chunk.Skip, came map[chunk.ID]chunk.Sealed, assents Assents) (p Proof, err error) {
	var ok bool
	if p.Checkpoint, ok = came[skip.Checkpoint.ID]; !ok || p.Checkpoint.Place() != skip.Checkpoint {
		if p.Checkpoint, err = readCheckpoint(v, skip.Scope, skip.Checkpoint); err != nil {
			return p, err
		}
	}
	on := p.Checkpoint.Place()
	if p.Checkpoint.Header().Device == skip.Key.Device && !p.Checkpoint.IsErasure() {
		return p, nil
	}
	at := skip.Word
	if on != skip.Checkpoint { // the word was on another
		if p.Checkpoint.IsErasure() {
			assent, found, err := assents(p.Checkpoint)
			if err == nil && !found {
				err = storage.ErrNotFound
			}
			p.Word = assent
			return p, err
		}
		if at, err = wordOn(v, skip, on); err != nil {
			return p, err
		}
	}
	if at == (chunk.Place{}) {
		return p, ErrNoWord
	}
	if p.Word, ok = came[at.ID]; !ok || p.Word.Place() != at {
		if p.Word, err = ReadAt(v, skip.Scope, at); err != nil {
			return p, err
		}
	}
	if p.Checkpoint.IsErasure() {
		if said, err := p.Word.Assent(); err != nil || said.Erasure != on {
			return p, ErrNoWord
		}
		return p, nil
	}
	about, good, err := p.Word.Verdict()
	if h := p.Word.Header(); err != nil || !good || about != on || h.Device != skip.Key.Device || h.Scope != skip.Scope {
		return p, ErrNoWord
	}
	return p, nil
}

// wordOn finds the word of the device of a skip's log on the checkpoint that stands for the skip's by now: as the applier noted it,
// or as the skip names it that stands for the word before, since the applier may not have come to it.
func wordOn(v storage.Reader, skip chunk.Skip, on chunk.Place) (at chunk.Place, err error) {
	b, err := v.Get(storage.Word.Key(on.ID, skip.Key.Device))
	if err == nil {
		said, err := ParseWord(b)
		return said.At, err
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return at, err
	}
	later, found, skipErr := ReadSkip(v, skip.Scope, skip.Word.Log, skip.Word.Counter)
	if skipErr != nil || !found || later.Checkpoint != on {
		return at, cmp.Or(skipErr, err)
	}
	return later.Word, nil
}
