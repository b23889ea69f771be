package replica_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// beforeCommit is a store that calls a hook before a commit, once.
type beforeCommit struct {
	storage.Store
	hook func()
}

func (s *beforeCommit) Commit(ctx context.Context, b *storage.Batch) error {
	if hook := s.hook; hook != nil {
		s.hook = nil
		hook()
	}
	return s.Store.Commit(ctx, b)
}

// TestRepairMeetsAnEdit has a user edit while a repair writes anew what memory knows: the log's head does not go back behind
// the edit, whose counter would be used again after a crash.
func TestRepairMeetsAnEdit(t *testing.T) {
	practice(t, "first")[0].put(bernd, false) // what is shared by all tests is not to belong to the bubble
	synctest.Test(t, func(t *testing.T) {
		a := practice(t, "only")[0]
		a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
		key := storage.Peer.Key(a.Device())
		must(t, a.PutSmall(t.Context(), key, []byte("anything")))
		if !a.twin.Corrupt(key) {
			t.Fatal("nothing to damage")
		}
		store := &beforeCommit{Store: a.twin}
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		r, err := replica.Open(replica.Config{Store: store, Keyring: a.keys, Engine: e})
		must(t, err)
		done := make(chan error, 1)
		store.hook = func() {
			go func() {
				_, err := r.Put(t.Context(), "user", json.RawMessage(`{"resourceType":"Patient","id":"p2","gender":"male"}`), false)
				done <- err
			}()
			synctest.Wait()
		}
		_, err = r.Verify(t.Context(), api.VerifyOptions{Repair: true}, func(api.VerifyProgress) {})
		must(t, err)
		must(t, <-done)
		a.crash()
		a.put(`{"resourceType":"Patient","id":"p3","gender":"other"}`, false)
		if rep := a.verify(false); !rep.Clean {
			t.Errorf("%+v", rep.Findings)
		}
		fresh := admit(t, a, "newcomer")
		sync(t, a, fresh)
		if got, want := fresh.export(), a.export(); got != want || !strings.Contains(got, "p2") {
			t.Errorf("a newcomer gets %s of %s", got, want)
		}
	})
}

// TestPutSentAgain sends an edit once more, as a client does whose answer was lost: it says what it said once.
func TestPutSentAgain(t *testing.T) {
	a := practice(t, "surgery")[0]
	a.put(`{"resourceType":"Condition","id":"c1","subject":{"reference":"Patient/p1"},"note":[{"id":"n1","text":"pain"}],"category":[{"text":"a"}]}`, false)
	body := strings.Replace(a.get("Condition/c1"), `"pain"`, `"pain in the left knee"`, 1)
	body = strings.Replace(body, `{"text":"a"}`, `{"text":"a"},{"text":"b"}`, 1)
	a.put(body, false)
	want := a.get("Condition/c1")
	w := a.put(body, false)
	got := a.get("Condition/c1")
	strip := func(s string) string {
		i := strings.Index(s, `"meta"`)
		j := strings.Index(s[i:], "}")
		return s[:i] + s[i+j:]
	}
	if strip(got) != strip(want) || w.Conflicts != 0 {
		t.Errorf("%+v: %s instead of %s", w, got, want)
	}
}

// TestImportKeepsADecisionBetweenDocuments imports once more what a person decided against: the decision stands or is asked for
// again, and is not undone unseen.
func TestImportKeepsADecisionBetweenDocuments(t *testing.T) {
	for _, shown := range []bool{true, false} {
		t.Run(fmt.Sprint(shown), func(t *testing.T) { importKeepsADecision(t, shown) })
	}
}

