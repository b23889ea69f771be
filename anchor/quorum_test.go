package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
)

// pipe is a stream between a device and the anchor.
type pipe struct{ net.Conn }

func (p pipe) Reset() error { return p.Close() }

// wired reaches whoever answers at the other end of a pipe.
type wired func(ctx context.Context, s pipe)

func (w wired) Open(ctx context.Context, _ trust.DeviceID) (remote.Stream, error) {
	here, there := net.Pipe()
	go w(context.WithoutCancel(ctx), pipe{there})
	return pipe{here}, nil
}

func (wired) Reaches(trust.DeviceID) bool { return true }

func (wired) Doubt(trust.DeviceID) {}

func (wired) RoundTrip(trust.DeviceID) time.Duration { return 0 }

// votes has the anchor be the only voter of a customer's practice, in the place of its device.
func (c *customer) votes(a *Anchor) *local.Voter {
	c.t.Helper()
	var log [32]byte
	device, err := local.Open(c.t.Context(), local.Config{
		Store: storage.NewTwin(), Keys: c.keys, Members: func() *trust.State { return c.state },
		Log:     local.Log{Current: func() [32]byte { return log }, Continues: func([32]byte) bool { return true }, Original: func() bool { return true }},
		Network: wired(func(ctx context.Context, s pipe) { a.quorums.serve(ctx, s, c.keys.Device()) }),
	})
	must(c.t, err)
	a.quorums.network = func(*practice) local.Network {
		return wired(func(ctx context.Context, s pipe) { device.Serve(ctx, s, a.Device()) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { a.quorums.run(ctx); ended <- struct{}{} }()
	go func() { device.Run(ctx); ended <- struct{}{} }()
	c.t.Cleanup(func() { cancel(); <-ended; <-ended })
	<-device.Ready()
	c.soon("the device leads", func() error {
		return device.Change(c.t.Context(), c.keys.Device(), []trust.DeviceID{c.keys.Device()})
	})
	_, err = device.Engine().Do(c.t.Context(), c.keys.Device(), lockquorum.Request{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 100}})
	must(c.t, err)
	c.soon("the anchor votes alone", func() error {
		err := device.Change(c.t.Context(), c.keys.Device(), []trust.DeviceID{a.Device()})
		if errors.Is(err, lockquorum.ErrNotLeader) {
			err = device.Remote(a.Device()).Change(c.t.Context(), []trust.DeviceID{a.Device()})
		}
		return err
	})
	st, _, err := device.Remote(a.Device()).Read(c.t.Context(), c.keys.Device(), lockquorum.Query{Kind: lockquorum.ReadVoters})
	must(c.t, err)
	device.Heard(c.t.Context(), st) // it votes no more, and says nothing to the anchor as a voter
	return device
}

// soon tries something until it works.
func (c *customer) soon(what string, try func() error) {
	c.t.Helper()
	patience, again := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-patience:
			c.t.Fatalf("%s: %v", what, err)
		case <-again.C:
		}
	}
}

// number has the anchor give an item its number.
func (c *customer) number(device *local.Voter, a *Anchor, item byte) (int64, error) {
	got, err := device.Remote(a.Device()).Do(c.t.Context(), c.keys.Device(), lockquorum.Request{
		Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{item}},
	})
	return got.Number, err
}

