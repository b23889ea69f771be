package simulations

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// membership is how the administrators of a world remove devices. What is drawn for it comes from a source of its own, so that worlds
// without removals stay what they were.
type membership struct {
	rng      *rand.Rand
	left     int
	removals []removal
	truth    *trust.State // of all entries that any device has
	of       string       // the heads of all devices that truth was made of
}

// removal is one that an administrator made, in the words of the onlooker.
type removal struct {
	by, whom *device
	entry    trust.EntryID
	knew     map[trust.EntryID]bool // the removals that the administrator knew of
}

const (
	administratorsAtStart = 3
	removalsAtMost        = 4
	rotateEvery           = 5 * time.Second // for each administrator's device before one, and itself
)

// scheduleRemovals has administrators remove devices now and then.
func (w *World) scheduleRemovals() {
	if !w.cfg.Removals {
		return
	}
	m := &w.membership
	if m.rng == nil {
		m.rng = rand.New(rand.NewPCG(w.cfg.Seed, 0x72656d6f76616c73))
		m.left = 1 + m.rng.IntN(removalsAtMost)
	}
	if m.left == 0 {
		return
	}
	w.after(time.Duration(2+m.rng.IntN(14))*time.Second, true, func() {
		m.left--
		admins := w.administrators()
		switch {
		case len(admins) == 0:
		case len(admins) > 1 && m.rng.IntN(3) == 0: // two remove each other, or one another who removes a third
			m.rng.Shuffle(len(admins), func(i, j int) { admins[i], admins[j] = admins[j], admins[i] })
			w.remove(admins[0], admins[1])
			w.remove(admins[1], admins[m.rng.IntN(2)*(len(admins)-1)])
		case m.rng.IntN(2) == 0:
			w.removeFromAfar(admins[m.rng.IntN(len(admins))], w.devices[m.rng.IntN(len(w.devices))])
		default:
			w.remove(admins[m.rng.IntN(len(admins))], w.devices[m.rng.IntN(len(w.devices))])
		}
		w.scheduleRemovals()
	})
}

// removeFromAfar has a device remove another while it is away: it does not know what the other one wrote meanwhile, nor that somebody
// built on that.
func (w *World) removeFromAfar(by, whom *device) {
	const away = -1
	m := &w.membership
	w.note("%s is away", by.name)
	w.net.group[by] = away
	w.relink()
	ref := w.anyRef()
	edit := func(d *device) {
		if d.replica != nil {
			w.editOf(d, ref)
		}
	}
	pause := func() time.Duration { return time.Second + time.Duration(m.rng.IntN(5000))*time.Millisecond }
	w.after(pause(), true, func() {
		edit(whom)
		w.after(pause(), true, func() {
			for _, d := range w.devices {
				if d != by && d != whom {
					edit(d)
				}
			}
			w.after(pause(), true, func() {
				w.remove(by, whom)
				if w.net.group[by] == away {
					w.net.group[by] = 0
					w.relink()
				}
			})
		})
	})
}

// administrators lists the devices that are up and are administrators as far as they know.
func (w *World) administrators() (list []*device) {
	for _, d := range w.devices {
		if d.replica == nil {
			continue
		}
		if m, ok := d.replica.State().Member(d.keys.Device()); ok && m.Role == trust.RoleAdmin {
			list = append(list, d)
		}
	}
	return list
}

// belongs reports whether a device is a member, as far as another knows.
func (d *device) belongs(other *device) bool {
	_, ok := d.replica.State().Member(other.keys.Device())
	return ok
}

// admits reports whether a device lets another connect: who does not belong, as far as it knows, is not let in, and may knock.
func (d *device) admits(other node) bool {
	o, ok := other.(*device)
	if !ok {
		return d.replica.State().IsAnchor(other.id())
	}
	return !d.w.cfg.Removals || d.belongs(o)
}

// remove has one device remove another.
func (w *World) remove(by, whom *device) {
	if by == whom || by.replica == nil || !by.belongs(by) || !by.belongs(whom) || w.failure != nil {
		return
	}
	r := removal{by: by, whom: whom, knew: map[trust.EntryID]bool{}}
	for _, o := range w.membership.removals {
		r.knew[o.entry] = by.replica.State().Contains(o.entry)
	}
	by.enter("remove "+whom.name, func(st *trust.State) ([]trust.Entry, error) {
		cut, err := by.replica.CutOf(whom.keys.Device())
		if err != nil {
			return nil, err
		}
		e, err := by.keys.Remove(st, whom.keys.Device(), cut, w.now)
		if err != nil {
			return nil, err
		}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		r.entry = e.ID()
		rotated, err := by.rotate(st)
		return append([]trust.Entry{e}, rotated...), err
	})
	w.membership.removals = append(w.membership.removals, r) // unless it was lost in a crash, see expected
}

