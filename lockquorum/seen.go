package lockquorum

import (
	"errors"
	"fmt"
)

// Seen is how far somebody saw a quorum come: a place, and the chain of all commands up to there. Who shows it, shows that the quorum was there;
// that it is true is for the caller to know (a voter signed it: Position).
type Seen struct {
	Place
	Chain [32]byte
}

// Seen returns how far a State has come.
func (s *State) Seen() Seen { return Seen{s.place(), s.chain} }

// ErrUnsigned says that an answer does not say in its voter's name how far the quorum had come.
var ErrUnsigned = errors.New("the answer is not signed by the voter that gives it")

// ErrForked says that an answer does not go on from what was seen before it was asked for: the voter lost something, and does not know it.
var ErrForked = errors.New("the voter answers as if something that was agreed on had never been")

// GoesOn checks an answer that came from s against what had been shown with the question: all of that was agreed on before the answer. It is ErrForked or ErrOver.
// What was seen long before s, only the voter can compare.
func (s Seen) GoesOn(shown ...Seen) error {
	for _, t := range shown {
		switch {
		case t.Epoch > s.Epoch:
			return fmt.Errorf("%w: %d, and the answer is of %d", ErrOver, t.Epoch, s.Epoch)
		case t.Epoch == s.Epoch && (t.Index > s.Index || t.Index == s.Index && t.Chain != s.Chain):
			return fmt.Errorf("%w: it was seen at %v, and the answer is from %v", ErrForked, t.Place, s.Place)
		}
	}
	return nil
}

// Memory is what somebody keeps of how far the quorum came: the latest that voters told it, and the latest that it heard of from others. Both are
// shown with every question, since they may be of two histories.
type Memory struct{ Own, Heard Position }

// Told notes what came with an answer. It reports whether that is later than all that was told before.
func (m *Memory) Told(p Position) bool { return later(&m.Own, p) }

// Hear notes what somebody else carries. It reports whether that is later than all that was heard before.
func (m *Memory) Hear(p Position) bool { return later(&m.Heard, p) }

func later(have *Position, p Position) bool {
	if p.Compare(have.Place) <= 0 {
		return false
	}
	*have = p
	return true
}

// Shows returns what is shown with a question.
func (m *Memory) Shows() (list []Position) {
	for _, p := range []Position{m.Own, m.Heard} {
		if p != (Position{}) && (len(list) == 0 || list[0].Seen != p.Seen) {
			list = append(list, p)
		}
	}
	return list
}

// Carries returns the latest of all, which is told to others.
func (m *Memory) Carries() Position {
	if m.Heard.Compare(m.Own.Place) > 0 {
		return m.Heard
	}
	return m.Own
}
