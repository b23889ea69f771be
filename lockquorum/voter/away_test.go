package voter

import (
	"testing"

	"chartmesh/lockquorum"
)

// TestNotToWhoIsAway: a voter that is away does not become the only one: without it those of before go on, and it could not go on without them.
func TestNotToWhoIsAway(t *testing.T) {
	c := found(t, 3)
	c.cut[1] = true
	n := c.leader()
	for i := range 2 * caughtUp {
		c.do(assign(byte(i)))
	}
	want := []lockquorum.Voter{n.State().Voters()[0]}
	for range 20 {
		step, err := c.leader().Change(want)
		if err != nil || step.Done || step.Voters != nil || step.Waits == "" {
			t.Fatalf("the next step is %+v (%v)", step, err)
		}
		c.run(1)
	}
	if conf := c.leader().Conf(); len(conf.GetVoters()) != 3 || len(conf.GetVotersOutgoing()) != 0 {
		t.Fatalf("they rest at %v", conf)
	}
	c.cut[1] = false
	for range 500 {
		leader := c.leader()
		step, err := leader.Change(want)
		if err == nil && step.Done {
			return
		}
		if step.Voters != nil {
			if _, err := leader.Propose(c.now, &lockquorum.Command{Operation: &lockquorum.Voters{List: step.Voters}}); err != nil {
				t.Fatal(err)
			}
		}
		c.run(1)
	}
	t.Fatal("it does not become the only one when it is back")
}