// rotate makes the rotations that are due, as an agent does.
func (d *device) rotate(st *trust.State) (list []trust.Entry, err error) {
	for _, scope := range d.keys.RotationsDue(st) {
		e, err := d.keys.Rotate(st, scope, d.w.now)
		if errors.Is(err, trust.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// enter has a device make membership entries and tell its peers.
func (d *device) enter(what string, make func(*trust.State) ([]trust.Entry, error)) {
	w := d.w
	d.busy = what
	err := d.replica.Enter(w.ctx, make)
	d.generation++
	if !d.survived() {
		w.note("%s: %s: unknown", d.name, what)
		return
	}
	w.note("%s: %s: %v", d.name, what, err)
	if err != nil && !errors.Is(err, errDisk) {
		w.fail("I-sound", "%s cannot %s: %v", d.name, what, err)
		return
	}
	w.heard(d, d)
}

// heard has somebody who came by membership entries of a device otherwise than from a session tell its peers.
func (w *World) heard(n node, from *device) {
	for _, e := range w.net.ends(n) {
		e.session().LocalEntries(w.now)
	}
	n.heard(from, session.Result{Entries: true})
	w.net.pumpDevice(w, n)
}

// membershipChanged has a device do what follows from membership entries: part from who does not belong, and see after the epochs.
func (w *World) membershipChanged(d *device) {
	if d.replica == nil {
		return
	}
	if w.cfg.Removals || w.anchor != nil {
		w.relink()
	}
	if w.cfg.Removals {
		w.keepEpochs(d)
	}
}

// relink parts those that do not reach each other any more, and dials those that do.
func (w *World) relink() {
	for _, l := range w.net.links {
		if l.conn != nil && !w.net.reachable(l) {
			w.drop(l)
		} else {
			w.dial(l)
		}
	}
}

// keepEpochs has an administrator's device rotate what is due after a while, those of others that come before it first; another one says
// keys that none of them may have.
func (w *World) keepEpochs(d *device) {
	if d.rotating || d.replica == nil || !d.due() {
		return
	}
	d.rotating = true
	admins := w.administrators()
	turn := slices.Index(admins, d)
	if turn < 0 {
		turn = len(admins) + d.index
	}
	w.after(time.Duration(1+turn)*rotateEvery, false, func() {
		d.rotating = false
		switch {
		case d.replica == nil || !d.due():
		case slices.Contains(w.administrators(), d):
			d.enter("rotate", d.rotate)
		default:
			d.sayKeys()
		}
		w.keepEpochs(d)
	})
}

// due reports whether a device is to see to the keys of a scope.
func (d *device) due() bool {
	if st, keys := d.replica.State(), d.keys.Count(); st != d.dueOf || keys != d.dueKeys {
		d.dueOf, d.dueKeys = st, keys
		if slices.Contains(d.w.administrators(), d) {
			d.dueNow = len(d.keys.RotationsDue(st)) > 0
		} else if say, err := d.replica.KeysToSay(); err != nil {
			d.w.fail("I-sound", "%s cannot tell what it has to say: %v", d.name, err)
		} else {
			d.dueNow = say
		}
	}
	return d.dueNow
}

// sayKeys has a device say keys that no administrator may have.
func (d *device) sayKeys() {
	w := d.w
	d.dueOf = nil // another may have said them
	d.busy = "say keys"
	err := d.replica.SayKeys(w.ctx)
	d.generation++
	if !d.survived() {
		w.note("%s: say keys: unknown", d.name)
		return
	}
	w.note("%s: say keys: %v", d.name, err)
	if err != nil && !errors.Is(err, errDisk) {
		w.fail("I-sound", "%s cannot say keys: %v", d.name, err)
		return
	}
	w.report.Said++
	for _, e := range w.net.ends(d) {
		e.session().LocalChunks(w.now)
	}
	d.wakeApplier()
	w.net.pumpDevice(w, d)
}

// truth is what all entries amount to that are held by any device of the practice: of the most that let each other in, directly or by
// others. Two administrators who removed each other, where nobody else heard of it, are a practice each.
func (w *World) truth() *trust.State {
	m := &w.membership
	var of strings.Builder
	for _, d := range w.devices {
		if d.replica != nil {
			h := d.replica.State().HeadsHash()
			of.Write(h[:])
		}
	}
	if m.truth == nil || m.of != of.String() {
		var all []trust.Entry
		for _, d := range w.largest() {
			all = append(all, d.replica.State().Entries()...)
		}
		m.truth, _ = trust.Replay(all)
		m.of = of.String()
	}
	return m.truth
}

// largest returns the most devices that let each other in.
func (w *World) largest() (most []*device) {
	seen := map[*device]bool{}
	for _, d := range w.devices {
		if seen[d] || d.replica == nil || !d.belongs(d) {
			continue
		}
		seen[d] = true
		group := []*device{d}
		for i := 0; i < len(group); i++ {
			for _, o := range w.devices {
				if !seen[o] && o.replica != nil && group[i].admits(o) && o.admits(group[i]) {
					seen[o] = true
					group = append(group, o)
				}
			}
		}
		if len(group) > len(most) {
			most = group
		}
	}
	return most
}

// remaining lists the devices that belong to the practice when everybody knows everything that can be known: those of truth, unless
// they do not let the others in (see checkApart).
func (w *World) remaining() []*device {
	if !w.cfg.Removals {
		return w.devices
	}
	st, together := w.truth(), w.largest()
	return slices.DeleteFunc(slices.Clone(w.devices), func(d *device) bool {
		_, ok := st.Member(d.keys.Device())
		return !ok || d.replica != nil && !slices.Contains(together, d)
	})
}

// keyless finds the chunks that nobody who remains can open: nobody who knows of their epoch is let in, or its key was given to nobody of
// them.
func (w *World) keyless() (list map[chunk.ID]bool) {
	list = map[chunk.ID]bool{}
	remaining := w.remaining()
	for _, d := range remaining {
		err := d.eachChunk(func(sealed chunk.Sealed) error {
			opens := func(d *device) bool { return d.keys.Opens(sealed.Header().Epoch) }
			if !slices.ContainsFunc(remaining, opens) {
				list[sealed.ID()] = true
			}
			return nil
		})
		if err != nil {
			w.fail("I-sound", "%s holds what is no chunk: %v", d.name, err)
		}
	}
	return list
}

// parkedFor returns how many chunks a device is to hold for want of their keys.
func (w *World) parkedFor(d *device) (n int) {
	if !w.cfg.Removals {
		return 0
	}
	keyless := w.keyless()
	_ = d.eachChunk(func(sealed chunk.Sealed) error {
		if keyless[sealed.ID()] {
			n++
		}
		return nil
	})
	return n
}

// eachChunk passes on the chunks that a device holds in their places.
func (d *device) eachChunk(do func(chunk.Sealed) error) error {
	return d.view(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(value)
			if err == nil {
				err = do(sealed)
			}
			return err
		})
	})
}