func importKeepsADecision(t *testing.T, shown bool) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	imp := func(d *device, body string) {
		t.Helper()
		_, err := d.Import(t.Context(), "importer", api.ImportBatch{Resources: []json.RawMessage{json.RawMessage(body)}})
		must(t, err)
	}
	one, two := newWeight("2024-05-01", "70.50"), newWeight("2023-05-01", "81.00")
	imp(a, one)
	imp(b, two)
	sync(t, a, b)
	imp(a, one)
	imp(a, two)
	c := a.conflicts()
	if len(c) != 1 {
		t.Fatalf("conflicts %+v", c)
	}
	for choice, v := range c[0].Values {
		if bytes.Contains(v.Value, []byte("81.00")) == shown {
			_, err := a.Resolve(t.Context(), "decider", c[0].ID, api.Decision{Choose: &choice})
			must(t, err)
		}
	}
	chosen, other := "81.00", one
	if !shown {
		chosen, other = "70.50", two
	}
	imp(a, other)
	if c = a.conflicts(); len(c) == 0 {
		t.Fatalf("the decision for %s is undone unseen: %s", chosen, a.export())
	}
	for len(a.conflicts()) > 0 { // which are of single fields, and settled as before
		c := a.conflicts()[0]
		choice := 0
		for i, v := range c.Values {
			if bytes.Contains(v.Value, []byte(chosen)) || c.Path == "effective[x]" && bytes.Contains(v.Value, []byte("2023")) == shown {
				choice = i
			}
		}
		_, err := a.Resolve(t.Context(), "decider", c.ID, api.Decision{Choose: &choice})
		must(t, err)
	}
	imp(a, other) // which is known by now
	if !strings.Contains(a.export(), chosen) || len(a.conflicts()) != 0 {
		t.Errorf("the second decision is undone: %s", a.export())
	}
	_, err := a.Delete(t.Context(), "user", parseRef(t, "Observation/new"))
	must(t, err)
	imp(a, one)
	imp(a, two)
	if got := a.export(); got != "" {
		t.Errorf("a deleted resource came back by an old file: %s", got)
	}
	sync(t, a, b)
	alike(t, a, b)
}

// TestForgetSavedMeetsARepair: what a repair keeps that began since another was over is not forgotten with that one.
func TestForgetSavedMeetsARepair(t *testing.T) {
	a, want := damaged(t)
	a.corrupt(storage.DocumentsOf.Number())
	a.verify(true) // which begins a repair
	must(t, a.ForgetSaved(t.Context()))
	_, err := a.EndRepair(t.Context())
	must(t, err)
	_, err = a.SaveLost(t.Context())
	must(t, err)
	if got := a.export(); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
}

// TestRepairKeepsChunksOfWhoMayNotWriteNow has two administrators add one device apart, one of them as a reader, which then
// holds: a repair does not delete what it wrote before, which nobody would send again.
func TestRepairKeepsChunksOfWhoMayNotWriteNow(t *testing.T) {
	a := practice(t, "surgery")[0]
	add := func(by *device, keys *keyring.Keyring, role trust.Role, st *trust.State) trust.Entry {
		t.Helper()
		e, err := by.keys.Admit(st, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Role: role, DeviceName: "d",
			SiteName: "d", Now: time.Now()})
		must(t, err)
		must(t, a.AddEntries(t.Context(), by.Device(), [][]byte{e.Bytes()}))
		return e
	}
	newKeys := func() *keyring.Keyring {
		t.Helper()
		keys, err := keyring.Create("", nil)
		must(t, err)
		return keys
	}
	keysB, keysC := newKeys(), newKeys()
	add(a, keysB, trust.RoleAdmin, a.State())
	b := start(t, keysB, "branch", a.State().Entries())
	before := a.State()
	add(a, keysC, trust.RoleMember, before)
	c := start(t, keysC, "home", a.State().Entries())
	c.put(bernd, false)
	sync(t, a, c)
	want := a.export()
	late := add(b, keysC, trust.RoleReader, before)
	must(t, c.AddEntries(t.Context(), a.Device(), [][]byte{late.Bytes()}))
	for _, d := range []*device{a, c} {
		if d.State().MayWrite(c.Device(), clinical(t, d)) {
			t.Fatal("it may write still")
		}
		d.verify(true)
		if got := d.export(); got != want {
			t.Errorf("%s shows %q after a repair", d.name, got)
		}
		if n := len(d.Vector(clinical(t, d))); n != 1 {
			t.Errorf("%s holds %d logs after a repair", d.name, n)
		}
	}
}

