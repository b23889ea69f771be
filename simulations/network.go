package simulations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// node is a device or the anchor, as the network knows it.
type node interface {
	id() trust.DeviceID
	called() string
	holder() holder // nil: it is down
	admits(node) bool
	// config says how it talks to another.
	config(with node) session.Config
	// begins notes what it is about to do; survived takes the consequences of what happened in a commit meanwhile.
	begins(what string)
	survived() bool
	// claims notes what it tells.
	claims()
	// heard follows what a frame of another brought.
	heard(from node, res session.Result)
	// describe says how far it has come, for a failure's detail.
	describe() string
}

// network is who can reach whom, and what is on the way.
type network struct {
	links []*link
	group map[node]int // partitions; those of one group reach each other
	messy bool         // frames are lost, doubled and reordered, as no stream does
	star  bool         // devices reach the anchor alone, until the network heals, or for good
	alone bool         // for good
	tree  bool         // each device but the first reaches one of those before it, so that what is lost on a link comes by no other
}

// link is a pair of devices, or of a device and the anchor, that talk when they can.
type link struct {
	ends    [2]node
	born    int  // how often everything on the way was lost with one of the devices
	cut     bool // frames vanish, and nobody notices
	dialing bool
	conn    *conn // nil: not connected
	late    [2]time.Time

	knocking bool        // an end is about to bring its membership log
	refused  [2][32]byte // the heads of both when that changed nothing
}

// conn is a session at each end of a link.
type conn struct {
	link     *link
	sessions [2]*session.Session
	wake     [2]time.Time // when each is to be looked after next
}

// end is one side of a connection.
type end struct {
	conn *conn
	side int
}

func (e end) session() *session.Session { return e.conn.sessions[e.side] }
func (e end) node() node                { return e.conn.link.ends[e.side] }
func (e end) peer() node                { return e.conn.link.ends[1-e.side] }

// ends lists the connections of one.
func (n *network) ends(d node) []end {
	var list []end
	for _, l := range n.links {
		for i := range l.ends {
			if l.conn != nil && l.ends[i] == d {
				list = append(list, end{l.conn, i})
			}
		}
	}
	return list
}

// connectAll lays the links that devices lack, and dials where it can.
func (w *World) connectAll() {
	n := &w.net
	if n.group == nil {
		n.group = map[node]int{}
		n.messy, n.tree = w.chance(2), w.chance(3)
		n.tree = n.tree && !w.cfg.Removals // who is removed would leave the others apart for ever
	}
	for i, a := range w.devices {
		if n.alone {
			break
		}
		before := slices.DeleteFunc(slices.Clone(w.devices[:i]), func(b *device) bool { return a.keys.Device() == b.keys.Device() })
		if n.tree && len(before) > 0 {
			if slices.ContainsFunc(before, func(b *device) bool { return n.linked(a, b) }) {
				continue
			}
			before = []*device{before[w.rng.IntN(len(before))]}
		}
		for _, b := range before {
			if !n.linked(a, b) {
				n.links = append(n.links, &link{ends: [2]node{b, a}})
			}
		}
	}
	w.linkAnchor()
	for _, l := range n.links {
		w.dial(l)
	}
}

func (n *network) linked(a, b node) bool {
	for _, l := range n.links {
		if l.ends == [2]node{a, b} || l.ends == [2]node{b, a} {
			return true
		}
	}
	return false
}

func (n *network) reachable(l *link) bool {
	a, b := l.ends[0], l.ends[1]
	return a.holder() != nil && b.holder() != nil && n.way(l) && a.admits(b) && b.admits(a)
}

// way reports whether frames come through from one end to the other.
func (n *network) way(l *link) bool {
	return n.group[l.ends[0]] == n.group[l.ends[1]] && !(n.star && l.between())
}

// between reports whether both ends are devices.
func (l *link) between() bool { return l.devices() != [2]*device{} }

// devices returns both ends, if they are devices.
func (l *link) devices() (both [2]*device) {
	a, ok := l.ends[0].(*device)
	b, and := l.ends[1].(*device)
	if ok && and {
		return [2]*device{a, b}
	}
	return both
}

