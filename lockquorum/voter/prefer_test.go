package voter

import (
	"slices"
	"testing"
)

// TestPreference: the lead goes to the preferred voter once it has been well for so many ticks on end.
func TestPreference(t *testing.T) {
	const after = 20
	well := sight{votes: true, heard: true}
	for _, c := range []struct {
		name string
		at   func(tick int) sight
		want []int // the ticks at which the lead is handed over, of 100
	}{
		{"well from the first tick on", func(int) sight { return well }, []int{20, 40, 60, 80, 100}},
		{"heard anew at every second tick", func(i int) sight { return sight{votes: true, heard: i%2 == 0} }, []int{20, 40, 60, 80, 100}},
		{"away until 50", func(i int) sight { return sight{votes: true, heard: i > 50} }, []int{70, 90}},
		{"away for a moment every 15", func(i int) sight { return sight{votes: true, heard: i%15 > 5} }, nil},
		{"behind until 70", func(i int) sight {
			s := well
			if i <= 70 {
				s.behind = maxInflight + 1
			}
			return s
		}, []int{90}},
		{"votes from 10 on", func(i int) sight { s := well; s.votes = i > 10; return s }, []int{30, 50, 70, 90}},
		{"who votes is changed at 19", func(i int) sight { s := well; s.changing = i == 19; return s }, []int{39, 59, 79, 99}},
		{"never heard", func(int) sight { return sight{votes: true} }, nil},
		{"not there", func(int) sight { return sight{heard: true} }, nil},
	} {
		var p preference
		var got []int
		for i := 1; i <= 100; i++ {
			if p.tick(c.at(i), after, 5) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: it hands over at %v, not %v", c.name, got, c.want)
		}
	}
}