// settled reports whether nobody is to rotate anything, nor about to knock.
func (w *World) settled() bool {
	if !w.cfg.Removals {
		return true
	}
	if w.knocking() {
		return false
	}
	for _, d := range w.remaining() {
		if d.due() {
			w.keepEpochs(d)
			return false
		}
	}
	return true
}

// unable reports whether a device cannot write, for a reason that is told to its user: it knows that it was removed, or was added
// apart from the epoch that is written under.
func (d *device) unable() bool {
	if !d.w.cfg.Removals {
		return false
	}
	st := d.replica.State()
	return !d.belongs(d) || slices.ContainsFunc(st.Scopes(), func(sc trust.Scope) bool { return !d.keys.Opens(st.CurrentEpoch(sc.ID)) })
}

// judgeRemoved finds what does not count since its author was removed. Said in the simplest way: it lies beyond the cut, and nothing
// that counts builds on it. What no device has that belongs, or can open, is gone with its author.
func (w *World) judgeRemoved() {
	if !w.cfg.Removals {
		return
	}
	st, remaining := w.truth(), w.remaining()
	keyless := w.keyless()
	held := func(e *entry) bool {
		return slices.ContainsFunc(remaining, func(d *device) bool { return d.has(e.at.scope, e.at.log, e.counter, e.chunk) })
	}
	counts := map[*entry]bool{}
	for _, e := range w.ledger.entries {
		right, cut := st.Right(e.device.keys.Device(), e.at.scope)
		counts[e] = held(e) && !keyless[e.chunk] && (right == trust.RightNow || right == trust.RightUntil && slices.ContainsFunc(cut, func(p trust.CutPosition) bool {
			return p.Scope == e.at.scope && chunk.LogID(p.Log) == e.at.log && e.counter <= p.Counter
		}))
	}
	stands := map[crdt.ChangeHash]bool{}
	for e, ok := range maps.Clone(counts) {
		if ok {
			for _, x := range w.ledger.docs[e.doc].closure([]crdt.ChangeHash{e.hash}) {
				stands[x.Hash] = true
			}
		}
	}
	for _, e := range w.ledger.entries {
		if !stands[e.hash] {
			e.gone, e.barred = true, held(e) && !keyless[e.chunk]
			w.report.Barred++
		} else if !counts[e] {
			w.report.Spared++
		}
	}
	w.report.Removed = len(w.devices) - len(remaining)
}

