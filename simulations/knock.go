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
	if !w.cfg.Removals || l.knocking || l.knocker() < 0 || !w.net.way(l) {
		return
	}
	heads := l.heads()
	if heads == l.refused {
		return
	}
	l.knocking = true
	w.after(knockAfter, false, func() {
		l.knocking = false
		if i := l.knocker(); i >= 0 && w.net.way(l) {
			w.readmit(l, l.ends[i].(*device), l.ends[1-i])
		}
		w.dial(l)
	})
}

// knocker returns which of the two ends is not let in by the other, and would let it in; -1: none. An anchor knocks nowhere.
func (l *link) knocker() int {
	a, b := l.ends[0], l.ends[1]
	if a.holder() == nil || b.holder() == nil || a.admits(b) == b.admits(a) {
		return -1
	}
	i := 0
	if b.admits(a) {
		i = 1
	}
	_, knocks := l.ends[i].(*device)
	if _, ok := l.ends[1-i].(*anchor); ok && !l.ends[1-i].holder().Former(l.ends[i].id()) {
		knocks = false // it hears nobody whom the practice never knew
	}
	if !knocks {
		return -1
	}
	return i
}

func (l *link) heads() (both [2][32]byte) {
	for i, d := range l.ends {
		both[i] = d.holder().State().HeadsHash()
	}
	return both
}

func (w *World) readmit(l *link, from *device, into node) {
	heads := l.heads()
	into.begins("readmit " + from.name)
	belongs, err := into.holder().Readmit(w.ctx, from.id(), from.replica.EntriesSince(nil))
	if !into.survived() {
		w.note("%s knocks at %s: unknown", from.name, into.called())
		return
	}
	w.note("%s knocks at %s: %v, %v", from.name, into.called(), belongs, err)
	switch {
	case err != nil && !errors.Is(err, errDisk):
		w.fail("I-sound", "%s cannot judge what %s brings: %v", into.called(), from.name, err)
	case err == nil && belongs:
		w.report.Readmitted++
		if w.isAnchor(into) {
			w.report.AnchorReadmitted++
		}
		w.heard(into, from)
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
		out, in := l.ends[i], l.ends[1-i]
		both, _ := trust.Replay(append(out.holder().State().Entries(), in.holder().State().Entries()...))
		if _, belongs := both.Member(out.id()); belongs && (in != node(w.anchor) || both.IsAnchor(in.id())) {
			w.fail("I-members", "%s does not let %s in, which belongs", in.called(), out.called())
		}
	}
}
