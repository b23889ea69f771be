package voter

import (
	"fmt"
	"runtime"
	"slices"

	"go.etcd.io/raft/v3"

	"chartmesh/lockquorum"
)

// ErrOver says that a voter was shown that a quorum of a later epoch has begun.
var ErrOver = lockquorum.ErrOver

// Err returns why this Node does not go on: ErrLost or ErrOver. Nil: it does. Once it does not, it says nothing any more, and whoever runs it ends
// it for good: its quorum goes on without it, or is founded anew.
func (n *Node) Err() error { return n.err }

// contain makes ErrLost of what Raft panics with: it does where what it is told does not fit what it has, as with a voter that went back. A fault
// of the program goes on as a panic.
func (n *Node) contain() {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		panic(p)
	case refusal:
		n.stop(fmt.Errorf("%w: %s", ErrLost, string(p)))
	case string:
		n.stop(fmt.Errorf("%w: %s", ErrLost, p))
	case error:
		n.stop(fmt.Errorf("%w: %w", ErrLost, p))
	default:
		panic(p)
	}
}

func (n *Node) stop(err error) {
	if n.err == nil {
		n.err = err
	}
	n.leader, n.leads, n.settled = 0, false, false
}

// refusal is what Raft panics with: numbers of voters, terms and entries.
type refusal string

// refusing is a logger by which Raft's panics are known.
type refusing struct{ raft.Logger }

func (refusing) Fatal(v ...any)                 { panic(refusal(fmt.Sprint(v...))) }
func (refusing) Fatalf(format string, v ...any) { panic(refusal(fmt.Sprintf(format, v...))) }
func (refusing) Panic(v ...any)                 { panic(refusal(fmt.Sprint(v...))) }
func (refusing) Panicf(format string, v ...any) { panic(refusal(fmt.Sprintf(format, v...))) }

// maxChains is of how many commands the chain is kept, the last ones that were applied here: what was seen before cannot be compared.
const maxChains = 1024

// chains are those of the last commands, and where they begin.
type chains struct {
	list []lockquorum.Seen // ascending
	at   int               // of the first, once the list is full
}

func (c *chains) add(s lockquorum.Seen) {
	if len(c.list) < maxChains {
		c.list = append(c.list, s)
		return
	}
	c.list[c.at] = s
	c.at = (c.at + 1) % maxChains
}

// get returns that at a distance from the oldest.
func (c *chains) get(i int) lockquorum.Seen { return c.list[(c.at+i)%len(c.list)] }

// Since returns how far the State had come after each of the last commands behind an index.
func (n *Node) Since(index uint64) (list []lockquorum.Seen) {
	for i := len(n.chains.list) - 1; i >= 0 && n.chains.get(i).Index > index; i-- {
		list = append(list, n.chains.get(i))
	}
	slices.Reverse(list)
	return list
}

// Oldest returns the index that what was seen can be compared from.
func (n *Node) Oldest() uint64 { return n.chains.get(0).Index }

// Compared says how what somebody saw stands to what a voter has applied.
type Compared int

// What it may be.
const (
	Has     Compared = iota + 1 // it is among it
	Behind                      // it is beyond, and the voter may still get there
	Other                       // it is of another history
	Over                        // it is of a later epoch
	Unknown                     // it is of before what the voter can compare
)

// Compare compares what somebody saw with what is applied.
func (n *Node) Compare(s lockquorum.Seen) Compared {
	at := n.state.Seen()
	switch {
	case s == (lockquorum.Seen{}) || s.Epoch < at.Epoch:
		return Unknown
	case s.Epoch > at.Epoch:
		return Over
	case s.Index > at.Index:
		return Behind
	case s.Index < n.Oldest():
		return Unknown
	}
	lo, hi := 0, len(n.chains.list)
	for lo < hi { // the last one that is not beyond
		if mid := (lo + hi) / 2; n.chains.get(mid).Index <= s.Index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if n.chains.get(lo-1) != s {
		return Other
	}
	return Has
}

// Shown takes what another voter has seen, which it sends beside its messages. Another history at a place that both have shows that something was lost
// that a majority agreed on, by whichever of them. To be behind is no more than to be behind: a voter that lacks what it itself has stored is
// found out by Raft.
func (n *Node) Shown(s lockquorum.Seen) {
	if n.err != nil || n.state.Epoch() == 0 { // it waits to be made a voter
		return
	}
	switch n.Compare(s) {
	case Other:
		n.stop(fmt.Errorf("%w: another voter has another history at %v", ErrLost, s.Place))
	default:
		n.over(s)
	}
}

// over ends a Node that is shown a later epoch.
func (n *Node) over(s lockquorum.Seen) {
	if n.Compare(s) == Over {
		n.stop(fmt.Errorf("%w: %d, and this one's is %d", ErrOver, s.Epoch, n.state.Epoch()))
	}
}

// against holds what an asker had seen against the place that his command has got. Whoever leads and gets it agreed on has all that was agreed on
// before he was asked: if the quorum has forgotten nothing, what he saw is behind that place and in the same history.
func (n *Node) against(seen []lockquorum.Seen, index uint64) error {
	for _, s := range seen {
		switch c := n.Compare(s); {
		case c == Over:
			return fmt.Errorf("%w: %d, and this one's is %d", ErrOver, s.Epoch, n.state.Epoch())
		case c == Other, c == Behind:
			return fmt.Errorf("%w: it was seen at %v, and what was asked for then has got place %d", ErrLost, s.Place, index)
		}
	}
	return nil
}