// TestVotes: an anchor that votes alone gives numbers, answers nobody else and no names, rests when it is left alone, and wakes as it was; it is counted, and gone with
// its practice.
func TestVotes(t *testing.T) {
	a, state := openAnchor(t, t.TempDir()), t.TempDir()
	a.cfg.State = state
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	p := berg.admitted(a)
	q := tal.admitted(a)
	before := p.share.Held().Bytes
	device := berg.votes(a)
	number := func(item byte, want int64) {
		t.Helper()
		if n, err := berg.number(device, a, item); err != nil || n != want {
			t.Fatalf("item %d is given %d (%v)", item, n, err)
		}
	}
	number(1, 1)
	number(2, 2)
	number(1, 1)
	if held := p.share.Held().Bytes; held <= before {
		t.Errorf("%d bytes are counted with a voter, and %d before", held, before)
	}
	names, err := device.Remote(a.Device()).Names(t.Context(), []remote.Name{{Kind: 1, ID: [32]byte{1}}})
	if err != nil || len(names) != 1 || names[0] != "" {
		t.Errorf("it says names: %q (%v)", names, err)
	}
	here, there := net.Pipe()
	over := make(chan struct{})
	go func() { defer close(over); a.quorums.serve(t.Context(), pipe{there}, tal.keys.Device()) }()
	stranger := &remote.Engine{Practice: p.id, Open: func(context.Context) (remote.Stream, error) { return pipe{here}, nil }}
	if _, _, err := stranger.Read(t.Context(), tal.keys.Device(), lockquorum.Query{Kind: lockquorum.ReadVoters}); err == nil {
		t.Error("another practice's device reads")
	}
	<-over
	if v := a.quorums.voter(q); v != nil {
		t.Errorf("a practice that has no voter here has one: %+v", v)
	}

	// It rests, and nothing is left of it but what is stored.
	if v := a.quorums.voter(p); v == nil || !v.Awake || !v.Leads || v.Voters != 1 {
		t.Errorf("its voter is %+v", v)
	}
	var figures bytes.Buffer
	must(t, a.Metrics(&figures))
	if want := `chartmesh_anchor_voters{state="awake"} 1`; !strings.Contains(figures.String(), want) {
		t.Errorf("its figures lack %s", want)
	}
	a.quorums.rest(time.Now())
	if v := a.quorums.voter(p); !v.Awake {
		t.Error("it rests although it was asked just now")
	}
	rests := func() error {
		a.quorums.rest(time.Now().Add(restAfter + time.Second))
		if v := a.quorums.voter(p); v.Awake {
			return fmt.Errorf("its voter is %+v", v)
		}
		return nil
	}
	berg.soon("it rests", rests)
	number(3, 3)
	number(2, 2)
	found, err := filepath.Glob(filepath.Join(state, "quorum-*"))
	must(t, err)
	if len(found) != 1 {
		t.Errorf("its witnesses are %v", found)
	}

	// A witness that says more keeps it out.
	berg.soon("it rests", rests)
	kept, err := os.ReadFile(found[0])
	must(t, err)
	r, _, err := local.File{Path: found[0]}.Read()
	must(t, err)
	r.Index += 100
	must(t, local.File{Path: found[0]}.Write(r))
	if n, err := berg.number(device, a, 4); !errors.Is(err, lockquorum.ErrLost) {
		t.Errorf("a folder that was put back gives %d (%v)", n, err)
	}
	if v := a.quorums.voter(p); !strings.Contains(v.Out, "quorum remove, add") {
		t.Errorf("its voter is %+v", v)
	}
	must(t, os.WriteFile(found[0], kept, 0o600))
	berg.soon("it rests", func() error {
		a.quorums.rest(time.Now().Add(restAfter + time.Second))
		if v := a.quorums.voter(p); v.Out != "" {
			return fmt.Errorf("its voter is %+v", v)
		}
		return nil
	})
	number(4, 4)

	if err := a.Drop(t.Context(), p.id, false); !errors.Is(err, ErrVotes) {
		t.Errorf("a practice that it votes in is dropped: %v", err)
	}
	unread := a.practice(p.id, p.record)
	if unread.broken = errors.New("its membership log does not read"); !a.votes(unread) {
		t.Error("a practice that does not read is taken for one that it does not vote in")
	}
	number(5, 5)
	must(t, a.Drop(t.Context(), p.id, true))
	if n, err := berg.number(device, a, 6); err == nil {
		t.Errorf("a practice that was dropped is given %d", n)
	}
	must(t, a.sweepAll(t.Context()))
	must(t, a.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Within.Key(p.Number), nil, func(key []byte) error {
			t.Errorf("%x is left of it", bytes.Clone(key))
			return nil
		})
	}))
}

// TestHeld: a voter that is to give nothing for a while, since an administrator has read what it has, is not ended for that it does not run: started again by a question
// it would give what the quorum that is founded anew does not know.
func TestHeld(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	device := berg.votes(a)
	if n, err := berg.number(device, a, 1); err != nil || n != 1 {
		t.Fatalf("it gives %d (%v)", n, err)
	}
	said, err := device.Remote(a.Device()).Testimony(t.Context(), true)
	must(t, err)
	if len(said.Log) == 0 {
		t.Error("it says nothing")
	}
	for range 3 {
		a.quorums.rest(time.Now().Add(restAfter + time.Second))
		if n, err := berg.number(device, a, 2); err == nil {
			t.Fatalf("it gives %d while it is held", n)
		}
	}
	if v := a.quorums.voter(p); v == nil || v.Awake {
		t.Errorf("its voter is %+v", v)
	}
}
