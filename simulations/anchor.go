package simulations

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chartmesh/anchor/kept"
	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// anchor is the practice's anchor: what survives a crash and what not. What is drawn for it alone comes from a source of its own.
type anchor struct {
	disk
	rng      *rand.Rand
	key      ed25519.PrivateKey
	practice trust.EntryID
	by       *device        // who asked for the practice to be admitted
	kept     *kept.Practice // nil: it is down
	share    *storage.Share
	skew     time.Duration // of its clock
	grace    time.Duration

	copy    *storage.Twin       // of its disk; nil: none was made
	members []trust.DeviceID    // as it knew them last
	renew   bool                // its sessions are to begin anew
	took    map[chunk.ID]*entry // what users wrote and it holds, or had it packed
}

// scheduleAnchor settles what the network is like with an anchor, and when there is one: from the beginning, or later.
func (w *World) scheduleAnchor() {
	if !w.cfg.Anchor {
		return
	}
	w.anchorRand = rand.New(rand.NewPCG(w.cfg.Seed, 0x616e63686f72))
	switch n := w.anchorRand.IntN(6); {
	case w.cfg.Removals: // where devices meet at the anchor alone, or it comes later, those it is of need not be the largest part
		w.addAnchor()
	case n < 2:
		w.net.star, w.net.alone = true, n == 0
		w.addAnchor() // or nobody would ever hear of it
	case n < 4:
		w.addAnchor()
	default:
		w.after(time.Duration(1+w.anchorRand.IntN(20))*time.Second, false, w.addAnchor)
	}
}

// addAnchor has the first device make the anchor one of the practice, and the anchor admit it.
func (w *World) addAnchor() {
	if w.anchor != nil || !w.cfg.Anchor {
		return
	}
	by := w.admitter()
	if by.replica == nil {
		w.after(time.Second, false, w.addAnchor)
		return
	}
	a := &anchor{disk: newDisk(w, "anchor", storage.NewTwin()), rng: w.anchorRand}
	a.part = true
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(a.rng.Uint32())
	}
	a.key = ed25519.NewKeyFromSeed(seed)
	a.grace = []time.Duration{0, time.Second, 15 * time.Second}[a.rng.IntN(3)]
	a.skew = time.Duration(a.rng.Int64N(int64(96*time.Hour))) - 48*time.Hour
	a.practice = by.replica.State().Practice()
	w.anchor = a
	a.nameIn(by)
	a.admit(by)
	a.open()
	w.connectAll()
	a.live()
}

// nameIn has a device say that the anchor is one of the practice, unless it knows.
func (a *anchor) nameIn(by *device) {
	if by.replica.State().IsAnchor(a.id()) {
		return
	}
	by.armed = nil
	by.enter("add the anchor", func(st *trust.State) ([]trust.Entry, error) {
		e, err := by.keys.AddAnchor(st, a.id(), []string{"/ip4/127.0.0.1/tcp/1"}, a.name, a.w.now)
		return []trust.Entry{e}, err
	})
}

// admit has the anchor take up the practice, of which it holds nothing.
func (a *anchor) admit(by *device) {
	a.by, a.twin, a.after, a.armed = by, storage.NewTwin(), nil, nil
	clear(a.told)
	a.forget()
}

// forget has nothing held against it that it held before.
func (a *anchor) forget() {
	a.took, a.members = map[chunk.ID]*entry{}, nil
	clear(a.checked)
}

