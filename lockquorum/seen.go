package lockquorum

// Seen is how far somebody saw a quorum come: a place, and the chain of all commands up to there. Who shows it, shows that the quorum was there;
// that it is true is for the caller to know (a voter signed it).
type Seen struct {
	Place
	Chain [32]byte
}

// Seen returns how far a State has come.
func (s *State) Seen() Seen { return Seen{s.place(), s.chain} }
