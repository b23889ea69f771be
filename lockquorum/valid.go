package lockquorum

import (
	"cmp"
	"slices"
)

// What Marshal writes Parse reads, and what Parse reads Marshal writes: both go by this.
func (c *Command) valid() bool {
	in := c.Session != SessionID{}
	return c.Clock >= 0 && c.Clock <= MaxClock && validCount(c.Seq) && validCount(c.Done) && in == (c.Seq > 0) && (c.Done < c.Seq || c.Done == 0) &&
		c.Operation.valid()
}

func validCount(n uint64) bool { return n <= 1<<63-1 }
func validTTL(ms int64) bool   { return ms >= MinTTL && ms <= MaxTTL }
func validNumber(n int64) bool { return n >= 0 && n <= MaxNumber }
func (t Token) valid() bool    { return validCount(t.Epoch) && validCount(t.Index) }

func (*Tick) valid() bool      { return true }
func (o *Open) valid() bool    { return validTTL(o.TTL) }
func (*Keep) valid() bool      { return true }
func (*End) valid() bool       { return true }
func (o *Acquire) valid() bool { return validTTL(o.TTL) }
func (o *Renew) valid() bool   { return o.Token.valid() }
func (o *Commit) valid() bool  { return o.Token.valid() && o.New != Heads{} }
func (o *Release) valid() bool { return o.Token.valid() }
func (*Cancel) valid() bool    { return true }

func (o *Break) valid() bool {
	return o.Token.valid() && len(o.Back) <= MaxDocuments && len(o.Note) <= MaxNote &&
		ascending(o.Back, func(a, b Certified) int { return compareIDs(a.Document, b.Document) })
}

func (*Assign) valid() bool { return true }

func (o *Resolve) valid() bool {
	return (o.To == NumberUsed || o.To == NumberVoid) && len(o.Note) <= MaxNote
}

func (o *OpenCircle) valid() bool {
	return validNumber(o.First) && validNumber(o.Last) && o.First <= o.Last
}

func (*CloseCircle) valid() bool { return true }

func (o *Grant) valid() bool {
	return validNumber(o.Min) && validNumber(o.Max) && validNumber(o.Increment) && o.Min <= o.Max && o.Increment > 0
}

func (o *Void) valid() bool {
	return validNumber(o.Min) && o.From >= 0 && o.From <= MaxNumber+1 && len(o.Note) <= MaxNote
}

func (o *Voters) valid() bool {
	return len(o.List) <= MaxVoters && ascending(o.List, func(a, b Voter) int { return cmp.Compare(a.ID, b.ID) }) &&
		!slices.ContainsFunc(o.List, func(v Voter) bool { return v.ID == 0 || !validCount(v.ID) })
}

// ascending reports whether each is greater than the one before.
func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}
