package agent

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
)

// An agent claims its folder from its first moment to its last; the store's own lock changes hands while the store is tried
// in another process, repaired or begun anew. A command opens the folder only where nobody has claimed it, so that it never
// takes the store from an agent that starts, and keeps its claim until it has the store's lock, so that nobody puts another store in its
// place in between; and an agent that finds the store with a command waits until the command ends,
// since none comes after it.
const fileClaim = "agent.lock"

// claimPatience is how long an agent waits for whoever has the folder: a command takes seconds, if it does not import.
const (
	claimPatience = 5 * time.Second
	claimEvery    = 20 * time.Millisecond
)

// claim claims the folder, for who calls Run to the end, else until the store is open. Either brings a change of the store's key that was cut
// short to its end.
func (a *Agent) claim() error {
	r := rotation{dir: a.cfg.Dir, keys: a.keys}
	if a.cfg.Repair {
		if err := whileInUse(func() (err error) {
			a.claimed, err = lockClaim(a.cfg.Dir)
			return err
		}); err != nil {
			return err
		}
		return r.settle()
	}
	var err error
	a.claimed, err = lockForCommand(a.cfg.Dir)
	if err != nil {
		return err
	}
	return r.settle()
}

// release gives up the claim.
func (a *Agent) release() error {
	if a.claimed == nil {
		return nil
	}
	err := a.claimed.Close()
	a.claimed = nil
	return err
}

// lockForCommand claims the folder for a command, which does not wait for who has it.
func lockForCommand(dir string) (io.Closer, error) {
	l, err := lockClaim(dir)
	if errors.Is(err, storage.ErrInUse) {
		return nil, &api.Error{Code: api.CodeInUse, Message: "an agent is starting or ending on " + dir + ", or another command has it",
			Hint: "try again in a moment; if it stays so, look at the agent's log"}
	}
	return l, err
}

func lockClaim(dir string) (io.Closer, error) {
	l, err := storage.Lock(filepath.Join(dir, fileClaim))
	if err != nil {
		return nil, fmt.Errorf("claim the folder: %w", err)
	}
	return l, nil
}

// whileInUse calls fn until nobody else has what it opens, or for long enough.
func whileInUse(fn func() error) error {
	for end := time.Now().Add(claimPatience); ; {
		err := fn()
		if !errors.Is(err, storage.ErrInUse) || time.Now().After(end) {
			return err
		}
		time.Sleep(claimEvery)
	}
}