// open starts the anchor on what is durable.
func (a *anchor) open() {
	a.busy = "open"
	a.twin.OnCommit(func(stage storage.Stage, _ int) error { return a.onCommit(stage, a.holder()) })
	share, err := storage.OpenShare(a.twin, anchorPart)
	if err != nil {
		a.w.fail("I-sound", "the anchor's share does not open: %v", err)
		return
	}
	k := kept.New(kept.Config{
		ID: a.practice, By: a.by.id(), Self: a, Store: share,
		Now:     func() time.Time { return a.w.now.Add(a.skew) },
		Changed: a.changed, Lost: func() { a.renew = true },
	})
	err = k.Open(a.w.ctx)
	if a.after == nil && err != nil {
		a.w.fail("I-sound", "the anchor does not open: %v", err)
		return
	}
	a.kept, a.share = k, share
	if !a.survived() {
		return
	}
	clear(a.checked)
	a.checkTold(k)
	a.checkKept("after a start")
}

// live has things happen to the anchor from time to time, and gives it its turns.
func (a *anchor) live() {
	w := a.w
	w.after(time.Duration(500+a.rng.IntN(6000))*time.Millisecond, true, func() {
		if a.kept != nil {
			switch n := a.rng.IntN(100); {
			case n < 50:
				a.settle()
			default:
				a.fault()
			}
		}
		a.live()
	})
}

// fault has something go wrong at the anchor.
func (a *anchor) fault() {
	w := a.w
	switch n := a.rng.IntN(100); {
	case n < 40:
		stages := []storage.Stage{storage.Begin, storage.Applied, storage.Synced}
		a.armed = &fault{stage: stages[a.rng.IntN(3)], commits: a.rng.IntN(4), crash: a.rng.IntN(2) == 0}
	case n < 50:
		w.note("anchor: power cut between two commits")
		a.fall()
	case n < 58:
		a.copy = a.twin.Copy()
		w.note("anchor: its disk is copied")
	case n < 64:
		if a.copy != nil {
			w.note("anchor: goes back to the copy of its disk")
			w.report.AnchorBack++
			a.startOn(a.copy.Copy(), a.by)
		}
	case n < 68:
		a.wipe()
	case n < 76:
		a.bound(a.share.Held().Bytes + uint64(a.rng.IntN(4000)))
	case n < 84:
		a.bound(0)
	case n < 90:
		a.skew += time.Duration(a.rng.Int64N(int64(4*time.Hour))) - time.Hour
	default:
		a.forge()
	}
}

// wipe has the anchor lose its disk and admit the practice anew.
func (a *anchor) wipe() {
	if by := a.w.admitter(); by.replica != nil {
		a.w.note("anchor: wiped, and admits the practice anew")
		a.w.report.AnchorWiped++
		a.startOn(storage.NewTwin(), by)
	}
}

// forked has the anchor perhaps get the histories of a log anew that has several since now, in another order than the devices.
func (a *anchor) forked() {
	if a != nil && a.rng.IntN(2) == 0 {
		a.w.after(time.Duration(a.rng.IntN(10000))*time.Millisecond, true, a.wipe)
	}
}

// bound has the practice's share end at so many bytes; 0: nowhere.
func (a *anchor) bound(bytes uint64) {
	a.share.Limit(storage.Limits{Bytes: bytes})
	a.w.note("anchor: takes %d bytes", bytes)
	a.w.net.pumpDevice(a.w, a)
}

// startOn starts the anchor on another disk. What it alone held may be gone.
func (a *anchor) startOn(twin *storage.Twin, by *device) {
	w := a.w
	a.stop()
	w.net.breakOff(w, a)
	a.twin, a.by, a.after, a.armed = twin, by, nil, nil
	for _, e := range w.ledger.entries {
		if !w.elsewhere(nil, e) { // nor has the anchor any more
			e.mayBeGone = true
		}
	}
	clear(a.told)
	a.forget()
	a.open()
	w.connectAll()
}

func (a *anchor) stop() { a.kept, a.share = nil, nil }

// survived takes the consequences of what just happened in a commit.
func (a *anchor) survived() bool {
	if a.crashed() {
		a.fall()
		return false
	}
	return true
}