// TestEventsOfAFolderThatWentBack: a client that goes on from a cursor of before the folder went back is told to read anew, also
// when there are as many events again, and does not miss what is written since.
func TestEventsOfAFolderThatWentBack(t *testing.T) {
	a := practice(t, "surgery")[0]
	a.put(bernd, false)
	was := a.twin.Copy()
	for i := range 5 {
		a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("196%d-01-01", i) })
	}
	last := a.Figures().Events
	a = a.rollBack(was, a.keys)
	gone := func() bool {
		t.Helper()
		err := a.Events(t.Context(), last, false, func(api.Event) error { return nil })
		e, ok := errors.AsType[*api.Error](err)
		return ok && e.Code == api.CodeGone
	}
	if !gone() {
		t.Error("a cursor that was not given yet is taken")
	}
	must(t, a.BeginLog(t.Context(), replica.LogRestored))
	for i := range 9 {
		a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("197%d-01-01", i) })
	}
	must(t, a.PruneEvents(t.Context()))
	if !gone() {
		t.Error("a cursor of a history that is gone is taken")
	}
	n := 0
	must(t, a.Events(t.Context(), 0, false, func(e api.Event) error {
		if e.Kind == "resource-changed" {
			n++
		}
		return nil
	}))
	if n != 9 {
		t.Errorf("%d of 9 edits are told of", n)
	}
}

// TestOlderKeyring puts the keyring back from a copy, but not the records: the log that it names was ended since, since a chunk of it is
// damaged, and is not written again. What is kept behind the gap would be written over.
func TestOlderKeyring(t *testing.T) {
	dir := t.TempDir()
	keys, err := keyring.Create(dir, nil)
	must(t, err)
	e, _, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "s", Device: "d", Now: time.Now()})
	must(t, err)
	a := start(t, keys, "surgery", []trust.Entry{e})
	for i := range 4 {
		a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"p%d","gender":"female"}`, i), false)
	}
	file := filepath.Join(dir, keyring.FileName)
	older, err := os.ReadFile(file)
	must(t, err)
	log := chunk.CurrentLog(keys)
	a.twin.Corrupt(storage.Chunk.Key(clinical(t, a), log, 2))
	_, err = a.Scrub(t.Context(), 0)
	must(t, err)
	chunks := func() map[string]string {
		t.Helper()
		found := map[string]string{}
		must(t, a.twin.View(func(v storage.Reader) error {
			return v.Scan(storage.Chunk.With2(clinical(t, a), log), nil, func(key, value []byte) error {
				found[string(key)] = string(value)
				return nil
			})
		}))
		return found
	}
	before := chunks()
	must(t, os.WriteFile(file, older, 0o600))
	a.keys, err = keyring.Open(dir, nil)
	must(t, err)
	if a.keys.Moved() || chunk.CurrentLog(a.keys) != log {
		t.Fatal("the keyring is not the older one")
	}
	a.crash()
	for i := range 4 {
		a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"q%d","gender":"male"}`, i), false)
	}
	if after := chunks(); len(before) != 3 || !maps.Equal(before, after) {
		t.Errorf("%d chunks of the old log became %d others", len(before), len(after))
	}
	if got := a.export(); strings.Count(got, "Patient") != 8 {
		t.Errorf("of 8 patients are shown: %s", got)
	}
}

