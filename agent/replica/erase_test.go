package replica_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// eraseChart is a small chart, with a resource of another patient's and one of nobody's.
func (d *device) eraseChart() {
	d.put(`{"resourceType":"Patient","id":"p1","active":true,"name":[{"family":"Zwiebelfisch"}]}`, false)
	d.put(`{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"weight"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2019-03-04"}`, false)
	d.put(`{"resourceType":"Observation","id":"o2","status":"final","code":{"text":"height"},"subject":{"reference":"Patient/p1"}}`, false)
	d.put(`{"resourceType":"Patient","id":"p2","name":[{"family":"Klein"}]}`, false)
	d.put(`{"resourceType":"Observation","id":"o3","status":"final","code":{"text":"pulse"},"subject":{"reference":"Patient/p2"}}`, false)
	d.put(`{"resourceType":"Organization","id":"org","name":"Praxis"}`, false)
	d.edit("Patient/p1", func(obj map[string]any) { obj["gender"] = "female" })
}

func orderOf(resource string) api.ErasureRequest {
	ref, err := api.ParseRef(resource)
	if err != nil {
		panic(err)
	}
	return api.ErasureRequest{Resource: ref, Reason: "kept long enough"}
}

func (d *device) order(req api.ErasureRequest) api.Erasure {
	d.t.Helper()
	e, err := d.OrderErasure(d.t.Context(), "user of "+d.name, req, nil)
	must(d.t, err)
	return e
}

func (d *device) agree(id string) api.Erasure {
	d.t.Helper()
	e, err := d.AgreeErasure(d.t.Context(), "user of "+d.name, id, nil)
	must(d.t, err)
	return e
}

func (d *device) erasures() []api.Erasure {
	d.t.Helper()
	list, err := d.Erasures(d.t.Context())
	must(d.t, err)
	return list
}

// stores reports whether some words are in any key or value of a device's store that is not a sealed chunk, in any of several forms.
func (d *device) stores(words ...string) (found []string) {
	d.t.Helper()
	forms := map[string][]byte{}
	for _, w := range words {
		var wide []byte
		for _, u := range utf16.Encode([]rune(w)) {
			wide = append(wide, byte(u), byte(u>>8))
		}
		forms[w], forms[w+" wide"] = []byte(w), wide
		forms[w+" hex"], forms[w+" base64"] = []byte(hex.EncodeToString([]byte(w))), []byte(base64.StdEncoding.EncodeToString([]byte(w)))
	}
	must(d.t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(nil, nil, func(key, value []byte) error {
			for form, b := range forms {
				if bytes.Contains(key, b) || bytes.Contains(value, b) {
					found = append(found, form)
				}
			}
			return nil
		})
	}))
	slices.Sort(found)
	return slices.Compact(found)
}

