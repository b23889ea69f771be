package lockquorum

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chartmesh/wire"
)

// A State is stored and sent in pieces, each of which is named by its hash. Numbers are most of it, and rarely change once they were given: a
// page of them that did not change is the same piece in the next snapshot, which is neither written nor sent again.
//
//	manifest  "cmlm" 1 | pieces of the head | pieces | sum 32 …
//	head      a snapshot in one of version 2, without its magic and version, where a series has how many numbers it gave, used and void, in the place of them
//	page      256 numbers of a series, or what is left: item, state, device, clock, note …
//
// The head is cut into pieces of 256 KiB. The pages follow, those of the first circle's first series first.

// Sum names a piece: SHA-256("chartmesh quorum piece 1" | piece).
type Sum [32]byte

// SumOf names a piece.
func SumOf(piece []byte) Sum {
	h := sha256.New()
	h.Write([]byte("chartmesh quorum piece 1"))
	h.Write(piece)
	return Sum(h.Sum(nil))
}

// manifestMagic begins a manifest: what it is and its version.
var manifestMagic = []byte{'c', 'm', 'l', 'm', 1}

// Caps of pieces.
const (
	// MaxPiece is the size of a piece in bytes. One that is well formed has less.
	MaxPiece = 512 << 10
	// MaxPieces is how many pieces a State has: those of some forty million numbers.
	MaxPieces = 160_000
	// MaxSnapshot is the size of a State in one, as it is handed over where a quorum is founded anew.
	MaxSnapshot = 512 << 20
	// MaxManifest is the size of a manifest.
	MaxManifest = 16 + len(Sum{})*MaxPieces

	headPiece   = 256 << 10
	headVersion = 2
)

// ErrPiece says that a piece is not there.
var ErrPiece = errors.New("a piece of the snapshot is not there")

// Pieces has the pieces of a snapshot. The error of one that it does not have is ErrPiece.
type Pieces interface {
	Piece(Sum) ([]byte, error)
}

// Frozen is a State as it was when it was frozen. It is safe for concurrent use, and does not change.
type Frozen struct {
	head  []byte
	pages []*page

	once     sync.Once
	manifest []byte
	sums     []Sum
	bySum    map[Sum]int
}

// Freeze returns the State as it is now. It writes down all but the numbers, which it has in common with the State until they change.
func (s *State) Freeze() *Frozen {
	var w wire.Writer
	s.append(&w, headVersion, (*circle).appendHead)
	f := &Frozen{head: w.Bytes()}
	for _, id := range sorted(s.circles) {
		for i := range s.circles[id].series {
			for _, p := range s.circles[id].series[i].pages {
				p.frozen = true
				f.pages = append(f.pages, p)
			}
		}
	}
	return f
}

func (c *circle) appendHead(w *wire.Writer) {
	w.Uvarint(uint64(len(c.series)))
	for i := range c.series {
		in := &c.series[i]
		in.append(w)
		in.given.append(w)
	}
}

func (g given) append(w *wire.Writer) {
	w.Uvarint(uint64(g.count))
	w.Uvarint(uint64(g.used))
	w.Uvarint(uint64(g.void))
}

// find finds the sums of all pieces. It takes about as long as hashing what has changed.
func (f *Frozen) find() {
	f.once.Do(func() {
		f.bySum = map[Sum]int{}
		heads := 0
		for piece := range slices.Chunk(f.head, headPiece) {
			f.sums = append(f.sums, SumOf(piece))
			heads++
		}
		for _, p := range f.pages {
			f.sums = append(f.sums, p.sumOf())
		}
		for i, sum := range f.sums {
			f.bySum[sum] = i
		}
		var w wire.Writer
		w.Raw(manifestMagic)
		w.Uvarint(uint64(heads))
		w.Uvarint(uint64(len(f.sums)))
		for _, sum := range f.sums {
			w.Raw(sum[:])
		}
		f.manifest = w.Bytes()
	})
}

// Manifest says which pieces the State has.
func (f *Frozen) Manifest() []byte {
	f.find()
	return f.manifest
}

// Piece implements Pieces.
func (f *Frozen) Piece(sum Sum) ([]byte, error) {
	f.find()
	i, ok := f.bySum[sum]
	if !ok {
		return nil, ErrPiece
	}
	if heads := len(f.sums) - len(f.pages); i >= heads {
		return f.pages[i-heads].bytes(), nil
	}
	return f.head[i*headPiece : min((i+1)*headPiece, len(f.head))], nil
}

