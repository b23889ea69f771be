package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

// steady gives a site one address for all its runs, as a practice's machines have. It is for a site that was not started yet.
func (s *site) steady() *site {
	s.t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(s.t, err)
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	must(s.t, err)
	must(s.t, c.Close())
	s.listen = "/ip4/127.0.0.1/udp/" + port + "/quic-v1"
	return s
}

// desk is a site whose agent is killed and started again while others use it.
type desk struct {
	*site
	at atomic.Pointer[client.Client] // nil: it does not run
}

// crash kills the agent while requests are under way.
func (d *desk) crash() {
	d.t.Helper()
	must(d.t, d.cmd.Process.Signal(syscall.SIGKILL))
	d.at.Store(nil)
	<-d.gone
	_ = d.client.Close()
	d.cmd = nil
}

func (d *desk) back() {
	d.t.Helper()
	d.start()
	d.at.Store(d.client)
}

// told is everything that anybody was ever told of numbers.
type told struct {
	t *testing.T

	mu     sync.Mutex
	number map[string]string // by item: series and number
	item   map[string]string // by series and number
	fate   map[string]string // by item: what was said of it and answered; what was only asked for may have been said too
	asked  map[string]bool   // items of which it was asked to say something
	again  int               // answers that said what was known
	failed map[string]int    // answers that were errors, by code
	gone   bool              // a device that asked is gone, and perhaps nobody else knows what it called its items
}

func newTold(t *testing.T) *told {
	return &told{t: t, number: map[string]string{}, item: map[string]string{}, fate: map[string]string{}, asked: map[string]bool{}, failed: map[string]int{}}
}

// takes notes an answer, and holds it against all before.
func (a *told) takes(item string, n api.Number) {
	a.mu.Lock()
	defer a.mu.Unlock()
	number := fmt.Sprintf("%s/%d", n.Series, n.Number)
	if had, ok := a.number[item]; ok {
		if a.again++; had != number {
			a.t.Errorf("%s has the number %s and then %s", item, had, number)
		}
	}
	if other, ok := a.item[number]; ok && other != item {
		a.t.Errorf("the number %s was given to %s and to %s", number, other, item)
	}
	a.number[item], a.item[number] = number, item
}

func (a *told) fails(code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed[code]++
}

// settle holds the report of a site, as the command prints it, against everything that was told.
func (a *told) settle(s *site, circle string) {
	a.t.Helper()
	var report api.NumberReport
	until(a.t, time.Minute, s.name+" reports every number with its item", func() bool {
		out, err := s.run("--json", "number", "report", circle)
		if err != nil {
			return false // no voter leads just now
		}
		must(a.t, json.Unmarshal([]byte(out), &report))
		for _, n := range report.Numbers {
			if n.Item == "" && !a.gone { // names are asked for, so many at a time
				return false
			}
		}
		return true
	})
	fates := map[string]int{}
	for i, n := range report.Numbers {
		if n.Number != int64(i+1) {
			a.t.Fatalf("%s: number %d stands in the place of %d", s.name, n.Number, i+1)
		}
		number := fmt.Sprintf("%s/%d", n.Series, n.Number)
		if a.gone && n.Item == "" {
			n.Item = a.item[number]
		}
		if a.number[n.Item] != number {
			a.t.Errorf("%s: the report says that %s has the number %s, and the answer was %q", s.name, n.Item, number, a.number[n.Item])
		}
		if fate := a.fate[n.Item]; fate != "" && n.State != fate || fate == "" && !a.asked[n.Item] && n.State != api.NumberReserved {
			a.t.Errorf("%s: the report says that %s is %s, and said was %q", s.name, n.Item, n.State, fate)
		}
		if n.State == api.NumberVoid && (n.Reason == "" || n.User == "" || n.Time == nil) || n.Device == nil {
			a.t.Errorf("%s: the report does not explain %+v", s.name, n)
		}
		fates[n.State]++
	}
	if len(report.Numbers) != len(a.number) {
		a.t.Errorf("%s: the report has %d numbers, and %d were given", s.name, len(report.Numbers), len(a.number))
	}
	a.t.Logf("%s reports %d numbers without a gap: %v", s.name, len(report.Numbers), fates)
}

// clerk is somebody who numbers invoices at any of the desks, and says of some what became of them.
type clerk struct {
	told   *told
	random *rand.Rand
	desks  []*desk
	typed  bool // by commands, of which some are killed themselves
}

// insists asks until there is an answer, at whichever desk.
func (c *clerk) insists(ctx context.Context, what func(d *desk, at *client.Client) error) {
	for ctx.Err() == nil {
		d := c.desks[c.random.IntN(len(c.desks))]
		if at := d.at.Load(); at != nil {
			err := what(d, at)
			if err == nil {
				return
			}
			code := string(api.CodeOf(err))
			if c.typed {
				code = "of a command"
			}
			c.told.fails(code)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(10+c.random.IntN(40)) * time.Millisecond):
		}
	}
}

// command runs a command at a desk, and kills one of ten at a moment by chance.
func (c *clerk) command(d *desk, args ...string) (n api.Number, err error) {
	cmd := d.command(append([]string{"--json", "--user", "clerk", "number"}, args...)...)
	if c.random.IntN(10) == 0 {
		after := time.AfterFunc(time.Duration(c.random.IntN(100))*time.Millisecond, func() {
			if cmd.Process != nil {
				_ = cmd.Process.Kill()
			}
		})
		defer after.Stop()
	}
	out, err := cmd.Output()
	if err != nil {
		return n, err
	}
	return n, json.Unmarshal(out, &n)
}