// TestCompactionOfLongTexts: a document with more operations than a checkpoint may have stays as it is. Packed and deleted, it would
// be in quarantine for whoever joins later.
func TestCompactionOfLongTexts(t *testing.T) {
	a := practice(t, "surgery")[0]
	text := strings.Repeat("Rest and fluids. ", 3500)
	for i := range 5 {
		a.put(fmt.Sprintf(`{"resourceType":"Condition","id":"c%d","subject":{"reference":"Patient/p1"},"note":[{"text":"%s"}]}`, i, text), false)
	}
	for range 64 {
		a.edit("Condition/c0", func(o map[string]any) {
			o["clinicalStatus"] = map[string]any{"text": fmt.Sprint(time.Now().UnixNano())}
		})
	}
	_, err := a.Compact(t.Context(), true)
	must(t, err)
	fresh := admit(t, a, "newcomer")
	sync(t, a, fresh)
	alike(t, a, fresh)
}

// TestLogHeadThatLiesBack: chunks of this device's log that are stored beyond the log's head are not written over.
func TestLogHeadThatLiesBack(t *testing.T) {
	a := practice(t, "surgery")[0]
	a.put(bernd, false)
	key := storage.LogHead.Key(clinical(t, a), chunk.CurrentLog(a.keys))
	var head []byte
	must(t, a.twin.View(func(v storage.Reader) (err error) {
		head, err = v.Get(key)
		head = bytes.Clone(head)
		return err
	}))
	a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1961-01-01" })
	must(t, a.PutSmall(t.Context(), key, head))
	a.crash()
	a.put(`{"resourceType":"Patient","id":"q","gender":"male"}`, false)
	if got := a.export(); !strings.Contains(got, "1961-01-01") {
		t.Errorf("the edit is gone: %s", got)
	}
	if at := a.get("Patient/bernd"); !strings.Contains(at, "1961-01-01") || len(a.OwnLogs()) != 2 {
		t.Errorf("%d logs, and %s", len(a.OwnLogs()), at)
	}
	n := 0
	must(t, a.twin.View(func(v storage.Reader) error {
		return v.Keys(storage.Chunk.All(), nil, func([]byte) error { n++; return nil })
	}))
	if n != 3 {
		t.Errorf("%d of 3 chunks are left", n)
	}
}

// A document was packed and its chunks deleted; then it turns out that one of its authors was added as a reader meanwhile, apart.
// What it wrote knowing nothing of that stays, and whoever joins now gets the document.
func TestCheckpointOfWhoMayNotWriteNow(t *testing.T) {
	a := practice(t, "surgery")[0]
	add := func(by *device, keys *keyring.Keyring, role trust.Role, st *trust.State) trust.Entry {
		e, err := by.keys.Admit(st, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Role: role,
			DeviceName: "d", SiteName: "d", Now: time.Now()})
		must(t, err)
		must(t, a.AddEntries(t.Context(), by.Device(), [][]byte{e.Bytes()}))
		return e
	}
	keysB, err := keyring.Create("", nil)
	must(t, err)
	keysC, err := keyring.Create("", nil)
	must(t, err)
	add(a, keysB, trust.RoleAdmin, a.State())
	b := start(t, keysB, "branch", a.State().Entries())
	before := a.State()
	add(a, keysC, trust.RoleMember, before)
	c := start(t, keysC, "home", a.State().Entries())
	a.put(compactPatient, false)
	a.editMany(0, 70)
	settleAll(t, a, b, c)
	c.editMany(70, 10)
	settleAll(t, a, b, c)
	a.compact()
	for range 3 {
		settleAll(t, a, b, c)
		b.compact()
		c.compact()
		settleAll(t, a, b, c)
		a.compact()
	}
	late := add(b, keysC, trust.RoleReader, before)
	must(t, b.AddEntries(t.Context(), a.Device(), [][]byte{late.Bytes()}))
	n := admit(t, a, "N")
	sync(t, a, n)
	if n.export() != a.export() || n.export() == "" {
		t.Errorf("a newcomer shows %q, %+v", n.export(), n.Status())
	}
}
