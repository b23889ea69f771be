package quorum

import (
	"maps"
	"slices"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
)

// learn takes what voters say.
func (c *client) learn(list []certificate.Statement) {
	for _, s := range list {
		if !c.knows[s] {
			c.knows[s] = true
			c.says = append(c.says, s)
		}
	}
}

// accepted returns which changes of a lock's document count by what a client has, whose certificates come in the order that they came in, and otherwise.
func (c *client) accepted(lock lockquorum.LockID) (set map[lockquorum.Heads]bool, stable bool) {
	if c.w.cfg.Mutant == TokenOrder {
		return c.inOrder[lock], true
	}
	var list []certificate.Certified
	for _, s := range c.says {
		if s.Lock != lock {
			continue
		}
		out := certificate.Certified{Statement: s}
		if s.Heads != (lockquorum.Heads{}) {
			out.Plain = []certificate.Hash{s.Heads}
		}
		list = append(list, out)
	}
	dependencies := func(h certificate.Hash) ([]certificate.Hash, bool) {
		switch ch := c.store[h]; {
		case ch == nil:
			return nil, false
		case ch.parent == (lockquorum.Heads{}):
			return nil, true
		default:
			return []certificate.Hash{ch.parent}, true
		}
	}
	judge := func() map[lockquorum.Heads]bool {
		set := map[lockquorum.Heads]bool{}
		j := certificate.Judge(dependencies, list)
		for id, ch := range c.store {
			if ch.lock == lock && j.Of(id, ch.token) == certificate.Accepted {
				set[id] = true
			}
		}
		return set
	}
	set = judge()
	c.w.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return set, maps.Equal(set, judge())
}

// checkAccepted checks I3: everybody accepts the same, whatever order it came in; and that is what is certified and its ancestors, where nothing was lost.
func (w *World) checkAccepted(heads map[lockquorum.LockID]lockquorum.Heads) {
	all := map[certificate.Statement]bool{}
	for _, c := range w.clients {
		for _, s := range c.says {
			all[s] = true
		}
	}
	for _, lock := range locks {
		var first map[lockquorum.Heads]bool
		for i, c := range w.clients {
			if len(c.says) != len(all) {
				w.fail("I8", "client %d has %d of %d certificates", c.index, len(c.says), len(all))
				return
			}
			set, stable := c.accepted(lock)
			if !stable {
				w.fail("I3", "client %d accepts otherwise in another order", c.index)
			}
			if i == 0 {
				first = set
			} else if !maps.Equal(set, first) {
				w.fail("I3", "client %d accepts %d changes of %v, and client %d %d", c.index, len(set), lock, w.clients[0].index, len(first))
			}
		}
		if w.report.Forks > 0 || len(w.ledger.epochs) > 1 {
			continue // which of what was certified twice counts, the certificates decide
		}
		w.report.Accepted += len(first)
		for id, ch := range w.ledger.changes {
			if ch.lock == lock && first[id] != w.ledger.descends(heads[lock], id) {
				w.fail("I3", "change %v is accepted: %v; %v is certified", id, first[id], heads[lock])
			}
		}
	}
}

// sorted returns the keys of a map of changes, ascending.
func sortedChanges(m map[lockquorum.Heads]*change) []lockquorum.Heads {
	return slices.SortedFunc(maps.Keys(m), func(a, b lockquorum.Heads) int { return slices.Compare(a[:], b[:]) })
}
