package lan

import (
	"math/rand/v2"
	"time"
)

// Periods.
const (
	steady     = time.Minute            // between announcements when nothing happens, more or less a fifth
	renewal    = time.Hour              // of the nonce
	answerLate = 120 * time.Millisecond // at most, so that not all answer at once
	answerGap  = time.Second            // between announcements that answer
)

// burst is when to announce after a change: packets of multicast get lost, and who wakes up is not all there at once.
var burst = []time.Duration{0, time.Second, 3 * time.Second, 9 * time.Second}

// schedule says when to announce. It is told the time and holds no timer.
type schedule struct {
	random *rand.Rand
	next   time.Time // of the regular announcements
	left   []time.Duration
	from   time.Time // what left counts from
	answer time.Time // when to answer; zero: nobody asked
	last   time.Time // the last announcement
	drawn  time.Time // the nonce
}

// changed begins a burst, with a new nonce.
func (s *schedule) changed(now time.Time) {
	s.left, s.from, s.drawn = burst, now, time.Time{}
	s.next = now
}

// asked notes that somebody asks who is there.
func (s *schedule) asked(now time.Time) {
	if s.answer.IsZero() {
		s.answer = now.Add(time.Duration(s.random.Int64N(int64(answerLate))))
		if after := s.last.Add(answerGap); s.answer.Before(after) {
			s.answer = after
		}
	}
}

// due says what is to be sent now: an announcement, under a new nonce, and a question; and when to look again.
func (s *schedule) due(now time.Time) (announce, renew, ask bool, again time.Time) {
	regular := !now.Before(s.next)
	announce = regular || !s.answer.IsZero() && !now.Before(s.answer)
	if announce {
		s.answer, s.last = time.Time{}, now
		if renew = s.drawn.IsZero() || now.Sub(s.drawn) >= renewal; renew {
			s.drawn = now
		}
	}
	if regular {
		for len(s.left) > 0 && !s.from.Add(s.left[0]).After(now) {
			s.left = s.left[1:]
		}
		if len(s.left) > 0 {
			s.next = s.from.Add(s.left[0])
		} else {
			s.next = now.Add(steady*4/5 + time.Duration(s.random.Int64N(int64(steady*2/5))))
		}
	}
	again = s.next
	if !s.answer.IsZero() && s.answer.Before(again) {
		again = s.answer
	}
	return announce, renew, regular, again
}
