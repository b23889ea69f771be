package lockquorum

import (
	"crypto/sha256"
	"encoding/binary"

	"chartmesh/trust"
)

// MaxEpoch is the last epoch that there is: JSON's numbers are exact up to there.
const MaxEpoch = 1<<53 - 1

// generationShift is where the count of an epoch begins, above the bits that tell apart those of one count.
const generationShift = 32

// EpochOf returns the epoch of the quorum that an entry of the membership log founds anew, after one of another epoch: the latest that is known, of the log and of
// the State that it begins with. False: that was the last. It is greater than the one before, and of two reseeds made apart each has its own: a count, and the beginning of a hash of the entry.
func EpochOf(entry trust.EntryID, after uint64) (uint64, bool) {
	h := sha256.New()
	h.Write([]byte("chartmesh quorum epoch 1"))
	h.Write(entry[:])
	generation := after>>generationShift + 1
	epoch := generation<<generationShift | uint64(binary.BigEndian.Uint32(h.Sum(nil)))
	return epoch, epoch <= MaxEpoch
}

// MayBe reports whether there may be a quorum of an epoch for who holds a membership log: it founds one, or another reseed that it does not hold yet has. Of what
// is said of epochs beyond that nothing is believed: whoever made one up that no reseed ever reaches would stop the practice's quorum for good.
func MayBe(st *trust.State, epoch uint64) bool {
	if epoch>>generationShift <= 1 { // of the first epoch, or the next: so it is wherever no quorum was ever founded anew
		return true
	}
	list := AllFoundings(st)
	return epoch>>generationShift <= list[len(list)-1].Epoch>>generationShift+1
}

// Adopt adds a part of a range of which a device says that it has it, to a State that a quorum is founded anew with: the voters that granted it may be lost. Of
// numbers that the State has granted otherwise nothing changes; false says that there are some. A part that either knows as taken back is.
func (s *State) Adopt(id RangeID, of Part) bool {
	d := s.ranges[id]
	if d == nil {
		if len(s.ranges) >= MaxRanges {
			return false
		}
		d = &division{}
	}
	whole := true
	for at := of.Min; at <= of.Max; { // what is not granted yet, piece by piece
		i, end := 0, of.Max
		for i < len(d.parts) && d.parts[i].max < at {
			i++
		}
		if i < len(d.parts) && d.parts[i].min <= at {
			p := &d.parts[i]
			if p.isTaken(of) {
				p.log = of.Log
			}
			switch same := p.owner == of.Owner && (p.log == of.Log || p.wasAside(of)) && p.increment == of.Increment; {
			case !same:
				whole = false
			case of.Void && !p.void:
				p.void, p.from, p.note = true, min(max(of.From, p.min), p.max+1), of.Note
			}
			at = p.max + 1
			continue
		}
		if i < len(d.parts) {
			end = min(end, d.parts[i].min-1)
		}
		if len(d.parts) >= MaxGrants {
			return false
		}
		p := part{min: at, max: end, increment: of.Increment, owner: of.Owner, log: of.Log}
		if of.Void {
			p.void, p.from, p.note = true, min(max(of.From, at), end+1), of.Note
		}
		d.parts = append(d.parts[:i:i], append([]part{p}, d.parts[i:]...)...)
		s.ranges[id] = d
		at = end + 1
	}
	return whole
}

// isTaken reports whether a part that is set aside here was taken by its device since, under a log: nobody else has it, and under another log it would be as new.
func (p *part) isTaken(of Part) bool {
	return !p.void && p.log == [32]byte{} && p.owner == of.Owner && p.min == of.Min && p.max == of.Max && p.increment == of.Increment
}

// wasAside reports whether somebody knows a part as set aside, whatever has become of it since.
func (p *part) wasAside(of Part) bool {
	return !of.Void && of.Log == [32]byte{} && p.min == of.Min && p.max == of.Max
}
