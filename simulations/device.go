package simulations

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// device is one installation: what survives a crash (twin, secrets) and what does not (replica, engine, sessions).
type device struct {
	disk
	index   int
	secrets [144]byte // what keyring.Create reads first, so that a restart has the same keys and knows nothing else
	random  io.Reader
	keys    *keyring.Keyring
	engine  crdt.Engine
	replica *replica.Replica // nil: it is down

	skew     time.Duration // of its clock
	slow     time.Duration // the longest that the applier keeps arrived chunks waiting
	applying bool          // it has been woken
	copy     *copied       // of its disk; nil: none was made
	wentBack bool          // it went on from a copy of its disk, or another one does
	pending  *intent       // the write that is under way, or was when the device crashed

	generation uint64 // counts what may change what is shown
	digested   uint64 // generation of digest
	digest     string // of what is shown

	rotating bool         // it will see after the epochs
	dueOf    *trust.State // what is due by a state
	dueKeys  int
	dueNow   bool
}

// found makes the practice: the first device founds it and admits the others.
func (w *World) found() {
	for range w.cfg.Devices {
		if w.join(); len(w.devices) == 1 {
			w.scheduleAnchor()
		}
	}
}

// join adds a device to the practice.
func (w *World) join() *device {
	i := len(w.devices)
	stream := rand.NewChaCha8([32]byte{byte(w.cfg.Seed), byte(w.cfg.Seed >> 8), byte(w.cfg.Seed >> 16), byte(w.cfg.Seed >> 24), byte(i), 1})
	d := &device{disk: newDisk(w, string(rune('A'+i)), storage.NewTwin()), index: i, random: stream}
	_, _ = io.ReadFull(stream, d.secrets[:])
	d.slow, d.skew = w.pace(), w.between(-48*time.Hour, 48*time.Hour)
	if err := d.unlock(); err != nil {
		w.fail("I-sound", "create keyring: %v", err)
		return nil
	}
	var entries []trust.Entry
	if i == 0 {
		e, _, err := d.keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "site A", Device: "A", Now: w.now})
		if err != nil {
			w.fail("I-sound", "found practice: %v", err)
			return nil
		}
		entries = append(entries, e)
	} else {
		var err error
		if entries, err = w.admit(d); err != nil {
			w.fail("I-sound", "admit device: %v", err)
			return nil
		}
	}
	if err := replica.Adopt(w.ctx, d.twin, entries); err != nil {
		w.fail("I-sound", "adopt membership: %v", err)
		return nil
	}
	w.devices = append(w.devices, d)
	d.open()
	return d
}

// pace is how long an applier keeps chunks waiting at most.
func (w *World) pace() time.Duration {
	return []time.Duration{5 * time.Millisecond, 300 * time.Millisecond, 20 * time.Second}[w.rng.IntN(3)]
}

// admit has the first device add d and returns the membership log.
func (w *World) admit(d *device) ([]trust.Entry, error) {
	by := w.admitter()
	role := trust.RoleMember
	if w.cfg.Removals && len(w.devices) < administratorsAtStart {
		role = trust.RoleAdmin
	}
	raw, err := by.replica.Admit(w.ctx, func(st *trust.State) (trust.Entry, error) {
		return by.keys.Admit(st, keyring.Newcomer{
			Device: d.keys.Device(), HPKE: d.keys.HPKEPublic(), Role: role, DeviceName: d.name, SiteName: "site " + d.name, Now: w.now,
		})
	})
	if err != nil {
		return nil, err
	}
	var entries []trust.Entry
	for _, b := range raw {
		e, err := trust.ParseEntry(b)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// admitter is the device that admits others: the first, or in a world with removals the first that still may.
func (w *World) admitter() *device {
	if admins := w.administrators(); w.cfg.Removals && len(admins) > 0 {
		for _, d := range admins {
			if !w.healed || slices.Contains(w.remaining(), d) {
				return d
			}
		}
	}
	return w.devices[0]
}

// unlock makes the keyring as a start of the program does: with the keys of the device and nothing learnt.
func (d *device) unlock() (err error) {
	d.keys, err = keyring.Create("", io.MultiReader(bytes.NewReader(d.secrets[:]), d.random))
	return err
}

// open starts the replica on what is durable.
func (d *device) open() {
	d.busy = "open"
	d.engine = engine.NewLocal()
	d.twin.OnCommit(func(stage storage.Stage, _ int) error {
		if d.replica == nil {
			return d.onCommit(stage, nil)
		}
		return d.onCommit(stage, d.replica)
	})
	r, err := replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: d.engine, OpenOps: 2000,
		Compaction: replica.Compaction{Changes: 5, Idle: 10 * time.Second, Grace: time.Millisecond},
		Now:        func() time.Time { return d.w.now.Add(d.skew) }})
	if d.after == nil && err != nil {
		d.w.fail("I-sound", "%s does not open: %v", d.name, err)
		return
	}
	d.replica = r
	d.generation++
	if !d.survived() {
		return
	}
	clear(d.checked)
	d.checkTold(d.replica)
	d.w.ledger.read(d, nil)
	d.wakeApplier()
}

// survived takes the consequences of what just happened in a commit.
func (d *device) survived() bool {
	if d.crashed() {
		d.fall()
		return false
	}
	return true
}

// fall stops the device as a crash does. It comes back after a while.
func (d *device) fall() {
	w := d.w
	d.disk.fall()
	d.keepNonce()
	d.stop()
	w.net.dropDevice(w, d)
	w.after(w.between(10*time.Millisecond, 20*time.Second), false, func() {
		if d.replica == nil {
			d.restart()
		}
	})
}

func (d *device) restart() {
	d.w.note("%s restarts", d.name)
	if err := d.unlock(); err != nil {
		d.w.fail("I-sound", "%s: keyring: %v", d.name, err)
		return
	}
	d.open()
	d.w.connectAll()
}

// stop frees what is in memory.
func (d *device) stop() {
	if d.engine != nil {
		_ = d.engine.Close()
	}
	d.engine, d.replica, d.applying = nil, nil, false
}

// wakeApplier has the applier run after a while.
func (d *device) wakeApplier() {
	if d.replica == nil || d.applying {
		return
	}
	d.applying = true
	r := d.replica
	d.w.after(d.w.between(time.Millisecond, d.slow+time.Millisecond), false, func() {
		if d.replica == r {
			d.applying = false
			d.apply()
		}
	})
}

// apply runs the applier once.
func (d *device) apply() {
	w := d.w
	d.busy = "apply"
	more, err := d.replica.Apply(w.ctx)
	d.generation++
	if !d.survived() {
		return
	}
	w.ledger.read(d, nil) // what the device wrote anew
	if err != nil {
		if !errors.Is(err, errDisk) {
			w.fail("I-sound", "%s cannot apply: %v", d.name, err)
		}
		more = true
	}
	if more {
		d.wakeApplier()
		w.note("%s applies", d.name)
	}
	for _, s := range d.replica.State().Scopes() {
		for _, e := range w.net.ends(d) {
			e.session().Applied(w.now, s.ID)
		}
	}
	w.net.pumpDevice(w, d)
}
