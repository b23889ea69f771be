package certificate

import (
	"bytes"
	"cmp"
	"slices"

	"chartmesh/lockquorum"
)

// Hash names a change.
type Hash = [32]byte

// Certified is a statement that was found good, with the heads that it certifies.
type Certified struct {
	Statement
	Plain []Hash // ascending
}

// Verdict is what is said of a change.
type Verdict byte

const (
	Accepted Verdict = 1 // it is an ancestor of certified heads, or one of them
	Pending  Verdict = 2 // it may become that
	Late     Verdict = 3 // it will not, unless somebody builds on it
)

func (v Verdict) String() string {
	switch v {
	case Accepted:
		return "accepted"
	case Pending:
		return "pending"
	case Late:
		return "late"
	}
	return "unknown"
}

// Judgement says of the changes of one document which count.
type Judgement struct {
	// Heads are certified, and all that they build on is held. Nil: none are.
	Heads []Hash
	// By is the statement that certifies them; nil: none does.
	By *Statement
	// Lacks names what a statement that certifies later heads needs and is not held, ascending; some of it, if that needs more.
	Lacks []Hash
	// Known is the statement with the greatest place: what is known of the lock's leases.
	Known *Statement
	// Contradicted says of each statement whether another one contradicts it.
	Contradicted []bool

	accepted map[Hash]bool
	wanted   map[Hash]bool
}

// Judge judges the changes of a document by what is certified of it. dependencies returns what a change builds on, and false if it is not held.
func Judge(dependencies func(Hash) ([]Hash, bool), list []Certified) *Judgement {
	j := &Judgement{Contradicted: contradicted(list), accepted: map[Hash]bool{}, wanted: map[Hash]bool{}}
	var certify []*Certified
	for i := range list {
		c := &list[i]
		if j.Contradicted[i] {
			continue
		}
		if j.Known == nil || c.Place.Compare(j.Known.Place) > 0 {
			j.Known = &c.Statement
		}
		if len(c.Plain) > 0 {
			certify = append(certify, c)
		}
	}
	// The latest first. Of what one command certified all say the same, or count no more.
	slices.SortFunc(certify, func(a, b *Certified) int { return cmp.Or(b.At.Compare(a.At), b.Place.Compare(a.Place)) })
	for i, c := range certify {
		if i > 0 && c.At == certify[i-1].At {
			continue
		}
		set, lacks := ancestors(dependencies, c.Plain)
		if lacks == nil {
			j.accepted, j.Heads, j.By = set, c.Plain, &c.Statement
			break
		}
		if j.Lacks == nil {
			j.Lacks = lacks
		}
		for _, h := range lacks {
			j.wanted[h] = true
		}
	}
	return j
}

// ancestors returns heads and all that they build on, or what is missing of it.
func ancestors(dependencies func(Hash) ([]Hash, bool), heads []Hash) (set map[Hash]bool, lacks []Hash) {
	set = map[Hash]bool{}
	queue := slices.Clone(heads)
	for len(queue) > 0 {
		h := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if set[h] {
			continue
		}
		set[h] = true
		deps, held := dependencies(h)
		if !held {
			lacks = append(lacks, h)
		}
		queue = append(queue, deps...)
	}
	slices.SortFunc(lacks, func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
	return set, lacks
}

// Accepted reports whether a change is an ancestor of the certified heads, or one of them.
func (j *Judgement) Accepted(h Hash) bool { return j.accepted[h] }

// Wants reports whether a change that is not held may change what is said of others, should it come.
func (j *Judgement) Wants(h Hash) bool { return j.wanted[h] }

// Len returns how many changes are accepted.
func (j *Judgement) Len() int { return len(j.accepted) }

// Of judges a change that was written under a token; zeros: under none, or that is not known, since it came in a checkpoint alone.
func (j *Judgement) Of(h Hash, token lockquorum.Token) Verdict {
	switch {
	case j.accepted[h]:
		return Accepted
	case j.Lacks != nil, !token.IsZero() && !j.Ended(token):
		return Pending
	}
	return Late
}

// Ended reports whether the lease of a token is known to have ended.
func (j *Judgement) Ended(token lockquorum.Token) bool {
	k := j.Known
	if k == nil {
		return false
	}
	if token.Epoch != k.Place.Epoch {
		return token.Epoch < k.Place.Epoch
	}
	c := token.Compare(k.Token)
	return c < 0 || c == 0 && k.Ended()
}
