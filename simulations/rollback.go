package simulations

import (
	"maps"
	"math/rand/v2"
	"time"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// copied is a device's disk as it was: its store and its keys.
type copied struct {
	twin    *storage.Twin
	secrets [144]byte
	read    map[place]uint64 // how far the ledger had read its logs then
}

// keep copies a device's disk, as a backup or a snapshot of the machine does.
func (d *device) keep() {
	if d.replica == nil {
		return
	}
	d.keepNonce()
	c := &copied{twin: d.twin.Copy(), secrets: d.secrets, read: map[place]uint64{}}
	for at, n := range d.w.ledger.logs {
		if at.device == d {
			c.read[at.place] = n
		}
	}
	d.copy = c
	d.w.note("%s: its disk is copied", d.name)
}

// keepNonce notes the log of the keyring, which outlives a restart.
func (d *device) keepNonce() {
	if d.keys != nil {
		nonce := d.keys.LogNonce()
		copy(d.secrets[len(d.secrets)-len(nonce):], nonce[:])
	}
}

// goBack starts a device on the copy of its disk. Noticed: it knows by what stands outside the folder; else only peers can
// tell. What nobody else holds goes with the disk.
func (w *World) goBack(d *device, noticed bool) {
	c := d.copy
	if c == nil || d.replica == nil {
		return
	}
	w.report.Rollbacks++
	w.note("%s goes back to the copy of its disk, noticed: %v", d.name, noticed)
	d.stop()
	w.net.breakOff(w, d)
	d.wentBack = true
	d.twin, d.secrets, d.after, d.armed, d.pending = c.twin.Copy(), c.secrets, nil, nil, nil
	for _, e := range w.ledger.entries {
		// Of others it was perhaps the last to hold what they wrote and lost in the same way.
		lost := e.device == d && e.counter > c.read[e.at] || e.device != d && !d.has(e.at.scope, e.at.log, e.counter, e.chunk)
		if lost && !w.elsewhere(d, e) {
			e.mayBeGone = true
		}
	}
	for at := range w.ledger.logs {
		if at.device == d {
			delete(w.ledger.logs, at)
		}
	}
	for at, n := range c.read {
		w.ledger.logs[writer{d, at}] = n
	}
	clear(d.told)
	w.startOn(d, noticed)
	if !noticed {
		w.goOn(d)
		w.anchor.forked()
	}
}

// goOn has the users of a device write before it meets anybody: twice what was written already, in its log and its documents.
func (w *World) goOn(d *device) {
	for range w.rng.IntN(5) {
		if d.replica != nil {
			w.edit(d)
		}
	}
}

// startOn starts a device on a disk that it may not be the only one to have.
func (w *World) startOn(d *device, noticed bool) {
	if err := d.unlock(); err != nil {
		w.fail("I-sound", "%s: keyring: %v", d.name, err)
		return
	}
	if noticed {
		if err := d.keys.MintLog(); err != nil {
			w.fail("I-sound", "%s: new log: %v", d.name, err)
			return
		}
		d.keepNonce()
	}
	d.open()
	w.connectAll()
}

// elsewhere reports whether another device, or the anchor, holds what an entry wrote.
func (w *World) elsewhere(d *device, e *entry) bool {
	for _, o := range w.devices {
		if o != d && o.has(e.at.scope, e.at.log, e.counter, e.chunk) {
			return true
		}
	}
	return w.anchor != nil && w.anchor.has(e.at.scope, e.at.log, e.counter, e.chunk)
}

// double starts a copy of a device's disk beside it, with the same keys: a copied folder, which is noticed, or a copied
// machine, which is not.
func (w *World) double(d *device, noticed bool) {
	if d.replica == nil || len(w.devices) >= maxDevices {
		return
	}
	w.report.Clones++
	d.keepNonce()
	i := len(w.devices)
	stream := rand.NewChaCha8([32]byte{byte(w.cfg.Seed), byte(w.cfg.Seed >> 8), byte(w.cfg.Seed >> 16), byte(w.cfg.Seed >> 24), byte(i), 2})
	c := &device{disk: newDisk(w, d.name+"'", d.twin.Copy()), index: i, random: stream, secrets: d.secrets}
	c.wentBack, d.wentBack = true, true
	c.slow, c.skew = w.pace(), d.skew+w.between(-time.Hour, time.Hour)
	for at, n := range maps.Clone(w.ledger.logs) {
		if at.device == d {
			w.ledger.logs[writer{c, at.place}] = n
		}
	}
	w.note("%s is started twice, noticed: %v", d.name, noticed)
	w.devices = append(w.devices, c)
	w.startOn(c, noticed)
	if !noticed {
		w.goOn(c)
		w.goOn(d)
		w.anchor.forked()
	}
}

// maxDevices bounds how many devices there are with their copies.
const maxDevices = 8

// checkLogs is I-log: nobody goes on writing a log of which they know another history.
func (d *device) checkLogs() {
	for _, s := range d.replica.State().Scopes() {
		if len(d.replica.Forks(s.ID)) == 0 {
			continue
		}
		if _, forked := d.replica.Forks(s.ID)[chunk.CurrentLog(d.keys)]; forked {
			d.w.fail("I-log", "%s writes a log of which it holds another history", d.name)
		}
	}
}

// judgeGone finds what went with a disk that went back: no device holds it.
func (w *World) judgeGone() {
	w.judgeRemoved()
	for _, e := range w.ledger.entries {
		if e.mayBeGone {
			e.gone = !w.elsewhere(nil, e)
		}
	}
}

// breakOff ends all connections of one, and with them everything that is on the way.
func (n *network) breakOff(w *World, d node) {
	for _, l := range n.links {
		if l.ends[0] == d || l.ends[1] == d {
			l.born++
			w.drop(l)
		}
	}
}
