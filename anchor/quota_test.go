package anchor

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

func value(n uint64) *Limit { return &Limit{Value: n} }

func (c *customer) id() trust.EntryID { return c.state.Practice() }

func usage(t testing.TB, a *Anchor, c *customer) Usage {
	t.Helper()
	u, err := a.UsageOf(c.id())
	must(t, err)
	return u
}

// TestQuota: beyond its quota nothing more is stored of a practice, of another it is; when the quota is raised it goes on, at once, and the
// quota outlasts a restart.
func TestQuota(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	p, q := berg.admitted(a), tal.admitted(a)
	before := usage(t, a, berg)
	if before.Bytes == 0 || before.Chunks != 0 || before.Devices != 1 || before.Share != 0 || len(before.Own) != 0 {
		t.Fatalf("the membership log takes %+v", before)
	}
	_, err := a.SetQuota(t.Context(), berg.id(), Change{Chunks: value(2)})
	must(t, err)
	var chunks [][]byte
	for i := range 4 {
		chunks = append(chunks, berg.seals(fmt.Sprint(i)).Bytes())
	}
	send := func(list ...[]byte) { must(t, p.Arrive(t.Context(), berg.keys.Device(), list)) }
	send(chunks[0])
	send(chunks[1])
	send(chunks[2])
	if n := chunksOf(p, berg.scope()); n != 2 || !p.UsedUp() {
		t.Fatalf("%d chunks are held of two that may be, used up %v", n, p.UsedUp())
	}
	must(t, q.Arrive(t.Context(), tal.keys.Device(), [][]byte{tal.seals("other").Bytes(), tal.seals("other").Bytes(), tal.seals("other").Bytes()}))
	if n := chunksOf(q, tal.scope()); n != 3 || q.UsedUp() {
		t.Errorf("%d chunks are held of the other practice", n)
	}
	// Who was removed is learnt in any case.
	berg.enter(berg.keys.AddAnchor(berg.state, trust.DeviceID{1}, []string{"/ip4/127.0.0.1/tcp/2"}, "second", time.Now()))
	berg.brings(p)
	if len(p.State().Members()) != len(berg.state.Members()) {
		t.Error("an entry is not taken since the share is used up")
	}
	u, err := a.SetQuota(t.Context(), berg.id(), Change{Chunks: value(3), Bytes: value(1 << 20), Connections: value(7)})
	must(t, err)
	if p.UsedUp() || u.Quota != (Quota{1 << 20, 3, 7, 0}) || u.Share < .6 || u.Share > .7 || !slices.Equal(u.Own, []string{"bytes", "chunks", "connections"}) {
		t.Errorf("after it was raised: %+v", u)
	}
	send(chunks[2])
	if n := chunksOf(p, berg.scope()); n != 3 {
		t.Errorf("%d chunks are held after the quota was raised", n)
	}
	send(chunks[3])
	was := usage(t, a, berg)
	must(t, a.Close())

	a, err = Open(t.Context(), Config{Dir: dir, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, LeastFree: 1, Quota: Quota{Rate: 1 << 20, Chunks: 2}})
	must(t, err)
	defer func() { must(t, a.Close()) }()
	again := usage(t, a, berg)
	if again.Bytes != was.Bytes || again.Chunks != 3 || again.Quota != (Quota{1 << 20, 3, 7, 1 << 20}) || again.LastStored == nil || !again.LastStored.Equal(*was.LastStored) {
		t.Errorf("after a restart it takes %+v, and took %+v", again, was)
	}
	if other := usage(t, a, tal); other.Quota != (Quota{Chunks: 2, Rate: 1 << 20}) || other.Chunks != 3 || !other.UsedUp {
		t.Errorf("the default counts for %+v", other)
	}
	u, err = a.SetQuota(t.Context(), berg.id(), Change{Chunks: &Limit{Default: true}, Rate: value(0)})
	must(t, err)
	if u.Quota != (Quota{1 << 20, 2, 7, 0}) || !u.UsedUp || a.find(berg.id()).Rate() != nil {
		t.Errorf("with the default again: %+v", u)
	}
	if n := chunksOf(a.find(berg.id()), berg.scope()); n != 3 {
		t.Errorf("%d chunks are held: what is held stays", n)
	}
}

