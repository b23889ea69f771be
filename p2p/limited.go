package p2p

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// Limited is a replica that takes no more than its share of a device that holds many.
type Limited interface {
	session.Replica
	// UsedUp reports whether no more is stored of it. It is asked often; FullChanged says that it changed.
	UsedUp() bool
	// Gone reports whether it is no more: no session with it begins. Whoever calls Host.Forget has it say so before.
	Gone() bool
	// Connections is how many devices may have a session with it at once; 0: any number.
	Connections() int
	// Rate bounds the bytes that arrive for it; nil: nothing does. Its burst is at least RateBurst.
	Rate() *rate.Limiter
}

// RateBurst is how many bytes are taken off a stream at once.
const RateBurst = pieceSize

// errCrowded ends the link of one device too many.
var errCrowded = errors.New("as many devices of its practice are connected as are admitted")

// errDropped ends the links of a practice that this device lets go.
var errDropped = errors.New("the practice was dropped")

// errTooMuch ends a link that has a large frame come or go while others of its practice take all the memory that there is for them. It is
// sent again.
var errTooMuch = errors.New("more large frames are on their way at once than there is memory for; they are sent again")

// large is the memory that large frames take of one practice's links together: whoever sends or takes them slowly has them stay.
type large struct {
	bytes atomic.Int64
	most  int64
}

// take has memory for a frame, beyond what each link may take by itself, until it is given back; nil: nothing is counted.
func (l *large) take(n int) (giveBack func(), err error) {
	beyond := int64(n - ownFrame)
	if l == nil || beyond <= 0 {
		return func() {}, nil
	}
	if l.bytes.Add(beyond) > l.most {
		l.bytes.Add(-beyond)
		return func() {}, errTooMuch
	}
	return func() { l.bytes.Add(-beyond) }, nil
}

// sessions is what a host knows of all sessions with one replica.
type sessions struct {
	open          int
	past          Traffic // of those that are over
	contact       time.Time
	coming, going large
}

// fullOf says why nothing is stored of a replica.
func (h *Host) fullOf(r session.Replica) session.Full {
	if h.full.Load() {
		return session.DiskFull
	}
	if l, ok := r.(Limited); ok && l.UsedUp() {
		return session.UsedUp
	}
	return session.NotFull
}

// FullChanged says that a replica's UsedUp is another than it was. The peers are told.
func (h *Host) FullChanged(of session.Replica) {
	for _, l := range h.links() {
		if l.replica == of {
			l.wakeWriter()
		}
	}
}

// ofLocked returns what is known of the sessions with a replica, made if need be.
func (h *Host) ofLocked(r session.Replica) *sessions {
	if h.mu.of[r] == nil {
		h.mu.of[r] = &sessions{coming: large{most: maxComing}, going: large{most: maxGoing}}
	}
	return h.mu.of[r]
}

// crowdedLocked reports whether a replica has as many sessions as it may.
func (h *Host) crowdedLocked(r session.Replica) bool {
	l, ok := r.(Limited)
	return ok && l.Connections() > 0 && h.ofLocked(r).open >= l.Connections()
}

// largeOf returns the memory that there is for large frames of a replica's links.
func (h *Host) largeOf(r session.Replica) (coming, going *large) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.ofLocked(r)
	return &of.coming, &of.going
}

// gone reports whether a replica is no more.
func gone(r session.Replica) bool {
	l, ok := r.(Limited)
	return ok && l.Gone()
}

// Forget ends every session with a replica that is no more, which the peers are told, waits until they are gone, and forgets what they moved.
func (h *Host) Forget(r session.Replica) {
	var ending []*link
	for _, l := range h.links() {
		if l.replica == r {
			l.end(errDropped)
			ending = append(ending, l)
		}
	}
	for _, l := range ending {
		<-l.gone
	}
	h.mu.Lock()
	delete(h.mu.of, r)
	h.mu.Unlock()
	h.wakeDialler()
}

// Moved is what the sessions with one replica have moved since the host was opened.
type Moved struct {
	Traffic
	Contact time.Time // when one last brought anything; zero: never
}

// Moved returns what the sessions with each replica have moved.
func (h *Host) Moved() map[session.Replica]Moved {
	h.mu.Lock()
	list := make(map[session.Replica]Moved, len(h.mu.of))
	for r, of := range h.mu.of {
		list[r] = Moved{of.past, of.contact}
	}
	h.mu.Unlock()
	for _, l := range h.links() {
		m, s := list[l.replica], l.session.Status()
		m.Open++
		m.add(s)
		m.Contact = maxTime(m.Contact, s.LastFrame)
		list[l.replica] = m
	}
	return list
}

// HasConnection reports whether there is a connection to a device.
func (h *Host) HasConnection(d trust.DeviceID) bool {
	id, err := PeerID(d)
	return err == nil && len(h.host.Network().ConnsToPeer(id)) > 0
}

// longestWait is how long a stream waits at most before more is taken off it, so that both ends know that the other lives.
const longestWait = 5 * time.Second

// await waits until n bytes that have arrived for a replica are within its rate, or ctx ends. n is at most RateBurst.
func await(ctx context.Context, r session.Replica, n int) {
	l, ok := r.(Limited)
	if !ok || n == 0 {
		return
	}
	limiter := l.Rate()
	if limiter == nil {
		return
	}
	now := time.Now()
	taken := limiter.ReserveN(now, n)
	wait := taken.DelayFrom(now)
	if wait == 0 {
		return
	}
	if wait > longestWait {
		taken.CancelAt(now) // else what many streams owe together would never end
		wait = longestWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
