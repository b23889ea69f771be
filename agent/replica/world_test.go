package replica_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// device is a replica over an in-memory store.
type device struct {
	*replica.Replica
	t    *testing.T
	keys *keyring.Keyring
	twin *storage.Twin
	name string
	now  func() time.Time // nil: the time of day

	compaction replica.Compaction
}

// practice founds a practice and admits as many devices as there are names.
func practice(t *testing.T, names ...string) []*device {
	t.Helper()
	var devices []*device
	for i, name := range names {
		if i > 0 {
			devices = append(devices, admit(t, devices[0], name))
			continue
		}
		keys, err := keyring.Create("", nil)
		must(t, err)
		e, _, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: name, Device: name, Now: time.Now()})
		must(t, err)
		devices = append(devices, start(t, keys, name, []trust.Entry{e}))
	}
	return devices
}

// admit has a device of the practice add another.
func admit(t *testing.T, by *device, name string) *device {
	t.Helper()
	keys, err := keyring.Create("", nil)
	must(t, err)
	return admitWith(t, by, keys, name)
}

func admitWith(t *testing.T, by *device, keys *keyring.Keyring, name string) *device {
	t.Helper()
	raw, err := by.Admit(t.Context(), func(st *trust.State) (trust.Entry, error) {
		return by.keys.Admit(st, keyring.Newcomer{
			Device: keys.Device(), HPKE: keys.HPKEPublic(), DeviceName: name, SiteName: name, Now: time.Now(),
		})
	})
	must(t, err)
	var entries []trust.Entry
	for _, b := range raw {
		e, err := trust.ParseEntry(b)
		must(t, err)
		entries = append(entries, e)
	}
	return start(t, keys, name, entries)
}

// start opens a new device on a membership log.
func start(t *testing.T, keys *keyring.Keyring, name string, entries []trust.Entry) *device {
	t.Helper()
	d := &device{t: t, keys: keys, twin: storage.NewTwin(), name: name}
	must(t, replica.Adopt(t.Context(), d.twin, entries))
	d.open()
	return d
}

func (d *device) open() {
	d.t.Helper()
	e := engine.NewLocal()
	d.t.Cleanup(func() { _ = e.Close() })
	r, err := replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e, Quorum: votes{}, Now: d.now, Compaction: d.compaction})
	must(d.t, err)
	d.Replica = r
}

// crash loses what was not durable and starts anew.
func (d *device) crash() {
	d.t.Helper()
	d.twin = d.twin.Crash()
	d.open()
}

// at starts a device anew whose clock says what now returns.
func (d *device) at(now func() time.Time) {
	d.t.Helper()
	d.now = now
	d.crash()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sync runs a session between two devices until neither has anything to say, and applies what arrived.
func sync(t *testing.T, a, b *device) (session.Status, session.Status) {
	t.Helper()
	now := time.Now()
	sa := session.New(session.Config{Self: a.Device(), Peer: b.Device(), Replica: a.Replica})
	sb := session.New(session.Config{Self: b.Device(), Peer: a.Device(), Replica: b.Replica})
	sa.Start(now)
	sb.Start(now)
	for range 10_000 {
		busy := false
		for _, x := range []struct {
			from, to *session.Session
			into     *device
		}{{sa, sb, b}, {sb, sa, a}} {
			f, err := x.from.Next(t.Context(), now)
			must(t, err)
			if f != nil {
				busy = true
				_, err := x.to.Handle(t.Context(), now, f)
				must(t, err)
			}
		}
		for _, d := range []*device{a, b} {
			more, err := d.Apply(t.Context())
			must(t, err)
			busy = busy || more
		}
		for _, id := range a.State().Scopes() {
			sa.Applied(now, id.ID)
			sb.Applied(now, id.ID)
		}
		now = now.Add(time.Millisecond)
		if !busy {
			return sa.Status(), sb.Status()
		}
	}
	t.Fatal("the session does not come to rest")
	panic("unreachable")
}

func (d *device) put(body string, force bool) api.Written {
	d.t.Helper()
	w, err := d.Put(d.t.Context(), "user of "+d.name, json.RawMessage(body), force)
	must(d.t, err)
	return w
}

func (d *device) get(ref string) string {
	d.t.Helper()
	r, err := d.Get(d.t.Context(), parseRef(d.t, ref), "")
	must(d.t, err)
	return string(r.JSON)
}

func parseRef(t *testing.T, s string) api.Ref {
	t.Helper()
	r, err := api.ParseRef(s)
	must(t, err)
	return r
}

func (d *device) export() string {
	d.t.Helper()
	var b bytes.Buffer
	must(d.t, d.Export(context.Background(), &b, api.ExportOptions{}))
	return b.String()
}

func (d *device) conflicts() []api.Conflict {
	d.t.Helper()
	list, err := d.Conflicts(d.t.Context())
	must(d.t, err)
	return list
}

// edit changes a resource the way a form does: read, change, write with the version that was read.
func (d *device) edit(ref string, change func(map[string]any)) api.Written {
	d.t.Helper()
	var obj map[string]any
	dec := json.NewDecoder(bytes.NewReader([]byte(d.get(ref))))
	dec.UseNumber()
	must(d.t, dec.Decode(&obj))
	change(obj)
	b, err := json.Marshal(obj)
	must(d.t, err)
	return d.put(string(b), false)
}

// refill puts a new store in the place of the device's, filled with those pairs of the old one that keep lets through.
func (d *device) refill(keep func(key []byte) bool) replica.Repair {
	d.t.Helper()
	last := chunk.CurrentLog(d.keys)
	must(d.t, d.keys.MintLog())
	fresh := storage.NewTwin()
	f := replica.NewRefill(fresh)
	var heads []storage.Head
	must(d.t, d.twin.View(func(v storage.Reader) error {
		if err := v.Scan(storage.LogHead.All(), nil, func(key, value []byte) error {
			heads = append(heads, storage.Head{Key: bytes.Clone(key), Value: bytes.Clone(value)})
			return nil
		}); err != nil {
			return err
		}
		for _, k := range replica.SalvagedKinds() {
			if err := v.Scan(k.All(), nil, func(key, value []byte) error {
				if !keep(key) {
					return nil
				}
				return f.Take(d.t.Context(), key, value)
			}); err != nil {
				return err
			}
		}
		return nil
	}))
	rep, err := f.Finish(d.t.Context(), time.Now(), replica.Damaged{Folder: "aside", Reason: "test", Heads: heads, Device: d.Device(), Log: last})
	must(d.t, err)
	d.twin = fresh
	d.open()
	for more := true; more; {
		more, err = d.Apply(d.t.Context())
		must(d.t, err)
	}
	return rep
}