// dial connects a link after a while, if that is possible then.
func (w *World) dial(l *link) {
	if l.dialing || l.conn != nil {
		return
	}
	if !w.net.reachable(l) {
		w.knock(l)
		return
	}
	l.dialing = true
	w.after(w.between(time.Millisecond, 3*time.Second), false, func() {
		l.dialing = false
		if l.conn == nil && w.net.reachable(l) {
			w.connect(l)
		}
	})
}

func (w *World) connect(l *link) {
	c := &conn{link: l}
	l.conn, l.late = c, [2]time.Time{}
	for i, d := range l.ends {
		cfg := d.config(l.ends[1-i])
		cfg.Self, cfg.Peer, cfg.Window, cfg.FramePayload = d.id(), l.ends[1-i].id(), 24<<10, 6<<10
		c.sessions[i] = session.New(cfg)
		c.sessions[i].Start(w.now)
	}
	w.note("%s and %s connect", l.ends[0].called(), l.ends[1].called())
	w.pump(end{c, 0})
	w.pump(end{c, 1})
}

// checkAck is I-durable of what a peer says that it holds: it must be durable there.
func (w *World) checkAck(from trust.DeviceID, a session.Ack) {
	for _, log := range a.Stored.Logs() {
		held, up := false, false
		for _, d := range w.devices { // a device may have been started twice
			if d.id() == from && d.replica != nil {
				up, held = true, held || d.stands(a.Scope, log, a.Stored[log])
			}
		}
		if w.anchor != nil && w.anchor.id() == from && w.anchor.kept != nil {
			up, held = true, w.anchor.stands(a.Scope, log, a.Stored[log])
		}
		if up && !held {
			w.fail("I-durable", "%s acknowledged %d chunks of %v and does not hold them", w.deviceOf(from), a.Stored[log].Counter, log)
		}
	}
}

// listener is a replica whose peers are not taken at their word.
type listener struct {
	*replica.Replica
	w *World
}

// Acked implements session.Replica.
func (l listener) Acked(ctx context.Context, from trust.DeviceID, a session.Ack) error {
	l.w.checkAck(from, a)
	return l.Replica.Acked(ctx, from, a)
}

// drop ends a connection; it is dialled again when it can be.
func (w *World) drop(l *link) {
	if l.conn != nil {
		l.conn = nil
		w.after(w.between(time.Second, 5*time.Second), false, func() { w.dial(l) })
	}
}

func (n *network) dropDevice(w *World, d node) {
	for _, l := range n.links {
		if l.ends[0] == d || l.ends[1] == d {
			w.drop(l)
		}
	}
}

func (n *network) pumpDevice(w *World, d node) {
	for _, e := range n.ends(d) {
		w.pump(e)
	}
}

