package replica

// Figures is what the replica counts for whoever watches over it.
type Figures struct {
	Lag    uint64 // chunks that are stored and that the applier has not come to
	Events uint64 // the cursor of the last event
}

// Figures returns them as of now.
func (r *Replica) Figures() Figures {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := Figures{Events: r.mu.event}
	for scope, byLog := range r.mu.Vectors {
		for log, held := range byLog {
			if applied := r.mu.applied[scope][log].Counter; held.Counter > applied {
				f.Lag += held.Counter - applied
			}
		}
	}
	return f
}