// checkMembers is I-members: who belongs is who should, by what administrators did and knew.
func (w *World) checkMembers() {
	if !w.cfg.Removals {
		return
	}
	st := w.truth()
	w.checkApart()
	stands := w.expected(st)
	for _, d := range w.devices {
		removed := slices.ContainsFunc(stands, func(r removal) bool { return r.whom == d })
		if _, is := st.Removed(d.keys.Device()); is != removed {
			w.fail("I-members", "%s is removed: %v, and should be: %v", d.name, is, removed)
		}
	}
	for _, d := range w.remaining() {
		if d.replica.State().HeadsHash() != st.HeadsHash() {
			w.fail("I-members", "%s knows another membership log than others", d.name)
		}
	}
}

// expected returns the removals that should stand. One falls if its author was removed by somebody who did not know of it, by a removal
// that stands; its author may have known that one, and that it did not stand then. Where that goes round in a circle, which hangs on no
// other, who was added earlier prevails, of those who knew of no removal of themselves that is open; it stands against those that attack it.
func (w *World) expected(st *trust.State) (list []removal) {
	open := slices.DeleteFunc(slices.Clone(w.membership.removals), func(r removal) bool { return !st.Contains(r.entry) })
	attacks := func(a, r removal) bool { return a.whom == r.by && !a.knew[r.entry] }
	settle := func(r removal) { // it stands
		list = append(list, r)
		open = slices.DeleteFunc(open, func(o removal) bool { return o.entry == r.entry || attacks(r, o) || attacks(o, r) })
	}
	for len(open) > 0 {
		free := slices.IndexFunc(open, func(r removal) bool {
			return !slices.ContainsFunc(open, func(a removal) bool { return attacks(a, r) })
		})
		if free < 0 {
			hangs := hangsOn(open, attacks)
			for i, r := range open {
				loose := slices.ContainsFunc(open, func(a removal) bool {
					return attacks(a, r) && r.knew[a.entry] || hangs[r.entry][a.entry] && !hangs[a.entry][r.entry]
				})
				if !loose && (free < 0 || r.by.index < open[free].by.index) {
					free = i
				}
			}
		}
		settle(open[free])
	}
	return list
}

// hangsOn says of each removal which others it hangs on: those that attack it, those that attack these, and so on.
func hangsOn(open []removal, attacks func(a, r removal) bool) map[trust.EntryID]map[trust.EntryID]bool {
	all := map[trust.EntryID]map[trust.EntryID]bool{}
	for _, r := range open {
		on := map[trust.EntryID]bool{}
		for queue := []removal{r}; len(queue) > 0; queue = queue[1:] {
			for _, a := range open {
				if attacks(a, queue[0]) && !on[a.entry] {
					on[a.entry] = true
					queue = append(queue, a)
				}
			}
		}
		all[r.entry] = on
	}
	return all
}

// checkKeys is I-keys: every scope has one newest epoch, which all who belong open, and who does not belong neither opens it, with all
// entries at hand, nor holds anything that he cannot open.
func (w *World) checkKeys() {
	if !w.cfg.Removals {
		return
	}
	st := w.truth()
	for _, sc := range st.Scopes() {
		if len(sc.Newest) != 1 {
			w.fail("I-keys", "scope %s has %d newest epochs", sc.Name, len(sc.Newest))
			return
		}
		// Administrators who remove each other keep from each other what later turns out not to stand.
		stands := map[trust.EpochID]bool{}
		for _, e := range sc.Epochs {
			_, void := st.Void(e.Entry)
			stands[e.ID] = !void
		}
		for _, d := range w.devices {
			if d.replica == nil {
				continue
			}
			_, belongs := st.Member(d.keys.Device())
			_ = d.keys.Learn(st)
			if d.keys.Opens(sc.Newest[0]) != belongs {
				w.fail("I-keys", "%s opens the newest epoch of %s: %v, and belongs: %v", d.name, sc.Name, !belongs, belongs)
			}
			if belongs || w.net.messy { // where frames overtake each other a chunk may be passed on before it is known that nobody opens it
				continue
			}
			err := d.eachChunk(func(sealed chunk.Sealed) error {
				if !d.keys.Opens(sealed.Header().Epoch) && stands[sealed.Header().Epoch] {
					return fmt.Errorf("chunk %v is of a later epoch", sealed.ID())
				}
				return nil
			})
			if err != nil {
				w.fail("I-keys", "%s, which was removed, holds what it should not: %v", d.name, err)
			}
		}
	}
}