func (c *clerk) assign(ctx context.Context, item string) {
	c.insists(ctx, func(d *desk, at *client.Client) (err error) {
		var n api.Number
		if c.typed {
			n, err = c.command(d, "assign", "invoices", "--item", item)
		} else {
			n, err = at.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: item})
		}
		if err == nil {
			c.told.takes(item, n)
		}
		return err
	})
}

func (c *clerk) resolve(ctx context.Context, item, state string) {
	req := api.ResolveRequest{Circle: "invoices", Item: item, State: state}
	if state == api.NumberVoid {
		req.Reason = "entered twice"
	}
	c.told.mu.Lock()
	c.told.asked[item] = true
	c.told.mu.Unlock()
	c.insists(ctx, func(d *desk, at *client.Client) (err error) {
		switch {
		case !c.typed:
			_, err = at.ResolveNumber(ctx, "clerk", req)
		case state == api.NumberVoid:
			_, err = c.command(d, "void", "invoices", "--item", item, "--reason", req.Reason)
		default:
			_, err = c.command(d, "use", "invoices", "--item", item)
		}
		if err == nil {
			c.told.mu.Lock()
			c.told.fate[item] = state
			c.told.mu.Unlock()
		}
		return err
	})
}

// work numbers invoices until there are no more: each once, some once more elsewhere. Of some it is said what became of them.
func (c *clerk) work(ctx context.Context, next func() int) {
	for i := next(); i >= 0 && ctx.Err() == nil; i = next() {
		item := fmt.Sprintf("Invoice/%d", i)
		c.assign(ctx, item)
		switch c.random.IntN(20) {
		case 0:
			c.resolve(ctx, item, api.NumberVoid)
		case 1, 2, 3, 4, 5:
			c.resolve(ctx, item, api.NumberUsed)
		case 6, 7:
			c.assign(ctx, fmt.Sprintf("Invoice/%d", c.random.IntN(i+1))) // that somebody asked for, or does just now
		}
	}
}

// TestNumbersUnderKills: three devices vote, a fourth does not, and eight clerks number invoices at them, two of these by commands. Agents are killed and started again at random, now and
// then two at once, and so are commands. Whatever anybody was told holds: no number twice, no gap that the report does not explain, one number for an item.
func TestNumbersUnderKills(t *testing.T) {
	heavy(t)
	invoices := 10_000
	if n, err := strconv.Atoi(os.Getenv("INVOICES")); err == nil {
		invoices = n
	}
	random := seed(t)
	root := t.TempDir()
	a := newSite(t, root, "Mitte").steady()
	a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
	a.start()
	anchor := newAnchor(t, root, "anker") // by which those meet that know no address of each other
	anchor.takes(a)
	desks := []*desk{{site: a}}
	for _, name := range []string{"Nord", "Sued", "Labor"} {
		s := newSite(t, root, name).steady()
		s.mustRun("join", a.invitesServer(), "--site", name, "--device", name)
		s.start()
		desks = append(desks, &desk{site: s})
	}
	for _, d := range desks {
		for _, other := range desks {
			if d != other {
				d.syncsWith(other.name)
			}
		}
		d.at.Store(d.client)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := a.client.OpenCircle(ctx, api.CircleRequest{Name: "invoices", First: 1, Last: 1 << 40})
	must(t, err)
	_, err = a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"Nord", "Sued"}})
	must(t, err)

	all := newTold(t)
	var count atomic.Int64
	next := func() int {
		if i := int(count.Add(1)) - 1; i < invoices {
			return i
		}
		return -1
	}
	begun := time.Now()
	var work sync.WaitGroup
	for i := range 8 {
		c := &clerk{told: all, random: rand.New(rand.NewPCG(random.Uint64(), uint64(i))), desks: desks, typed: i < 2}
		work.Go(func() { c.work(ctx, next) })
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	kills, both := 0, 0
	for working := true; working; {
		select {
		case <-done:
			working = false
			continue
		case <-time.After(time.Duration(1000+random.IntN(5000)) * time.Millisecond):
		}
		victims := random.Perm(len(desks))[:1+random.IntN(5)/4]
		for _, v := range victims {
			desks[v].crash()
		}
		kills += len(victims)
		both += len(victims) - 1
		wait(t, time.Duration(random.IntN(3000))*time.Millisecond)
		for _, v := range victims {
			desks[v].back()
		}
	}
	took := time.Since(begun)
	t.Logf("%d invoices were numbered in %v, over %d kills of agents, %d times two at once; %d answers said again what was known; errors by code: %v",
		len(all.number), took.Round(time.Second), kills, both, all.again, all.failed)
	if len(all.number) != invoices {
		t.Errorf("%d of %d invoices have a number", len(all.number), invoices)
	}
	if kills < invoices/1000 || all.again == 0 {
		t.Error("the run shows little")
	}
	for _, d := range desks {
		d.inSync()
	}
	c := clerk{told: all, random: random, desks: desks}
	for range 200 {
		c.assign(ctx, fmt.Sprintf("Invoice/%d", random.IntN(invoices)))
	}
	for _, d := range desks {
		all.settle(d.site, "invoices")
	}
}
