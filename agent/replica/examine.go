package replica

import (
	"errors"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// finding is what a device finds of a checkpoint.
type finding byte

const (
	verdictWait finding = 0 // what it covers is not all here, or this device has not applied it
	verdictGood finding = 1 // it holds exactly what the chunks hold that it covers
	verdictBad  finding = 2
)

// examine compares a checkpoint with what this device holds: the chunks that it covers, or where these are deleted, the
// checkpoint that stands for them. Good it is only if each covered chunk is packed whole and as its author wrote it, so that
// nothing is lost with it. The caller has applied the checkpoint.
func (r *Replica) examine(v storage.Reader, c checkpoint) (finding, error) {
	sealed, err := logs.ReadChunk(v, c.scope, c.place.Log, c.place.Counter)
	if err != nil {
		return verdictWait, storage.IgnoreNotFound(err)
	}
	if sealed.ID() != c.place.ID {
		return verdictWait, nil // it is of another history of its log
	}
	if waits, err := isHeld(v, c.scope, sealed); err != nil || waits {
		return verdictWait, err
	}
	body, err := r.openPack(sealed)
	if err != nil {
		return verdictWait, err
	}
	e := examination{r: r, v: v, scope: c.scope, tag: sealed.Header().Tag, covers: body.Covers, packed: packedIn(body), others: othersIn(body),
		certs: certificatesIn(body), packs: map[chunk.ID]contents{}}
	for _, run := range body.Covers {
		if !r.reached(c.scope, run.Log, run.To) {
			return verdictWait, nil
		}
	}
	for _, run := range body.Covers {
		if f, err := e.run(run); f != verdictGood || err != nil {
			return f, err
		}
	}
	return verdictGood, nil
}

func (r *Replica) openPack(sealed chunk.Sealed) (*chunk.Checkpoint, error) {
	opened, err := chunk.Open(r.keys, sealed)
	if err != nil {
		return nil, err
	}
	body, ok := opened.(*chunk.Checkpoint)
	if !ok {
		return nil, storage.ErrDamaged
	}
	return body, nil
}

// examination is one comparison.
type examination struct {
	r      *Replica
	v      storage.Reader
	scope  trust.ScopeID
	tag    chunk.Tag
	covers chunk.Covers
	packed map[spot]chunk.Part
	others map[spot]bool
	certs  map[spot]*chunk.Certificate
	packs  map[chunk.ID]contents // of other checkpoints
}

// contents is what a checkpoint holds, by place.
type contents struct {
	parts  map[spot]chunk.Part
	others map[spot]bool
	certs  map[spot]*chunk.Certificate
	covers chunk.Covers
}

func packedIn(body *chunk.Checkpoint) map[spot]chunk.Part {
	parts := make(map[spot]chunk.Part, len(body.Parts))
	for _, p := range body.Parts {
		parts[spot{body.Logs[p.Log].ID(), p.Counter}] = p
	}
	return parts
}

func othersIn(body *chunk.Checkpoint) map[spot]bool {
	others := make(map[spot]bool, len(body.Others))
	for _, s := range body.Others {
		others[spot{body.Logs[s.Log].ID(), s.Counter}] = true
	}
	return others
}

func certificatesIn(body *chunk.Checkpoint) map[spot]*chunk.Certificate {
	certs := make(map[spot]*chunk.Certificate, len(body.Certificates))
	for _, c := range body.Certificates {
		certs[spot{body.Logs[c.Log].ID(), c.Counter}] = c.Certificate
	}
	return certs
}

// run compares one run, chunk by chunk.
func (e *examination) run(run chunk.Covered) (finding, error) {
	for n := run.From; n <= run.To; {
		found, err := logs.Read(e.v, logs.Ref{Scope: e.scope, Log: run.Log, Counter: n})
		if errors.Is(err, logs.ErrNotHeld) {
			return verdictWait, nil // it may be of another history that ends before
		}
		if err != nil {
			return verdictWait, err
		}
		if found.Skip == nil {
			tip, _ := run.TipAt(n)
			if h := found.Chunk.Header(); !run.Joins(chunk.At(n-1, h.Previous)) || tip != found.Chunk.Position().Tip {
				return verdictWait, nil // another history of the log, which who packed it knows and this device does not, or not first
			}
			if n == run.To && found.Chunk.ID() != run.Last {
				return verdictBad, nil // of the same tip: no log goes on with what it says
			}
			if f, err := e.chunk(spot{run.Log, n}, found.Chunk); f != verdictGood || err != nil {
				return f, err
			}
			n++
			continue
		}
		if found.Skip.To > run.To {
			return verdictWait, nil // another one, made at the same time, stands for more; the next covers both
		}
		if found.Skip.To == run.To && found.Skip.Last != run.Last && found.Skip.Position() == chunk.At(run.To, run.Last) {
			return verdictBad, nil
		}
		if f, err := e.skipped(run, n, found); f != verdictGood || err != nil {
			return f, err
		}
		n = found.Skip.To + 1
	}
	return verdictGood, nil
}

// chunk compares a chunk that is here.
func (e *examination) chunk(at spot, sealed chunk.Sealed) (finding, error) {
	if sealed.Header().Tag != e.tag {
		return verdictBad, nil
	}
	held, err := isHeld(e.v, e.scope, sealed)
	if held && sealed.Header().Kind == chunk.KindCertificate {
		held = false // it is packed all the same, and counts by its voter and by what contradicts it, wherever it stands
	}
	if err != nil || held {
		return verdictWait, err // who made the checkpoint has applied it; this device may be behind
	}
	opened, err := chunk.Open(e.r.keys, sealed)
	if err != nil {
		return verdictWait, err
	}
	good := false
	switch body := opened.(type) {
	case *chunk.Changes:
		part, ok := e.packed[at]
		good = ok && part.Equal(chunk.PartOf(body, 0, at.counter))
	case *chunk.Checkpoint:
		// What names the earlier one as its checkpoint will name this one.
		good = e.others[at] && e.holds(packedIn(body), othersIn(body), certificatesIn(body)) && e.coversAll(body.Covers)
	case *chunk.Certificate:
		good = e.hasCertificate(at, body)
	case *chunk.Cover:
		place := body.Checkpoint
		good = e.others[at] && e.others[spot{place.Log, place.Counter}]
	}
	if !good {
		return verdictBad, nil
	}
	return verdictGood, nil
}

func (e *examination) coversAll(runs chunk.Covers) bool {
	for _, run := range runs {
		if mine, ok := e.covers.Find(run.Log, run.To); !ok || mine.From > run.From {
			return false
		}
	}
	return true
}

// holds reports whether everything that an earlier checkpoint packs is packed here too.
func (e *examination) holds(parts map[spot]chunk.Part, others map[spot]bool, certs map[spot]*chunk.Certificate) bool {
	for at, c := range certs {
		if !e.hasCertificate(at, c) {
			return false
		}
	}
	for at, p := range parts {
		if mine, ok := e.packed[at]; !ok || !mine.Equal(p) {
			return false
		}
	}
	for at := range others {
		if !e.others[at] {
			return false
		}
	}
	return true
}

func (e *examination) hasCertificate(at spot, c *chunk.Certificate) bool {
	mine, ok := e.certs[at]
	return ok && mine.Equal(c)
}

// skipped compares what stands for chunks that were deleted here: an earlier checkpoint, one made at the same time, which
// may hold more than this one, or this one itself.
func (e *examination) skipped(run chunk.Covered, from uint64, found logs.Stored) (finding, error) {
	if found.Chunk.IsErasure() {
		return verdictWait, nil // who made the checkpoint had not heard of it
	}
	pack, ok := e.packs[found.Chunk.ID()]
	if !ok {
		body, err := e.r.openPack(found.Chunk)
		if err != nil {
			return verdictWait, err
		}
		pack = contents{packedIn(body), othersIn(body), certificatesIn(body), body.Covers}
		e.packs[found.Chunk.ID()] = pack
	}
	was, ok := pack.covers.Find(run.Log, found.Skip.To)
	for n := from - 1; n <= found.Skip.To; n++ {
		tip, _ := run.TipAt(n)
		if had, here := was.TipAt(n); !ok || !here || had != tip {
			return verdictWait, nil // another history of the log
		}
	}
	for n := from; n <= found.Skip.To; n++ {
		at := spot{run.Log, n}
		part, ok := pack.parts[at]
		if mine, packed := e.packed[at]; ok && packed && mine.Equal(part) || pack.others[at] && e.others[at] ||
			pack.certs[at] != nil && e.hasCertificate(at, pack.certs[at]) {
			continue
		}
		return verdictBad, nil
	}
	return verdictGood, nil
}

// isHeld reports whether a chunk is stored and not applied.
func isHeld(v storage.Reader, scope trust.ScopeID, sealed chunk.Sealed) (bool, error) {
	_, err := v.Get(storage.Held.Key(storage.Ref{Scope: scope, Log: sealed.Log(), Counter: sealed.Header().Counter, ID: sealed.ID()}))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
