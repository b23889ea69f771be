package replica_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// settleAll lets every pair talk and apply until nothing changes any more.
func settleAll(t *testing.T, devices ...*device) {
	t.Helper()
	for range 4 {
		for i, a := range devices {
			for _, b := range devices[:i] {
				sync(t, b, a)
			}
		}
	}
}

// sameEverywhere fails unless all devices show and hold the same.
func sameEverywhere(t *testing.T, devices ...*device) {
	t.Helper()
	a := devices[0]
	for _, b := range devices[1:] {
		if x, y := a.export(), b.export(); x != y {
			t.Errorf("%s and %s differ:\n%s\n%s", a.name, b.name, x, y)
		}
		x, y := fmt.Sprint(a.conflicts()), fmt.Sprint(b.conflicts())
		if x != y {
			t.Errorf("conflicts of %s and %s differ:\n%s\n%s", a.name, b.name, x, y)
		}
		ha, hb := a.Hello(b.Device()), b.Hello(a.Device())
		for i := range ha.Scopes {
			if ha.Scopes[i] != hb.Scopes[i] {
				t.Errorf("%s and %s hold or applied different chunks: %+v, %+v", a.name, b.name, ha.Scopes[i], hb.Scopes[i])
			}
		}
		if x, y := heldBy(a), heldBy(b); x != y {
			t.Errorf("held by %s: %s\nheld by %s: %s", a.name, x, b.name, y)
		}
	}
}

func heldBy(d *device) string {
	d.t.Helper()
	list, err := d.Held(1000)
	must(d.t, err)
	var b strings.Builder
	for _, h := range list {
		fmt.Fprintf(&b, "\n  %v %v %s", h.Chunk, h.State, h.Reason)
	}
	return b.String()
}

// rollBack starts a device on what its store held earlier, with the keys that it had then.
func (d *device) rollBack(to *storage.Twin, keys *keyring.Keyring) *device {
	d.t.Helper()
	back := &device{t: d.t, keys: keys, twin: to, name: d.name + " rolled back"}
	back.open()
	return back
}

// TestRolledBack takes a machine back, keys and all, writes on it what meets what was written before, and lets it see its
// peers again: it begins a new log, and nothing that anybody wrote is lost from view.
func TestRolledBack(t *testing.T) {
	for name, more := range map[string]int{"shorter": 1, "of equal length": 3, "longer": 6} {
		t.Run(name, func(t *testing.T) {
			p := practice(t, "surgery", "branch", "home")
			a, b, c := p[0], p[1], p[2]
			a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
			a.put(`{"resourceType":"Patient","id":"p2","gender":"male"}`, false)
			settleAll(t, a, b, c)
			was := a.twin.Copy()
			a.edit("Patient/p1", func(m map[string]any) { m["birthDate"] = "1961-04-17" })
			a.edit("Patient/p2", func(m map[string]any) { m["birthDate"] = "1950-01-01" })
			a.edit("Patient/p1", func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": "before"} })
			sync(t, a, b)
			b.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" }) // builds on what is going to be contested
			old := a.Replica.OwnLogs()

			a = a.rollBack(was, a.keys)
			for i := range more {
				a.edit("Patient/p1", func(m map[string]any) { m["telecom"] = []any{map[string]any{"value": fmt.Sprint("after ", i)}} })
			}
			sync(t, a, c) // who knows nothing of the other history
			settleAll(t, a, b, c)
			sameEverywhere(t, a, b, c)
			if logs := a.OwnLogs(); len(logs) != len(old)+1 || logs[len(logs)-1].Reason != replica.LogPeer {
				t.Errorf("logs %+v", logs)
			}
			shown := a.get("Patient/p1")
			for _, want := range []string{"1961-04-17", "before", `"de"`, fmt.Sprint("after ", more-1)} {
				if !strings.Contains(shown, want) && !strings.Contains(fmt.Sprint(a.conflicts()), want) {
					t.Errorf("%s is neither shown nor listed: %s %v", want, shown, a.conflicts())
				}
			}
			if got := a.get("Patient/p2"); !strings.Contains(got, "1950-01-01") {
				t.Errorf("the other patient: %s", got)
			}
			if st := a.Status(); st.Quarantined+st.Parked+st.Unapplied > 0 || st.NotElsewhere > 0 {
				t.Errorf("status %+v, held %s", st, heldBy(a))
			}
			if held := heldBy(c); strings.Count(held, "settled") < 1 || !strings.Contains(held, "written anew as") {
				t.Errorf("held at %s: %s", c.name, held)
			}
			for _, d := range []*device{a, b, c} {
				was := d.export()
				d.crash()
				if d.applyAll(); d.export() != was {
					t.Errorf("%s shows something else after a restart", d.name)
				}
			}
			settleAll(t, a, b, c)
			sameEverywhere(t, a, b, c)
		})
	}
}

// TestWrittenAnewTwice runs a device twice, unnoticed. Both learn at once which of two changes lost its place, and each writes
// it anew: what it said is there once, everywhere, and is no conflict.
func TestWrittenAnewTwice(t *testing.T) {
	var secrets bytes.Buffer
	_, err := io.CopyN(&secrets, rand.Reader, 4*32+16)
	must(t, err)
	again := func() *keyring.Keyring {
		keys, err := keyring.Create("", io.MultiReader(bytes.NewReader(secrets.Bytes()), rand.Reader))
		must(t, err)
		return keys
	}
	keys := again()
	e, _, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "surgery", Device: "surgery", Now: time.Now()})
	must(t, err)
	a := start(t, keys, "surgery", []trust.Entry{e})
	b := admit(t, a, "branch")
	a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`, false)
	sync(t, a, b)
	twin := a.rollBack(a.twin.Copy(), again())
	a.edit("Patient/p1", func(m map[string]any) {
		m["gender"], m["telecom"] = "female", []any{map[string]any{"value": "one"}}
	})
	twin.edit("Patient/p1", func(m map[string]any) {
		m["language"], m["address"] = "de", []any{map[string]any{"city": "Berlin", "line": []any{"a", "b"}}}
	})
	ofA, ofTwin := a.ownLog(), twin.ownLog()
	a.take(b, ofTwin...)
	twin.take(b, ofA...)
	for _, d := range []*device{a, twin} {
		if len(d.OwnLogs()) != 2 || len(d.ownLog()) != 1 {
			t.Fatalf("%s has %d logs, and wrote %d chunks anew", d.name, len(d.OwnLogs()), len(d.ownLog()))
		}
	}
	settleAll(t, a, b, twin)
	sameEverywhere(t, a, b, twin)
	got := b.get("Patient/p1")
	for _, want := range []string{"female", "one", `"de"`, "Berlin"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%s stands %d times in %s", want, strings.Count(got, want), got)
		}
	}
	if list := b.conflicts(); len(list) > 0 || b.Status().Quarantined > 0 {
		t.Errorf("conflicts %+v, held %s", list, heldBy(b))
	}
}
