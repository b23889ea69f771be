package simulations

import (
	"chartmesh/chunk"
	"chartmesh/trust"
)

// checkOrder is I-order: a device that gets the same chunks in another order shows the same.
func (w *World) checkOrder() {
	a := w.admitter()
	if a.replica == nil {
		return
	}
	fresh := w.join()
	if fresh == nil {
		return
	}
	type run struct {
		log    chunk.LogID
		chunks [][]byte
	}
	var logs []*run
	for _, s := range a.replica.State().Scopes() {
		v := a.replica.Vector(s.ID)
		for _, log := range v.Logs() {
			r := &run{log: log}
			var has []chunk.Position
			for {
				list, err := a.replica.Beyond(s.ID, log, has, 1<<20)
				if err != nil {
					w.fail("I-sound", "%s cannot read chunks: %v", a.name, err)
					return
				}
				if len(list) == 0 {
					break
				}
				for _, it := range list {
					r.chunks = append(r.chunks, it.Bytes)
					if it.Loose {
						continue
					}
					p, err := positionOf(it)
					if err != nil {
						w.fail("I-sound", "%s holds what is no chunk: %v", a.name, err)
						return
					}
					has = append(has, p)
				}
			}
			logs = append(logs, r)
		}
	}
	for len(logs) > 0 && w.failure == nil {
		i := w.rng.IntN(len(logs))
		r := logs[i]
		n := 1 + w.rng.IntN(min(len(r.chunks), 8))
		if err := fresh.replica.Arrive(w.ctx, a.keys.Device(), r.chunks[:n]); err != nil {
			w.fail("I-sound", "chunks do not arrive in another order: %v", err)
		}
		if r.chunks = r.chunks[n:]; len(r.chunks) == 0 {
			logs = append(logs[:i], logs[i+1:]...)
		}
		for more := w.chance(2); more && w.failure == nil; {
			var err error
			if more, err = fresh.replica.Apply(w.ctx); err != nil {
				w.fail("I-sound", "chunks do not apply in another order: %v", err)
			}
		}
	}
	for more := true; more && w.failure == nil; {
		var err error
		if more, err = fresh.replica.Apply(w.ctx); err != nil {
			w.fail("I-sound", "chunks do not apply in another order: %v", err)
		}
	}
	fresh.generation++
	w.checkLike("I-order", "another order of arrival", a, fresh)
}

func applied(d *device, scope trust.ScopeID) (sum [32]byte) {
	for _, s := range d.replica.Hello(d.id()).Scopes {
		if s.Scope == scope {
			sum = s.Applied
		}
	}
	return sum
}

// checkLike checks that a device that has just joined shows what another does, holds the same, and has applied the same.
func (w *World) checkLike(invariant, what string, other, fresh *device) {
	if w.failure != nil {
		return
	}
	if fresh.shows() != other.shows() {
		w.fail(invariant, "%s shows something else:\n%s", what, difference(other, fresh))
	}
	for _, s := range other.replica.State().Scopes() {
		if !other.replica.Vector(s.ID).Equal(fresh.replica.Vector(s.ID)) || applied(other, s.ID) != applied(fresh, s.ID) {
			w.fail(invariant, "%s leads to other chunks, or to other changes", what)
		}
	}
}