// pump takes out what a session wants to send, and comes back at its deadline.
func (w *World) pump(e end) {
	d, s := e.node(), e.session()
	for d.holder() != nil && e.conn.link.conn == e.conn {
		f, err := s.Next(w.ctx, w.now)
		if err != nil {
			w.fail("I-sound", "%s has nothing to send to %s: %v", d.called(), e.peer().called(), err)
			return
		}
		if f == nil {
			break
		}
		d.claims()
		w.send(e, f)
	}
	at := s.Deadline()
	if at.IsZero() || !e.conn.wake[e.side].IsZero() && e.conn.wake[e.side].After(w.now) && !at.Before(e.conn.wake[e.side]) {
		return
	}
	at = maxTime(at, w.now.Add(time.Millisecond))
	e.conn.wake[e.side] = at
	w.after(at.Sub(w.now), false, func() {
		if e.conn.link.conn == e.conn && e.conn.wake[e.side].Equal(at) {
			e.conn.wake[e.side] = time.Time{}
			w.pump(e)
		}
	})
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// send puts a frame on the way to the other side.
func (w *World) send(e end, f session.Frame) {
	l, to := e.conn.link, 1-e.side
	copies, inOrder := 1, true
	if w.net.messy && !w.healed {
		switch w.rng.IntN(20) {
		case 0:
			copies = 0
		case 1:
			copies = 2
		case 2, 3:
			inOrder = false
		}
	}
	for range copies {
		at := w.now.Add(w.between(time.Millisecond, 80*time.Millisecond))
		if inOrder {
			at = maxTime(at, l.late[to])
			l.late[to] = at
		} else {
			at = at.Add(w.between(0, 4*time.Second))
		}
		born := l.born
		w.after(at.Sub(w.now), false, func() {
			if l.born == born {
				w.deliver(e.conn, to, f)
			}
		})
	}
}

// deliver hands a frame to the device that it is for, if it comes through.
func (w *World) deliver(sent *conn, side int, f session.Frame) {
	l := sent.link
	if l.conn == nil || !w.net.reachable(l) || l.cut {
		return
	}
	if l.conn != sent && (!w.net.messy || w.healed || w.chance(2)) {
		return // of an earlier connection
	}
	e := end{l.conn, side}
	d := e.node()
	d.begins("take a frame from " + e.peer().called())
	w.report.Frames++
	res, err := e.session().Handle(w.ctx, w.now, f)
	if !d.survived() {
		return
	}
	if err != nil {
		if !errors.Is(err, errDisk) && !errors.Is(err, session.ErrFlood) {
			w.fail("I-sound", "%s ends its session with %s: %v", d.called(), e.peer().called(), err)
		}
		w.note("%s drops %s: %v", d.called(), e.peer().called(), err)
		w.drop(l)
		return
	}
	for _, o := range w.net.ends(d) {
		if o.conn == e.conn {
			continue
		}
		if len(res.Arrived) > 0 {
			o.session().Relayed(w.now, res.Arrived)
		}
		if res.Entries {
			o.session().LocalEntries(w.now)
		}
	}
	d.heard(e.peer(), res)
	w.net.pumpDevice(w, d)
}

// What of a device the network knows.

func (d *device) id() trust.DeviceID { return d.keys.Device() }
func (d *device) called() string     { return d.name }
func (d *device) claims()            { d.tell(d.replica) }

func (d *device) holder() holder {
	if d.replica == nil {
		return nil
	}
	return d.replica
}

func (d *device) config(with node) session.Config {
	return session.Config{Replica: listener{d.replica, d.w}, Blind: d.w.isAnchor(with)}
}

func (d *device) begins(what string) {
	d.busy = what
	d.generation++
}

func (d *device) heard(from node, res session.Result) {
	if res.Entries {
		d.w.membershipChanged(d)
	}
	if len(res.Arrived) > 0 {
		d.w.note("%s takes chunks from %s", d.name, from.called())
	}
	if !d.replica.AtEnd() || res.Entries { // which Changed tells an agent
		d.wakeApplier()
	}
}

func (d *device) describe() string {
	if d.replica == nil {
		return "down"
	}
	st := d.replica.Status()
	return fmt.Sprintf("at end %v, held %d", st.AtEnd, st.Parked)
}

// heal joins all partitions.
func (n *network) heal(w *World) {
	clear(n.group)
	n.star = n.alone
	for _, l := range n.links {
		l.cut = false
	}
}

// agreed reports whether all links between some devices are connected and all sessions agree.
func (n *network) agreed(among []node) bool {
	for _, l := range n.links {
		if !slices.Contains(among, l.ends[0]) || !slices.Contains(among, l.ends[1]) {
			continue
		}
		if l.conn == nil || !l.conn.sessions[0].Status().Agreed || !l.conn.sessions[1].Status().Agreed {
			return false
		}
	}
	return true
}

// statuses describes what is not agreed, for a failure's detail.
func (n *network) statuses() string {
	var b strings.Builder
	for _, l := range n.links {
		if l.conn == nil {
			fmt.Fprintf(&b, "%s-%s: not connected; ", l.ends[0].called(), l.ends[1].called())
			continue
		}
		for i, s := range l.conn.sessions {
			if st := s.Status(); !st.Agreed {
				fmt.Fprintf(&b, "%s to %s: in sync %v, diverged %v, behind %d, ahead %d, %s; ",
					l.ends[i].called(), l.ends[1-i].called(), st.InSync, st.Diverged, st.BehindChunks, st.AheadChunks, l.ends[i].describe())
			}
		}
	}
	return b.String()
}

// scheduleFaults has things go wrong from time to time.
func (w *World) scheduleFaults() {
	w.after(w.between(100*time.Millisecond, 8*time.Second), true, func() {
		w.fault()
		w.scheduleFaults()
	})
}

func (w *World) deviceOf(id trust.DeviceID) string {
	for _, d := range w.devices {
		if d.keys.Device() == id {
			return d.name
		}
	}
	if w.anchor != nil && w.anchor.id() == id {
		return w.anchor.name
	}
	return id.String()
}