// TestErase follows an erasure from the order to the last device, and what somebody writes who has not heard of it.
func TestErase(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	sync(t, a, c)
	b.edit("Observation/o1", func(obj map[string]any) { obj["valueString"] = "81 kg" })
	sync(t, a, b)
	sync(t, a, c)
	if len(a.stores("Zwiebelfisch", "81 kg")) == 0 {
		t.Fatal("the search finds nothing that is there")
	}
	plan, err := a.PlanErasure(t.Context(), orderOf("Patient/p1"))
	must(t, err)
	if plan.Documents != 3 || plan.Chunks != 5 || plan.Resources["Observation"] != 2 || plan.Resources["Patient"] != 1 || plan.Alone || len(plan.Against)+len(plan.Stays) != 0 {
		t.Fatalf("plan: %+v", plan)
	}
	if _, err := c.OrderErasure(t.Context(), "c", orderOf("Patient/p1"), nil); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("a member orders: %v", err)
	}
	e := a.order(orderOf("Patient/p1"))
	if e.State != "ordered" || e.Documents != 3 || e.Chunks != 5 || e.Patient != "Patient/p1" || e.Agreed != nil || e.Ordered.User != "user of A" {
		t.Errorf("ordered: %+v", e)
	}
	if _, err := a.AgreeErasure(t.Context(), "a", e.ID, nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("who ordered agrees: %v", err)
	}
	a.edit("Patient/p1", func(obj map[string]any) { obj["active"] = false }) // it can be edited until somebody agrees
	if _, err := b.AgreeErasure(t.Context(), "b", e.ID, nil); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("an order that has not come is agreed to: %v", err)
	}
	sync(t, a, b)
	// C, apart, goes on with the patient.
	c.edit("Patient/p1", func(obj map[string]any) { obj["gender"] = "other" })
	c.put(`{"resourceType":"Observation","id":"o9","status":"final","code":{"text":"late"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2019-05-05"}`, false)
	if e = b.agree(e.ID); e.State != "erased" || e.Agreed == nil || e.Agreed.User != "user of B" || e.Patient != "" || e.Resources != nil {
		t.Errorf("agreed: %+v", e)
	}
	for _, ref := range []string{"Patient/p1", "Observation/o1", "Observation/o2"} {
		if _, err := b.Get(t.Context(), parseRef(t, ref), ""); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if found := b.stores("Zwiebelfisch", "81 kg", "weight"); len(found) != 0 {
		t.Errorf("B still stores %q", found)
	}
	if _, err := b.Put(t.Context(), "b", []byte(`{"resourceType":"Patient","id":"p1","active":true}`), false); api.CodeOf(err) != api.CodeDeleted {
		t.Errorf("an erased patient is written: %v", err)
	}
	before, _, _ := a.chunksOf()
	sync(t, a, b)
	after, skips, _ := a.chunksOf()
	if after >= before || skips == 0 {
		t.Errorf("A had %d chunks and has %d, with %d skips", before, after, skips)
	}
	status, _ := sync(t, a, b)
	if !status.Agreed {
		t.Errorf("A and B do not agree: %+v", status)
	}
	// C hears of it: what it wrote is late, on every device.
	sync(t, b, c)
	sync(t, a, b)
	for _, x := range d {
		x.crash()
		held := x.heldList(false)
		if len(held) != 3 {
			t.Fatalf("%s holds %+v back", x.name, held)
		}
		for _, h := range held {
			if h.Device == "0000000000000000" || h.State != "quarantined" || h.Reason != "its document was erased" || h.Releasable {
				t.Errorf("%s: %+v", x.name, h)
			}
		}
		if list := x.erasures(); len(list) != 1 || list[0].State != "erased" || len(list[0].Late) != 3 {
			t.Errorf("%s lists %+v", x.name, list)
		}
		if x.export() != a.export() || strings.Contains(x.export(), "p1") || !strings.Contains(x.export(), "Klein") {
			t.Errorf("%s shows %s", x.name, x.export())
		}
	}
	if status, _ := sync(t, a, c); !status.Agreed {
		t.Errorf("A and C do not agree: %+v", status)
	}
	// Another order takes it away.
	again := b.order(api.ErasureRequest{Again: e.ID, Reason: "likewise"})
	if again.Documents != 2 || again.Chunks != 3 { // A's last edit, which the first order did not name, too
		t.Errorf("again: %+v", again)
	}
	sync(t, a, b)
	a.agree(again.ID)
	sync(t, a, b)
	sync(t, b, c)
	for _, x := range d {
		if held := x.heldList(false); len(held) != 0 {
			t.Errorf("%s holds %+v back", x.name, held)
		}
		if found := x.stores("Zwiebelfisch", "81 kg", "late"); len(found) != 0 {
			t.Errorf("%s still stores %q", x.name, found)
		}
		if _, err := x.PlanErasure(t.Context(), orderOf("Patient/p1")); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	n := admit(t, a, "N")
	sync(t, a, c)
	if status, _ := sync(t, n, c); !status.Agreed || n.export() != a.export() {
		t.Errorf("a newcomer does not agree: %+v", status)
	}
	report, err := n.Verify(t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
	must(t, err)
	if !report.Clean {
		t.Errorf("the newcomer is not clean: %+v", report)
	}
}

// TestEraseInAnyOrder: what is erased, and what is late, does not depend on what comes first.
func TestEraseInAnyOrder(t *testing.T) {
	for name, meet := range map[string]func(t *testing.T, a, b, c *device){
		"the order before the edits": func(t *testing.T, a, b, c *device) { sync(t, b, c); sync(t, c, a) },
		"the edits before the order": func(t *testing.T, a, b, c *device) { sync(t, a, c); sync(t, c, b) },
		"a crash in between":         func(t *testing.T, a, b, c *device) { sync(t, a, c); c.crash(); sync(t, b, c) },
	} {
		t.Run(name, func(t *testing.T) {
			d := practice(t, "A", "B", "C")
			a, b, c := d[0], d[1], d[2]
			a.promote(b)
			a.eraseChart()
			sync(t, a, b)
			e := a.order(orderOf("Patient/p1"))
			sync(t, a, b)
			a.edit("Patient/p1", func(obj map[string]any) { obj["active"] = false })
			b.agree(e.ID)
			meet(t, a, b, c)
			sync(t, a, b)
			sync(t, b, c)
			sync(t, a, c)
			for _, x := range d {
				if held := x.heldList(false); len(held) != 1 {
					t.Errorf("%s holds %+v back", x.name, held)
				}
				if list := x.erasures(); len(list) != 1 || list[0].State != "erased" || len(list[0].Late) != 1 {
					t.Errorf("%s lists %+v", x.name, list)
				}
				if x.export() != a.export() {
					t.Errorf("%s shows something else", x.name)
				}
			}
			if s, _ := sync(t, a, c); !s.Agreed {
				t.Errorf("they do not agree: %+v", s)
			}
			report, err := c.Verify(t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
			must(t, err)
			if !report.Clean {
				t.Errorf("not clean: %+v", report)
			}
		})
	}
}

// TestEraseWithRecovery: the only administrator agrees with the recovery code.
func TestEraseWithRecovery(t *testing.T) {
	keys, err := keyring.Create("", nil)
	must(t, err)
	entry, code, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "A", Device: "A", Now: time.Now()})
	must(t, err)
	a := start(t, keys, "A", []trust.Entry{entry})
	a.eraseChart()
	root, err := keyring.OpenWithRecovery(code, a.State())
	must(t, err)
	plan, err := a.PlanErasure(t.Context(), orderOf("Patient/p1"))
	must(t, err)
	if !plan.Alone {
		t.Error("there is nobody else")
	}
	e, err := a.OrderErasure(t.Context(), "a", orderOf("Patient/p1"), func(id chunk.ID) (w chunk.RootWord) {
		w.Root, w.Signature = root.SignErasure(id)
		return w
	})
	must(t, err)
	if e.State != "erased" || e.Agreed == nil || !e.Agreed.Recovery {
		t.Errorf("%+v", e)
	}
	if found := a.stores("Zwiebelfisch", "weight"); len(found) != 0 {
		t.Errorf("it still stores %q", found)
	}
	b := admit(t, a, "B")
	if s, _ := sync(t, a, b); !s.Agreed || a.export() != b.export() {
		t.Errorf("they do not agree: %+v", s)
	}
}

// TestEraseRefuses: what cannot be erased is said before it is ordered.
func TestEraseRefuses(t *testing.T) {
	a := practice(t, "A")[0]
	a.eraseChart()
	for resource, want := range map[string]api.Code{
		"Patient/none": api.CodeNotFound, "Organization/none": api.CodeNotFound, "Observation/o1": api.CodeInvalid, "Organization/org": "",
	} {
		if _, err := a.PlanErasure(t.Context(), orderOf(resource)); api.CodeOf(err) != want && (want != "" || err != nil) {
			t.Errorf("%s: %v", resource, err)
		}
	}
	// A resource of this chart is corrected to be another patient's.
	a.edit("Observation/o1", func(obj map[string]any) { obj["subject"] = map[string]any{"reference": "Patient/p2"} })
	plan, err := a.PlanErasure(t.Context(), orderOf("Patient/p1"))
	must(t, err)
	if len(plan.Against) != 1 || plan.Against[0].Resource != "Observation/o1" {
		t.Errorf("%+v", plan)
	}
	if _, err := a.OrderErasure(t.Context(), "a", orderOf("Patient/p1"), nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("ordered all the same: %v", err)
	}
	if plan, err := a.PlanErasure(t.Context(), orderOf("Patient/p2")); err != nil || len(plan.Stays) != 1 || plan.Stays[0].Resource != "Observation/o1" {
		t.Errorf("%+v, %v", plan, err)
	}
	if _, err := a.AgreeErasure(t.Context(), "a", "", nil); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("agreed to nothing: %v", err)
	}
}