// TestQuotaSense refuses what makes no sense, and says whom it does not know.
func TestQuotaSense(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	berg.admitted(a)
	for _, c := range []Change{{Rate: value(1)}, {Bytes: value(1 << 63)}, {Chunks: value(1<<64 - 1)}, {Connections: value(1 << 20)}} {
		if _, err := a.SetQuota(t.Context(), berg.id(), c); !errors.Is(err, ErrQuota) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := a.SetQuota(t.Context(), trust.EntryID{9}, Change{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("another practice: %v", err)
	}
	if _, err := Open(t.Context(), Config{Dir: t.TempDir(), Quota: Quota{Rate: 5}}); !errors.Is(err, ErrQuota) {
		t.Errorf("a default: %v", err)
	}
	for _, region := range []string{"a\nb", "EU\xff"} {
		if _, err := Open(t.Context(), Config{Dir: t.TempDir(), Region: region}); !errors.Is(err, ErrConfig) {
			t.Errorf("region %q is taken: %v", region, err)
		}
	}
	id := berg.id()
	full := hex.EncodeToString(id[:])
	for _, text := range []string{full, full[:4], strings.ToUpper(full[:16])} {
		if id, err := a.Find(text); err != nil || id != berg.id() {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", full[:3], "zzzz", full + "0"} {
		if _, err := a.Find(text); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", text, err)
		}
	}
	other := berg.id()
	other[31] ^= 1
	twin := a.practice(other, record{Number: 9})
	a.add(twin)
	if _, err := a.Find(full[:16]); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two that begin alike: %v", err)
	}
}

// fails is a store that fails after some commits.
type fails struct {
	storage.Store
	after int
}

func (f *fails) Commit(ctx context.Context, b *storage.Batch) error {
	if f.after--; f.after < 0 {
		return errors.New("the power is out")
	}
	return f.Store.Commit(ctx, b)
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		case <-tick.C:
		}
	}
}

// under counts the keys under a number.
func under(t testing.TB, a *Anchor, number uint64) (n int) {
	t.Helper()
	must(t, a.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Within.Key(number), nil, func([]byte) error { n++; return nil })
	}))
	return n
}

// TestDrop: a practice that is dropped is gone, also when the power fails in between, at any place; its number is given to no other; another
// practice keeps all; and it can come again.
func TestDrop(t *testing.T) {
	for lost := range 5 {
		t.Run(fmt.Sprint(lost), func(t *testing.T) { testDrop(t, lost) })
	}
}

// testDrop has the power fail after some commits.
func testDrop(t *testing.T, lost int) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	q := tal.admitted(a)
	p := berg.admitted(a)
	number := p.Number
	one := berg.seals("one")
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes()}))
	must(t, q.Arrive(t.Context(), tal.keys.Device(), [][]byte{tal.seals("other").Bytes()}))
	others := under(t, a, q.Number)
	var b storage.Batch
	for n := range uint64(2*sweepKeys + 10) {
		b.Put(storage.Loose.Key(berg.scope(), one.Log(), 100+n, [32]byte{}), []byte("x"))
	}
	b.Put(storage.Loose.Key(berg.scope(), one.Log(), 9, [32]byte{}), bytes.Repeat([]byte("large"), 100_000))
	must(t, p.share.Commit(t.Context(), &b))

	whole := a.store
	a.store = &fails{whole, lost}
	err := a.Drop(t.Context(), berg.id(), false)
	if (err == nil) != (lost > 0) {
		t.Fatalf("drop: %v", err)
	}
	if err == nil {
		_ = a.sweepAll(t.Context())
		if a.admits(berg.keys.Device()) || a.replicaOf(berg.keys.Device()) != nil || len(a.mu.roots) != 1 {
			t.Error("its device is let in")
		}
		if err := p.Arrive(t.Context(), berg.keys.Device(), [][]byte{berg.seals("two").Bytes()}); err == nil {
			t.Error("a chunk that was on its way is taken")
		}
		a.index(p) // by entries that were on their way
		if a.admits(berg.keys.Device()) || a.mu.of[berg.keys.Device()] != nil {
			t.Error("its device is let in by what was on its way")
		}
	} else if !a.admits(berg.keys.Device()) || a.find(berg.id()) == nil {
		t.Error("it is not held although it was not dropped")
	}
	a.store = whole
	must(t, a.Close())

	a = openAnchor(t, dir)
	if lost == 0 {
		if a.find(berg.id()) == nil {
			t.Error("it is dropped although that failed")
		}
		must(t, a.Drop(t.Context(), berg.id(), false))
	}
	if a.find(berg.id()) != nil || a.admits(berg.keys.Device()) {
		t.Fatal("it is there after a restart")
	}
	if err := a.Drop(t.Context(), berg.id(), false); !errors.Is(err, ErrUnknown) {
		t.Errorf("dropped again: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	eventually(t, "all of it is deleted", func() bool { return under(t, a, number) == 0 && a.deleting.Load() == 0 })
	must(t, a.store.View(func(v storage.Reader) error {
		if _, err := v.Get(storage.Taken.Key(number)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("what it took is still noted: %v", err)
		}
		return nil
	}))
	cancel()
	must(t, <-ended)
	if n := under(t, a, q.Number); n < others { // what was looked at for deletion is noted beside
		t.Errorf("the other practice has %d keys, and had %d", n, others)
	}
	must(t, a.Close())

	a = openAnchor(t, dir)
	third := newCustomer(t, "Third")
	r := third.admitted(a)
	_, err = a.Admit(t.Context(), p2p.AnchorToken{Anchor: a.Device(), Practice: berg.id(), Device: berg.keys.Device()}.String())
	must(t, err)
	p = a.find(berg.id())
	berg.brings(p)
	if r.Number <= number || p.Number <= r.Number {
		t.Errorf("number %d was dropped, and %d and %d are given after it", number, r.Number, p.Number)
	}
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes()}))
	if n := chunksOf(p, berg.scope()); n != 1 || a.replicaOf(berg.keys.Device()) != session.Replica(p) {
		t.Errorf("%d chunks are held after it was admitted again", n)
	}
	if u := usage(t, a, berg); u.Chunks != 1 {
		t.Errorf("admitted again it takes %+v", u)
	}
}

