package storage

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrNoRoom says that the disk has too little room left, so that nothing is committed until there is more. It is a
// *NoRoom. Reads go on.
var ErrNoRoom = errors.New("the disk is nearly full")

// NoRoom says how much room there is and how much there must be.
type NoRoom struct{ Free, Least uint64 }

func (e *NoRoom) Error() string {
	return fmt.Sprintf("%v: %d MB are free, %d MB must be", ErrNoRoom, e.Free/1_000_000, e.Least/1_000_000)
}

// Is makes a NoRoom an ErrNoRoom.
func (e *NoRoom) Is(target error) bool { return target == ErrNoRoom }

// DefaultLeastFree is how much room a store leaves free on its disk. The engine writes to mapped files, and one that it
// cannot extend ends the process; it also needs room to merge its tables.
const DefaultLeastFree = 500 << 20

// Guard is a Store that commits nothing while its disk is nearly full.
type Guard interface {
	// Room says how much room there is, and whether the store commits nothing for the lack of it.
	Room() (free, least uint64, full bool, err error)
}

// guard looks at the disk before every commit, which costs about a microsecond.
type guard struct {
	dir   string
	least uint64
	full  atomic.Bool
}

// look measures. Full ends when there is a tenth more than the least, so that a store at the border is not now this, now
// that.
func (g *guard) look() (free, need uint64, err error) {
	if free, err = freeBytes(g.dir); err != nil {
		return 0, g.least, fmt.Errorf("measure the disk: %w", err)
	}
	need = g.least
	if g.full.Load() {
		need += need / 10
	}
	g.full.Store(free < need)
	return free, need, nil
}

// check refuses when there is too little room. A disk that cannot be measured refuses nothing: it has other troubles.
// What frees room has a quarter of the least.
func (g *guard) check(frees bool) error {
	if g.least == 0 {
		return nil
	}
	free, need, err := g.look()
	if frees {
		need = g.least / 4
	}
	if err == nil && free < need {
		return &NoRoom{Free: free, Least: need}
	}
	return nil
}

// Room implements Guard.
func (d *disk) Room() (free, least uint64, full bool, err error) {
	free, least, err = d.guard.look()
	return free, least, d.guard.full.Load(), err
}

// Free returns the bytes that this user may still write on the disk of a folder.
func Free(dir string) (uint64, error) { return freeBytes(dir) }