// TestMembersOrder: what a member's bent program orders is refused by who would agree, and erases nothing if they do.
func TestMembersOrder(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := b.order(orderOf("Patient/p1"))
	c := admit(t, a, "C")
	sync(t, a, c)
	forged := practiceOrder(t, c, a)
	sync(t, a, c)
	sync(t, a, b)
	if _, err := a.AgreeErasure(t.Context(), "a", forged, nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("agreed to what a member ordered: %v", err)
	}
	if !strings.Contains(a.export(), "Zwiebelfisch") {
		t.Error("a member's order erased")
	}
	a.agree(e.ID)
	if strings.Contains(a.export(), "Zwiebelfisch") {
		t.Error("an administrator's order did not")
	}
}

// practiceOrder has a member's bent program order what only an administrator may, and brings it to another device.
func practiceOrder(t *testing.T, c, a *device) string {
	t.Helper()
	st := c.State()
	doc, err := c.keys.DocumentID(clinicalOf(t, st), "section", "p1", "core")
	must(t, err)
	body := &chunk.Erasure{Document: doc, Reason: "forged"}
	must(t, c.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			s, err := chunk.Parse(bytes.Clone(value))
			if err != nil || len(body.Covers) > 0 {
				return err
			}
			h := s.Header()
			body.Covers = chunk.Covers{{Run: chunk.Run{Log: s.Log(), From: h.Counter, To: h.Counter, Last: s.ID()}, Tips: []chunk.Tip{chunk.At(h.Counter-1, h.Previous).Tip}}}
			return nil
		})
	}))
	sealed, err := chunk.Seal(c.keys, chunk.Params{Membership: c.State(), Scope: clinicalOf(t, st), Log: chunk.CurrentLog(c.keys), Counter: 1}, body)
	must(t, err)
	must(t, a.Arrive(t.Context(), c.Device(), [][]byte{sealed.Bytes()}))
	for more := true; more; {
		more, err = a.Apply(t.Context())
		must(t, err)
	}
	id := sealed.ID()
	return hex.EncodeToString(id[:])
}