// TestSweepWaits: what a practice leaves that is being dropped is deleted after the last commit of its sessions, and not noted as deleted before.
func TestSweepWaits(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	whole, swept := a.store, make(chan error, 2)
	a.store = &follows{whole, func() { // the record is gone, and the share has not ended
		a.store = whole
		go func() { swept <- a.sweepAll(t.Context()) }()
		select {
		case err := <-swept:
			swept <- err
		case <-time.After(100 * time.Millisecond): // it waits, as it should
		}
		must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{berg.seals("one").Bytes()}))
	}}
	must(t, a.Drop(t.Context(), berg.id(), false))
	must(t, <-swept)
	must(t, a.sweepAll(t.Context()))
	if n := under(t, a, p.Number); n > 0 {
		t.Errorf("%d keys are left", n)
	}
}

// follows is a store after whose next commit something happens.
type follows struct {
	storage.Store
	then func()
}

func (f *follows) Commit(ctx context.Context, b *storage.Batch) error {
	err := f.Store.Commit(ctx, b)
	f.then()
	return err
}

// TestCounted: of a practice that an earlier build held what it takes is counted.
func TestCounted(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{berg.seals("one").Bytes(), berg.seals("two").Bytes()}))
	want := usage(t, a, berg)
	var b storage.Batch
	b.Delete(storage.Taken.Key(p.Number))
	must(t, a.store.Commit(t.Context(), &b))
	must(t, a.Close())
	if got := usage(t, openAnchor(t, dir), berg); got.Bytes != want.Bytes || got.Chunks != 2 {
		t.Errorf("it takes %+v, and takes %+v", got, want)
	}
}

// TestHealth: an anchor that stores nothing says so, and why.
func TestHealth(t *testing.T) {
	a, err := Open(t.Context(), Config{Dir: t.TempDir(), Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, LeastFree: 1, Region: "EU-DE", MetricsPerPractice: true})
	must(t, err)
	defer func() { _ = a.Close() }()
	berg := newCustomer(t, "Canary Xanthippe")
	p := berg.admitted(a)
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{berg.seals("one").Bytes()}))
	if err := a.Healthy(); err != nil {
		t.Errorf("a good store: %v", err)
	}
	if a.Ready() == nil {
		t.Error("it is ready before it runs")
	}
	var b bytes.Buffer
	must(t, a.Metrics(&b))
	for _, want := range []string{
		`chartmesh_anchor_info{region="EU-DE",version=""} 1`, "chartmesh_anchor_healthy 1", `chartmesh_anchor_practices{state="held"} 1`, "chartmesh_anchor_held_chunks 1",
		fmt.Sprintf("chartmesh_anchor_practice_chunks{number=\"0\",practice=%q} 1", berg.id().String()), `chartmesh_anchor_commits_total{outcome="durable"} `,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s among the metrics", want)
		}
	}
	doc, err := os.ReadFile("../docs/operations.md")
	must(t, err)
	named := func(pattern, in string) []string {
		list := regexp.MustCompile(pattern).FindAllString(in, -1)
		slices.Sort(list)
		return slices.Compact(list)
	}
	there := named(`chartmesh_anchor_\w+`, strings.Join(regexp.MustCompile(`(?m)^# TYPE \w+`).FindAllString(b.String(), -1), " "))
	if told := named("chartmesh_anchor_\\w+", string(doc)); !slices.Equal(told, there) || len(told) < 20 {
		t.Errorf("docs/operations.md tells of\n%v\nand there are\n%v", told, there)
	}
	if strings.Contains(b.String(), "Xanthippe") {
		t.Error("a name stands in the metrics")
	}
	a.cfg.MetricsPerPractice = false
	b.Reset()
	must(t, a.Metrics(&b))
	if strings.Contains(b.String(), berg.id().String()) {
		t.Error("a practice is named although it should not be")
	}
	a.store = &fails{a.store, 0}
	if err := a.Healthy(); err == nil || !strings.Contains(err.Error(), "the power is out") {
		t.Errorf("a store that fails: %v", err)
	}
	if s, err := a.Status(); err != nil || !strings.Contains(s.Trouble, "the power is out") || s.Region != "EU-DE" {
		t.Errorf("%+v, %v", s, err)
	}
}
