package simulations

import (
	"errors"
	"slices"
	"time"

	"chartmesh/trust"
)

// knockAfter is how long a device that is not let in waits before it brings its membership log.
const knockAfter = 3 * time.Second

// knock has a device bring its membership log to one that it lets in and that does not let it in: that one takes it if with it the
// device belongs.
func (w *World) knock(l *link) {
	if !w.cfg.Removals || !l.between() || l.knocking || l.knocker() < 0 || w.net.group[l.ends[0]] != w.net.group[l.ends[1]] {
		return
	}
	heads := l.heads()
	if heads == l.refused {
		return
	}
	l.knocking = true
	w.after(knockAfter, false, func() {
		l.knocking = false
		if i := l.knocker(); i >= 0 && w.net.group[l.ends[0]] == w.net.group[l.ends[1]] {
			w.readmit(l, l.devices()[i], l.devices()[1-i])
		}
		w.dial(l)
	})
}

// knocker returns which of the two ends is not let in by the other, and would let it in; -1: none.
func (l *link) knocker() int {
	a, b := l.devices()[0], l.devices()[1]
	switch {
	case a == nil:
		return -1
	case a.replica == nil || b.replica == nil || a.admits(b) == b.admits(a):
		return -1
	case a.admits(b):
		return 0
	}
	return 1
}

func (l *link) heads() (both [2][32]byte) {
	for i, d := range l.devices() {
		both[i] = d.replica.State().HeadsHash()
	}
	return both
}

func (w *World) readmit(l *link, from, into *device) {
	heads := l.heads()
	into.busy = "readmit " + from.name
	belongs, err := into.replica.Readmit(w.ctx, from.keys.Device(), from.replica.EntriesSince(nil))
	into.generation++
	if !into.survived() {
		w.note("%s knocks at %s: unknown", from.name, into.name)
		return
	}
	w.note("%s knocks at %s: %v, %v", from.name, into.name, belongs, err)
	switch {
	case err != nil && !errors.Is(err, errDisk):
		w.fail("I-sound", "%s cannot judge what %s brings: %v", into.name, from.name, err)
	case err == nil && belongs:
		w.report.Readmitted++
		w.heard(into)
	case err == nil:
		l.refused = heads
	}
}

// knocking reports whether somebody is about to knock.
func (w *World) knocking() bool {
	return slices.ContainsFunc(w.net.links, func(l *link) bool { return l.knocking })
}

// checkApart is I-members of those who do not let each other in: of two of which one lets in the other, which does not let it in, the one
// does not belong by all that both know. So a practice stays in parts only where each lets in nobody of the other.
func (w *World) checkApart() {
	st, remaining := w.truth(), w.remaining()
	for _, d := range w.devices {
		if _, ok := st.Member(d.keys.Device()); ok && !slices.Contains(remaining, d) {
			w.report.Apart++
		}
	}
	for _, l := range w.net.links {
		i := l.knocker()
		if i < 0 {
			continue
		}
		out, in := l.devices()[i], l.devices()[1-i]
		both, _ := trust.Replay(append(out.replica.State().Entries(), in.replica.State().Entries()...))
		if _, belongs := both.Member(out.keys.Device()); belongs {
			w.fail("I-members", "%s does not let %s in, which belongs", in.name, out.name)
		}
	}
}