func clinicalOf(t *testing.T, st *trust.State) trust.ScopeID {
	t.Helper()
	id, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok {
		t.Fatal("no scope")
	}
	return id
}

// without takes a chunk out of a device's store, as damage does, and returns what puts it back.
func (d *device) without(id chunk.ID) (restore func()) {
	d.t.Helper()
	var key, value []byte
	must(d.t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(k, b []byte) error {
			if s, err := chunk.Parse(bytes.Clone(b)); err == nil && s.ID() == id {
				key, value = bytes.Clone(k), bytes.Clone(b)
			}
			return nil
		})
	}))
	if key == nil {
		d.t.Fatal("there is no such chunk")
	}
	var b storage.Batch
	b.Delete(key)
	must(d.t, d.twin.Commit(d.t.Context(), &b))
	return func() {
		var b storage.Batch
		b.Put(key, value)
		must(d.t, d.twin.Commit(d.t.Context(), &b))
	}
}

// written returns the chunk of a device's log.
func (d *device) written(counter uint64) (found chunk.Sealed) {
	d.t.Helper()
	must(d.t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, b []byte) error {
			if s, err := chunk.Parse(bytes.Clone(b)); err == nil && s.Log() == chunk.CurrentLog(d.keys) && s.Header().Counter == counter {
				found = s
			}
			return nil
		})
	}))
	return found
}

