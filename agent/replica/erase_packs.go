package replica

import (
	"errors"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
)

// An order names a checkpoint with all that it stands for. One that claims to stand for what is not here, or of another document, it leaves out: everybody would
// refuse the order, so that a member's bent program could hinder every erasure. Such a checkpoint is late.

// packedAt is a checkpoint, and whether an order can name it.
type packedAt struct {
	sealed       chunk.Sealed
	looked, fits bool
}

// addPacks adds the checkpoints that an order can name, and all that they stand for.
func (d *ordered) addPacks(v storage.Reader) error {
	var named []chunk.Sealed
	for _, p := range d.packs {
		ok, err := d.fits(v, p)
		if err != nil {
			return err
		}
		if ok {
			named = append(named, p.sealed)
		}
	}
	for _, sealed := range named { // after all were compared with what is here
		covers, err := sealed.Covers()
		if err != nil {
			return err
		}
		d.links.cover(covers)
		d.links[spot{sealed.Log(), sealed.Header().Counter}] = linkOf(sealed)
	}
	return nil
}

// fits reports whether all that a checkpoint stands for is here, on the same histories, and can be named with it.
func (d *ordered) fits(v storage.Reader, p *packedAt) (bool, error) {
	if p.looked {
		return p.fits, nil
	}
	p.looked = true // what it covers came before it
	covers, err := p.sealed.Covers()
	if errors.Is(err, chunk.ErrNewer) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, run := range covers {
		main := logs.History{Reader: v, Scope: d.scope, Log: run.Log}
		for n := run.From - 1; n <= run.To; n++ {
			at, err := main.At(n)
			if errors.Is(err, logs.ErrNotHeld) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if tip, _ := run.TipAt(n); at.Tip != tip {
				return false, nil
			}
			if n < run.From {
				continue
			}
			if ok, err := d.names(v, covers, spot{run.Log, n}); err != nil || !ok {
				return false, err
			}
		}
		if l, here := d.links[spot{run.Log, run.To}]; here && l.id != run.Last {
			return false, nil
		}
	}
	p.fits = true
	return true, nil
}

// names reports whether an order can name what stands at a place that a checkpoint covers: of the document, or deleted already.
func (d *ordered) names(v storage.Reader, covers chunk.Covers, at spot) (bool, error) {
	if _, ok := d.links[at]; ok {
		return true, nil
	}
	if p := d.packs[at]; p != nil {
		return d.fits(v, p)
	}
	if w, ok := d.words[at]; ok {
		on, _, err := w.Verdict()
		run, covered := covers.Find(on.Log, on.Counter)
		tip, within := run.TipAt(on.Counter)
		return err == nil && covered && within && tip == chunk.At(on.Counter, on.ID).Tip, nil
	}
	_, err := logs.ReadChunk(v, d.scope, at.log, at.counter)
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return false, err
}
