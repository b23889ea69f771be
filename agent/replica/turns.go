package replica

import "sync/atomic"

// turns is a mutex whose waiters get it in the order in which they came, so that who gives it up for a moment comes last.
// What may hold it for long (an import, the applier) asks whether somebody waits.
type turns struct {
	held    chan struct{} // full while somebody has the turn; the runtime serves blocked senders first come, first served
	waiting atomic.Int32
}

func newTurns() turns { return turns{held: make(chan struct{}, 1)} }

// Lock waits for the turn, as one for whom others may have to interrupt what they do.
func (t *turns) Lock() {
	t.waiting.Add(1)
	t.held <- struct{}{}
	t.waiting.Add(-1)
}

// lockPatiently waits without being counted.
func (t *turns) lockPatiently() { t.held <- struct{}{} }

// Unlock ends the turn.
func (t *turns) Unlock() { <-t.held }

// wanted reports whether somebody waits who is not patient.
func (t *turns) wanted() bool { return t.waiting.Load() > 0 }