func (d *device) apply() {
	d.t.Helper()
	for more := true; more; {
		var err error
		more, err = d.Apply(d.t.Context())
		must(d.t, err)
	}
}

// TestErasePacked: what was packed is erased with its checkpoint, and a checkpoint that somebody makes who has not heard of it brings nothing back.
func TestErasePacked(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.put(compactPatient, false)
	a.editMany(0, 80)
	sync(t, a, b)
	sync(t, a, c)
	if got := c.compact(); got.Checkpoints != 1 { // apart
		t.Fatalf("C packs: %+v", got)
	}
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	sync(t, b, c)
	sync(t, a, c)
	sync(t, a, b)
	for _, x := range d {
		x.compact()
		if list := x.erasures(); len(list) != 1 || list[0].State != "erased" || len(list[0].Late) != 1 {
			t.Errorf("%s lists %+v", x.name, list)
		}
		if x.export() != "" {
			t.Errorf("%s shows %s", x.name, x.export())
		}
	}
	again := a.order(api.ErasureRequest{Again: e.ID})
	sync(t, a, b)
	b.agree(again.ID)
	sync(t, a, b)
	sync(t, b, c)
	sync(t, a, b)
	n := admit(t, a, "N")
	sync(t, a, c)
	sync(t, n, c)
	for _, x := range append(d, n) {
		x.crash()
		if chunks, _, _ := x.chunksOf(); chunks != 4 { // two orders, two assents
			t.Errorf("%s holds %d chunks", x.name, chunks)
		}
		if x == a {
			continue
		}
		sync(t, a, x)
		if s, _ := sync(t, a, x); !s.Agreed {
			t.Errorf("A and %s do not agree: %+v", x.name, s)
		}
	}

	// The same where everybody has packed and deleted before.
	a.put(`{"resourceType":"Patient","id":"p2","active":true,"name":[{"family":"Berg"}]}`, false)
	for i := range 80 {
		a.edit("Patient/p2", func(obj map[string]any) {
			obj["birthDate"] = "19" + string([]byte{byte('0' + i/10), byte('0' + i%10)}) + "-01-01"
		})
	}
	all := append(slices.Clone(d), n)
	meet := func() {
		for range 2 {
			for _, x := range all[1:] {
				sync(t, a, x)
			}
		}
	}
	meet()
	if got := b.compact(); got.Checkpoints != 1 {
		t.Fatalf("B packs: %+v", got)
	}
	meet()
	for _, x := range all {
		x.compact()
	}
	meet()
	for _, x := range all {
		if got := x.compact(); got.Waiting != 0 {
			t.Fatalf("%s: %+v", x.name, got)
		}
	}
	e = a.order(orderOf("Patient/p2"))
	meet()
	b.agree(e.ID)
	meet()
	for _, x := range all {
		x.crash()
		if chunks, _, _ := x.chunksOf(); chunks != 6 {
			t.Errorf("%s holds %d chunks", x.name, chunks)
		}
		if found := x.stores("Berg"); len(found) != 0 {
			t.Errorf("%s still stores %q", x.name, found)
		}
		report, err := x.Verify(t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
		must(t, err)
		if !report.Clean {
			t.Errorf("%s is not clean: %+v", x.name, report)
		}
	}
	n2 := admit(t, a, "N2")
	sync(t, a, b)
	if s, _ := sync(t, n2, b); !s.Agreed {
		t.Errorf("a newcomer does not agree: %+v", s)
	}
}
