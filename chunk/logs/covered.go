package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// What a checkpoint covers is deleted by who holds the word of every device that writes, and by the same rules with keys and without
// (docs/spec/log-and-vector.md, "Deletion").

var (
	// ErrOtherHistory says that what stands in a log first is not what a checkpoint covers.
	ErrOtherHistory = errors.New("a checkpoint covers another history of a log")
	// ErrCoversWrongly says that a checkpoint covers what no checkpoint of its document can stand for.
	ErrCoversWrongly = errors.New("a checkpoint covers what it cannot stand for")
)

// Said returns what was said of a checkpoint, by device. Who made it holds it for good.
func Said(v storage.Reader, checkpoint chunk.ID, maker trust.DeviceID) (map[trust.DeviceID]Word, error) {
	said := map[trust.DeviceID]Word{maker: {OK: true}}
	err := v.Scan(storage.Word.With(checkpoint), nil, func(key, value []byte) error {
		_, device, err := storage.Word.Parse(key)
		if err != nil {
			return err
		}
		if said[device], err = ParseWord(value); err != nil {
			return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read words on a checkpoint: %w", err)
	}
	return said, nil
}

// Agreement is what the words on a checkpoint come to.
type Agreement byte

// A device that writes has not given its word; all have, and found it good; or one has said that it is not what it claims to be.
const (
	Awaited Agreement = iota
	Agreed
	Refused
)

// AgreementOn says what the words on a checkpoint come to: nobody's word stands for another's, and a bad one counts whoever gave it.
func AgreementOn(st *trust.State, scope trust.ScopeID, said map[trust.DeviceID]Word) Agreement {
	for _, w := range said {
		if !w.OK {
			return Refused
		}
	}
	for _, m := range st.Members() {
		if _, ok := said[m.Device]; !ok && st.MayWrite(m.Device, scope) {
			return Awaited
		}
	}
	return Agreed
}

// Deletion is what a batch deletes for a checkpoint.
type Deletion struct {
	Chunks  int
	Earlier []chunk.Place // the checkpoints among them; the words on these go too
}

// DeleteCovered adds to a batch the deletion of what a checkpoint covers, and the skips in its place, each with the word of the device whose
// log it is. The checkpoint stands in its place, all that it covers is held, and it is agreed on.
//
// If it fails the batch is not to be committed: with ErrNoWord or storage.ErrNotFound if the word of a device whose log it covers is not here, so that nobody could take
// the skip, with ErrOtherHistory, with chunk.ErrNewer, and with ErrCoversWrongly. The last is what a device with keys finds too when it compares; it is looked at here
// again, since a chunk that is deleted wrongly may be gone for good.
func DeleteCovered(v storage.Reader, b *storage.Batch, checkpoint chunk.Sealed, said map[trust.DeviceID]Word) (d Deletion, err error) {
	return deleteCovered(v, b, checkpoint, func(d trust.DeviceID) chunk.Place { return said[d].At })
}

// deleteCovered is DeleteCovered, and DeleteErased; word is what a skip of a device's log rests on beside the checkpoint. Without it nothing is proven, and the batch is of no use.
func deleteCovered(v storage.Reader, b *storage.Batch, checkpoint chunk.Sealed, word func(trust.DeviceID) chunk.Place) (d Deletion, err error) {
	covers, err := checkpoint.Covers()
	if err != nil {
		return d, err
	}
	x := deletion{v: v, batch: b, checkpoint: checkpoint, covers: covers, word: word, proofs: map[chunk.ID]chunk.Sealed{checkpoint.ID(): checkpoint}}
	for _, run := range covers {
		if err := x.run(run); err != nil {
			return d, err
		}
	}
	for _, e := range x.done.Earlier {
		if err := v.Keys(storage.Word.With(e.ID), nil, func(key []byte) error {
			x.batch.Delete(bytes.Clone(key))
			return nil
		}); err != nil {
			return d, fmt.Errorf("read words on a checkpoint: %w", err)
		}
	}
	return x.done, nil
}

// deletion is one DeleteCovered.
type deletion struct {
	v          storage.Reader
	batch      *storage.Batch
	checkpoint chunk.Sealed
	covers     chunk.Covers
	word       func(trust.DeviceID) chunk.Place
	proofs     map[chunk.ID]chunk.Sealed // that were read
	done       Deletion
}

// run deletes the chunks of a run and puts a skip in their place, and in the place of earlier skips.
func (x *deletion) run(run chunk.Covered) error {
	scope, from := x.checkpoint.Header().Scope, run.From
	skip, found, err := ReadSkip(x.v, scope, run.Log, run.From)
	if err != nil {
		return err
	}
	// Under a skip that rests on this very order there may be chunks that a salvage has brought back.
	again := x.checkpoint.IsErasure() && skip.Checkpoint == x.checkpoint.Place()
	if found && !again && !x.covers.Holds(skip.Checkpoint.Log, skip.Checkpoint.Counter) {
		if skip.To >= run.To { // a checkpoint that was made at the same time, and stays, stands for them already, or this one
			if at, err := (&History{Reader: x.v, Scope: scope, Log: run.Log}).At(run.To); err != nil || at != chunk.At(run.To, run.Last) {
				return cmp.Or(err, ErrOtherHistory)
			}
			return nil
		}
		if skip.From < run.From { // or for some of them, and for others before
			if !run.Joins(skip.Position()) {
				return ErrOtherHistory
			}
			from = skip.To + 1
		}
	}
	by, err := x.skip(scope, run, from)
	if err != nil {
		return err
	}
	within := func(counter uint64) error {
		if counter > run.To {
			return storage.ErrStop
		}
		return nil
	}
	if err := x.v.Scan(storage.Chunk.With2(scope, run.Log), storage.Chunk.Key(scope, run.Log, from), func(key, value []byte) error {
		_, _, counter, err := storage.Chunk.Parse(key)
		if err = errors.Join(err, within(counter)); err != nil {
			return err
		}
		sealed, err := chunk.Parse(value)
		if err != nil {
			return fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, err)
		}
		if tip, ok := run.TipAt(counter); !ok || tip != sealed.Position().Tip {
			return ErrOtherHistory
		}
		if err := x.fits(sealed); err != nil {
			return err
		}
		x.done.Chunks++
		x.batch.Delete(bytes.Clone(key))
		return nil
	}); err != nil {
		return err
	}
	if err := x.v.Scan(storage.Skip.With2(scope, run.Log), storage.Skip.Key(scope, run.Log, from), func(key, value []byte) error {
		_, _, counter, err := storage.Skip.Parse(key)
		if err = errors.Join(err, within(counter)); err != nil {
			return err
		}
		skip, err := chunk.ParseSkip(value)
		if err != nil {
			return fmt.Errorf("read skip: %w: %w", storage.ErrDamaged, err)
		}
		if tip, ok := run.TipAt(counter); !ok || tip != skip.Position().Tip {
			return ErrOtherHistory
		}
		x.batch.Delete(bytes.Clone(key))
		return nil
	}); err != nil {
		return err
	}
	value, _ := by.AppendBinary(nil)
	x.batch.Put(storage.Skip.Key(scope, run.Log, run.To), value)
	return nil
}

// skip makes the skip over what is left of a run, and reads what it rests on.
func (x *deletion) skip(scope trust.ScopeID, run chunk.Covered, from uint64) (skip chunk.Skip, err error) {
	skip = chunk.Skip{Scope: scope, Run: run.Run, Checkpoint: x.checkpoint.Place()}
	skip.From = from
	last, err := ReadChunk(x.v, scope, run.Log, run.To)
	switch {
	case err == nil && last.ID() != run.Last:
		return skip, ErrOtherHistory
	case err == nil:
		skip.Key = last.LogKey()
	case errors.Is(err, storage.ErrNotFound):
		there, found, err := ReadSkip(x.v, scope, run.Log, run.To)
		if err != nil || !found {
			return skip, cmp.Or(err, ErrNotHeld)
		}
		// It may go on beyond the run.
		if at, err := (&History{Reader: x.v, Scope: scope, Log: run.Log}).At(run.To); err != nil || at != chunk.At(run.To, run.Last) || there.To == run.To && there.Last != run.Last {
			return skip, cmp.Or(err, ErrOtherHistory)
		}
		skip.Key = there.Key
	default:
		return skip, err
	}
	if x.word == nil {
		return skip, nil
	}
	skip.Word = x.word(skip.Key.Device)
	p, err := ReadProof(x.v, skip, x.proofs, nil)
	if err == nil && p.Word.ID() != (chunk.ID{}) {
		x.proofs[p.Word.ID()] = p.Word
	}
	return skip, err
}

// fits reports whether a covered chunk is one that a checkpoint can stand for: of its document, with changes or a certificate, or an earlier checkpoint of which it
// covers all that this covers, or a word on such a one. What rests on those two rests on the checkpoint from then on.
func (x *deletion) fits(sealed chunk.Sealed) error {
	if sealed.Header().Tag != x.checkpoint.Header().Tag {
		return ErrCoversWrongly
	}
	switch sealed.Header().Kind {
	case chunk.KindChanges:
		return nil
	case chunk.KindCertificate: // of a protected document, which is packed, and not erased
		if x.checkpoint.IsErasure() {
			return ErrCoversWrongly
		}
		return nil
	case chunk.KindCheckpoint:
		earlier, err := sealed.Covers()
		if errors.Is(err, chunk.ErrNewer) {
			return err
		}
		if err != nil {
			return errors.Join(ErrCoversWrongly, err)
		}
		for _, run := range earlier {
			for n := run.From - 1; n <= run.To; n++ {
				was, _ := run.TipAt(n)
				if !x.standsAt(run.Log, run.To, chunk.Position{Counter: n, Tip: was}) {
					return ErrCoversWrongly
				}
			}
		}
		x.done.Earlier = append(x.done.Earlier, sealed.Place())
		return nil
	case chunk.KindCover:
		on, _, err := sealed.Verdict()
		if errors.Is(err, chunk.ErrNewer) {
			return err
		}
		if err != nil || !x.standsAt(on.Log, on.Counter, chunk.At(on.Counter, on.ID)) {
			return errors.Join(ErrCoversWrongly, err)
		}
		return nil
	}
	return ErrCoversWrongly
}

// standsAt reports whether the checkpoint covers a chunk of a log in a run that has the log at a position.
func (x *deletion) standsAt(log chunk.LogID, counter uint64, at chunk.Position) bool {
	run, ok := x.covers.Find(log, counter)
	tip, within := run.TipAt(at.Counter)
	return ok && within && tip == at.Tip
}