// fall stops the anchor as a crash does. It comes back after a while.
func (a *anchor) fall() {
	w := a.w
	a.disk.fall()
	a.stop()
	w.net.dropDevice(w, a)
	w.after(time.Duration(10+a.rng.IntN(15000))*time.Millisecond, false, func() {
		if a.kept == nil {
			a.restart()
		}
	})
}

func (a *anchor) restart() {
	a.w.note("anchor restarts")
	a.open()
	a.w.connectAll()
}

// settle gives the anchor a turn of deletion, and checks that it deleted nothing too early.
func (a *anchor) settle() (more bool) {
	w := a.w
	before, deleted := a.skipped(), a.kept.Deleted()
	a.lookThrough()
	a.busy = "settle"
	more, err := a.kept.Settle(w.ctx, w.now.Add(a.skew), a.grace)
	if !a.survived() {
		w.note("anchor: settles: unknown")
		return false
	}
	if err != nil && !errors.Is(err, errDisk) {
		w.fail("I-sound", "the anchor cannot settle: %v", err)
		return false
	}
	n := a.kept.Deleted() - deleted
	w.report.AnchorDeleted += int(n)
	if n > 0 {
		w.note("anchor: deletes %d chunks", n)
		for id, place := range a.skipped() {
			if _, ok := before[id]; !ok {
				w.checkWords(a.name, a.kept.State(), place)
			}
		}
		clear(a.checked)
		a.checkKept("after a turn")
	}
	return more && err == nil
}

// bring has a device hear of those that it does not know any more since its disk went back: they bring their membership log, as who knocks does.
func (a *anchor) bring(to *device) {
	w := a.w
	for _, d := range w.devices {
		if w.cfg.Removals || d.replica == nil || to.replica == nil || to.belongs(d) {
			continue
		}
		belongs, err := to.replica.Readmit(w.ctx, d.id(), d.replica.EntriesSince(nil))
		if err != nil || !belongs {
			w.fail("I-members", "%s does not let %s in again: %v", to.name, d.name, err)
			return
		}
		w.note("%s hears of %s", to.name, d.name)
		w.heard(to, d)
	}
}

// settleAll gives the anchor all the turns that it wants, as hours later.
func (a *anchor) settleAll() {
	if a.kept == nil {
		return
	}
	a.skew += 2 * kept.JudgeEvery
	for a.w.failure == nil && a.kept != nil && a.settle() {
	}
}

// forge has somebody who is let in give the anchor what a device wrote with one bit changed.
func (a *anchor) forge() {
	w := a.w
	d := w.devices[a.rng.IntN(len(w.devices))]
	st := a.kept.State()
	if d.replica == nil || st == nil || !a.kept.Admits(d.id()) {
		return
	}
	for _, s := range d.replica.State().Scopes() {
		v := d.replica.Vector(s.ID)
		logs := v.Logs()
		if len(logs) == 0 {
			continue
		}
		log := logs[a.rng.IntN(len(logs))]
		items, err := d.replica.Chunks(s.ID, log, a.rng.Uint64N(v[log].Counter), 1)
		if err != nil || len(items) == 0 {
			continue
		}
		b := bytes.Clone(items[a.rng.IntN(len(items))].Bytes)
		b[a.rng.IntN(len(b))] ^= 1 << a.rng.IntN(8)
		a.busy = "take what is forged"
		w.note("anchor: is given what is forged")
		_ = a.kept.Arrive(w.ctx, d.id(), [][]byte{b}) // an error ends the session of who sent it
		if !a.survived() {
			return
		}
	}
}

// keeper is what the anchor's sessions read and write.
type keeper struct {
	*kept.Practice
	a *anchor
}

// Acked implements session.Replica.
func (k keeper) Acked(ctx context.Context, from trust.DeviceID, ack session.Ack) error {
	k.a.w.checkAck(from, ack)
	return k.Practice.Acked(ctx, from, ack)
}

// Chunks implements session.Replica.
func (k keeper) Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) ([]session.Item, error) {
	list, err := k.Practice.Chunks(scope, log, after, maxBytes)
	k.a.verified(scope, list)
	return list, err
}

