package trust_test

import (
	"testing"
	"time"

	"chartmesh/trust"
)

// chain makes entries each of which follows the one before.
type chain struct {
	t       tb
	at      []trust.EntryID
	entries []trust.Entry
}

func (c *chain) add(by signer, kind trust.Kind, payload []byte) trust.EntryID {
	c.t.Helper()
	e, err := trust.Draft{Kind: kind, Parents: c.at, TimeMillis: int64(len(c.entries)), Payload: payload}.Sign(by)
	if err != nil {
		c.t.Fatal(err)
	}
	c.entries = append(c.entries, e)
	c.at = []trust.EntryID{e.ID()}
	return e.ID()
}

// long are logs of n entries and how they come about.
var long = map[string]func(t tb, n int) []trust.Entry{
	"names": func(t tb, n int) []trust.Entry {
		c := start(t)
		for len(c.entries) < n {
			c.add(ada, trust.KindRename, trust.Renaming{Device: ben.Device(), Names: []byte("sealed")}.Encode())
		}
		return c.entries
	},
	"agreed checkpoints": func(t tb, n int) []trust.Entry {
		c := start(t)
		for len(c.entries) < n {
			of := c.add(ada, trust.KindCheckpoint, trust.Checkpoint{}.Encode())
			c.add(ben, trust.KindCheckpoint, trust.Checkpoint{Of: of}.Encode())
		}
		return c.entries
	},
	// Two administrators that never hear of each other: one gives and takes roles, the other's checkpoints wait for agreement.
	"roles and checkpoints apart": func(t tb, n int) []trust.Entry {
		c := start(t)
		fork := c.at
		for len(c.entries) < n/2 {
			c.add(ada, trust.KindRole, trust.Promotion{Device: cem.Device(), Role: trust.RoleMember}.Encode())
			c.add(ada, trust.KindRole, trust.Promotion{Device: cem.Device(), Role: trust.RoleAdmin}.Encode())
		}
		c.at = fork
		for len(c.entries) < n {
			of := c.add(ben, trust.KindCheckpoint, trust.Checkpoint{}.Encode())
			c.add(cem, trust.KindCheckpoint, trust.Checkpoint{Of: of}.Encode())
		}
		return c.entries
	},
	// A removed administrator goes on beside checkpoints on which the others agree.
	"a removed administrator fills the log": func(t tb, n int) []trust.Entry {
		c := start(t)
		fork := c.at
		c.add(ada, trust.KindRemove, trust.Removal{Device: ben.Device()}.Encode())
		for len(c.entries) < n/4 {
			of := c.add(ada, trust.KindCheckpoint, trust.Checkpoint{}.Encode())
			c.add(cem, trust.KindCheckpoint, trust.Checkpoint{Of: of}.Encode())
		}
		c.at = fork
		for len(c.entries) < n {
			c.add(ben, trust.KindRole, trust.Promotion{Device: cem.Device(), Role: trust.RoleMember}.Encode())
			c.add(ben, trust.KindRole, trust.Promotion{Device: cem.Device(), Role: trust.RoleAdmin}.Encode())
		}
		return c.entries
	},
}

// start begins a practice with the administrators ada, ben and cem.
func start(t tb) *chain {
	l := draw(t, `
		0 -> 1  ada adds ben admin
		1 -> 2  ada adds cem admin`)
	return &chain{t, []trust.EntryID{l.entries["2"].ID()}, l.state().Entries()}
}

// A log that is as long as may be is read in seconds, whatever is in it, and one more entry costs milliseconds.
func BenchmarkLongLog(b *testing.B) {
	for name, entries := range long {
		for _, n := range []int{5000, trust.MaxEntries} {
			all := entries(b, n)[:n]
			b.Run(name+"/"+map[bool]string{true: "full", false: "5000"}[n == trust.MaxEntries], func(b *testing.B) {
				var replay, with time.Duration
				for b.Loop() {
					begin := time.Now()
					st, rejected := trust.Replay(all[:n-1])
					if len(rejected) > 0 {
						b.Fatal(rejected[0].Err)
					}
					replay += time.Since(begin)
					begin = time.Now()
					if _, err := st.With(all[n-1]); err != nil {
						b.Fatal(err)
					}
					with += time.Since(begin)
				}
				b.ReportMetric(replay.Seconds()/float64(b.N), "s/replay")
				b.ReportMetric(with.Seconds()*1000/float64(b.N), "ms/entry")
			})
		}
	}
}