// IsManifest tells a manifest from a snapshot in one.
func IsManifest(b []byte) bool { return bytes.HasPrefix(b, manifestMagic) }

// SumsOf returns the pieces that a manifest names, in their order; some may be the same.
func SumsOf(manifest []byte) ([]Sum, error) {
	_, sums, err := parseManifest(manifest)
	return sums, err
}

func parseManifest(b []byte) (heads int, sums []Sum, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(manifestMagic)), manifestMagic) {
		r.Fail("magic or version")
	}
	heads = int(r.Uvarint(MaxPieces))
	n := int(r.Uvarint(MaxPieces))
	if heads > n || r.Err() == nil && r.Len() != n*len(Sum{}) {
		r.Fail("pieces")
	}
	if r.Err() != nil {
		return 0, nil, r.Err()
	}
	sums = make([]Sum, n)
	for i := range sums {
		r.Fixed(sums[i][:])
	}
	return heads, sums, r.Close()
}

// Assemble reads a State of its pieces: it is wire.ErrMalformed if they do not fit together as those of a State do, or an error of from.
func Assemble(manifest []byte, from Pieces) (*State, error) {
	heads, sums, err := parseManifest(manifest)
	if err != nil {
		return nil, fmt.Errorf("assemble quorum: %w", err)
	}
	piece := func(i int) ([]byte, error) {
		b, err := from.Piece(sums[i])
		if err != nil {
			return nil, fmt.Errorf("assemble quorum: %w", err)
		}
		if len(b) > MaxPiece || SumOf(b) != sums[i] {
			return nil, fmt.Errorf("assemble quorum: %w: a piece is another than its name says", wire.ErrMalformed)
		}
		return b, nil
	}
	var head []byte
	once := map[Sum]bool{} // no two pieces of a head are the same: what comes is not to become more in memory
	for i := range heads {
		if once[sums[i]] {
			return nil, fmt.Errorf("assemble quorum: %w: a piece of the head comes twice", wire.ErrMalformed)
		}
		once[sums[i]] = true
		b, err := piece(i)
		if err != nil {
			return nil, err
		}
		if i < heads-1 && len(b) != headPiece || len(b) == 0 || len(b) > headPiece {
			return nil, fmt.Errorf("assemble quorum: %w: the head is cut otherwise", wire.ErrMalformed)
		}
		head = append(head, b...)
	}
	r := wire.NewReader(head)
	s := readState(r, headVersion, (*State).readHead)
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("assemble quorum: %w", err)
	}
	next := heads
	for _, id := range sorted(s.circles) {
		c := s.circles[id]
		for at := range c.series {
			if next, err = c.takePages(at, sums, next, piece); err != nil {
				return nil, err
			}
		}
	}
	if next != len(sums) {
		return nil, fmt.Errorf("assemble quorum: %w: more pages than numbers", wire.ErrMalformed)
	}
	s.derive()
	return s, nil
}

// readHead reads a circle without its numbers.
func (s *State) readHead(r *wire.Reader) *circle {
	return s.readSeries(r, func(_ *circle, in *series, count int) {
		in.given = given{count: count, used: int(r.Uvarint(uint64(count)))}
		in.void = int(r.Uvarint(uint64(count - in.used)))
	})
}

// takePages reads a series' numbers, and returns which piece is the next.
func (c *circle) takePages(at int, sums []Sum, next int, piece func(int) ([]byte, error)) (int, error) {
	in := &c.series[at]
	said := in.given
	in.given = given{}
	for in.count < said.count {
		if next >= len(sums) {
			return next, fmt.Errorf("assemble quorum: %w: fewer pages than numbers", wire.ErrMalformed)
		}
		b, err := piece(next)
		if err != nil {
			return next, err
		}
		list, err := readPage(b, min(pageSize, said.count-in.count))
		if err != nil {
			return next, fmt.Errorf("assemble quorum: %w", err)
		}
		p := &page{numbers: list, frozen: true}
		p.once.Do(func() { p.sum = sums[next] })
		in.pages = append(in.pages, p)
		r := wire.NewReader(nil)
		for _, n := range list {
			if !c.took(r, n.item, at, in.count) {
				return next, fmt.Errorf("assemble quorum: %w", r.Err())
			}
			in.counts(n.state)
		}
		next++
	}
	if in.given != said {
		return next, fmt.Errorf("assemble quorum: %w: other numbers than are counted", wire.ErrMalformed)
	}
	return next, nil
}