// Beyond implements session.Replica.
func (k keeper) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) ([]session.Item, error) {
	list, err := k.Practice.Beyond(scope, log, has, maxBytes)
	k.a.verified(scope, list)
	return list, err
}

// Device and SignAck are the anchor's identity.
func (a *anchor) Device() trust.DeviceID { return trust.DeviceID(a.key.Public().(ed25519.PublicKey)) }

// SignAck signs what the anchor says that it holds.
func (a *anchor) SignAck(message []byte) []byte {
	return ed25519.Sign(a.key, trust.SigningInput(trust.ContextAck, message))
}

// What of the anchor the network knows.

func (a *anchor) id() trust.DeviceID { return a.Device() }
func (a *anchor) called() string     { return a.name }
func (a *anchor) claims()            { a.tell(a.kept) }
func (a *anchor) begins(what string) { a.busy = what }
func (a *anchor) admits(o node) bool { return a.kept.Admits(o.id()) }

func (a *anchor) holder() holder {
	if a.kept == nil {
		return nil
	}
	return a.kept
}

func (a *anchor) config(node) session.Config {
	return session.Config{Replica: keeper{a.kept, a}, Blind: true, Schema: session.Range{Min: 1, Max: 1<<16 - 1}, Full: func() session.Full {
		if a.share != nil && a.share.UsedUp() {
			return session.UsedUp
		}
		return session.NotFull
	}}
}

// changed follows the membership as an anchor does: when somebody does not belong any more all its sessions begin anew.
func (a *anchor) changed() {
	var now []trust.DeviceID
	for _, m := range a.kept.State().Members() {
		now = append(now, m.Device)
	}
	for _, d := range a.members {
		a.renew = a.renew || !slices.Contains(now, d)
	}
	a.members = now
}

func (a *anchor) heard(from node, res session.Result) {
	if len(res.Arrived) > 0 {
		a.w.note("anchor takes chunks from %s", from.called())
		a.lookThrough()
	}
	if res.Entries {
		a.w.note("anchor takes entries from %s", from.called())
		a.w.relink()
	}
	if a.renew {
		a.renew = false
		a.w.net.dropDevice(a.w, a)
	}
}

func (a *anchor) describe() string {
	if a.kept == nil {
		return "down"
	}
	if a.kept.State() == nil {
		return "it holds nothing"
	}
	return fmt.Sprintf("an anchor %v, used up %v", a.kept.IsAnchor(), a.share.UsedUp())
}

func (w *World) isAnchor(n node) bool {
	a, ok := n.(*anchor)
	return ok && a == w.anchor
}

// linkAnchor lays the links to the anchor that devices lack.
func (w *World) linkAnchor() {
	if w.anchor == nil {
		return
	}
	for _, d := range w.devices {
		if !w.net.linked(w.anchor, d) {
			w.net.links = append(w.net.links, &link{ends: [2]node{d, w.anchor}})
		}
	}
}

// parties lists who must agree at rest.
func (w *World) parties() (list []node) {
	for _, d := range w.remaining() {
		list = append(list, d)
	}
	if w.anchor != nil && w.anchor.inStanding() {
		list = append(list, w.anchor)
	}
	return list
}

// mend has the anchor be one again that the practice can use.
func (a *anchor) mend() {
	w := a.w
	a.armed = nil
	by := w.admitter()
	a.nameIn(by)
	if a.kept == nil {
		a.restart()
	}
	if a.kept == nil || w.failure != nil {
		return
	}
	a.bound(0)
	a.bring(by)
	if !slices.ContainsFunc(w.remaining(), func(d *device) bool { return a.kept.Admits(d.id()) }) {
		w.note("anchor: admits the practice anew, since nobody can bring the membership log")
		a.startOn(storage.NewTwin(), by)
	}
}
