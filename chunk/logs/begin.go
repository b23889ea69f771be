package logs

import (
	"fmt"
	"log/slog"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// maxLogsOfDevice is how many logs of a scope one device may begin. An honest one begins another after each restore; a
// vector names chunk.MaxLogs, and beyond that nothing new of anybody would be asked for.
const maxLogsOfDevice = 1024

// beginners says which device began which log, for those logs that are held. It is guarded by Set.arrive.
type beginners map[trust.ScopeID]map[chunk.LogID]trust.DeviceID

// mayBegin reports whether a device's chunk at the beginning of a log is taken. Which of too many logs a device holds
// depends on which came first, so that devices will not agree about those; about all others they do.
func (s *Set) mayBegin(scope trust.ScopeID, log chunk.LogID, device trust.DeviceID) (bool, error) {
	if s.begun[scope] == nil {
		known, err := s.Beginners(scope)
		if err != nil {
			return false, err
		}
		if s.begun == nil {
			s.begun = beginners{}
		}
		s.begun[scope] = known
	}
	known := s.begun[scope]
	if _, ok := known[log]; ok {
		return true, nil
	}
	n := 0
	for _, d := range known {
		if d == device {
			n++
		}
	}
	if n >= maxLogsOfDevice || len(known) >= chunk.MaxLogs {
		return false, nil
	}
	known[log] = device
	return true, nil
}

// Beginners finds out who began the logs that are held, by any chunk of each, or by what stands for them.
func (s *Set) Beginners(scope trust.ScopeID) (map[chunk.LogID]trust.DeviceID, error) {
	s.Memory.Lock()
	logs := s.Memory.Vectors[scope].Clone()
	s.Memory.Unlock()
	known := make(map[chunk.LogID]trust.DeviceID, len(logs))
	err := s.store.View(func(v storage.Reader) error {
		for log := range logs {
			known[log] = trust.DeviceID{}
			err := v.Keys(storage.Chunk.With2(scope, log), nil, func(key []byte) error {
				_, _, counter, err := storage.Chunk.Parse(key)
				if err != nil {
					return err
				}
				sealed, err := ReadChunk(v, scope, log, counter)
				if err != nil {
					return storage.IgnoreDamaged(err) // the next one tells it too
				}
				known[log] = sealed.Header().Device
				return storage.ErrStop
			})
			if err != nil {
				return err
			}
			if known[log] != (trust.DeviceID{}) {
				continue
			}
			skip, _, err := ReadSkip(v, scope, log, 1) // all of it is packed
			if storage.IgnoreDamaged(err) != nil {
				return err
			}
			known[log] = skip.Key.Device // nobody's if that does not read: it counts among all logs alone
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read who began the logs: %w", err)
	}
	return known, nil
}

// refusals counts what is not accepted of one frame, so that a frame of very many makes one line of log.
type refusals struct {
	n     int
	first chunk.ID // or the checkpoint of a skip
	err   error
	skips int          // that nothing here bears out, or that took as long to look at
	apart []chunk.Skip // good ones that do not go on with what is held first of their log
}

func (f *refusals) add(id chunk.ID, err error) {
	if f.n++; f.n == 1 {
		f.first, f.err = id, err
	}
}

func (f *refusals) tell(log *slog.Logger, from trust.DeviceID) {
	if f.n > 0 {
		log.Warn("chunks are not accepted", "from", from, "count", f.n, "first", f.first, "error", f.err)
	}
}

// maxRefusedSkips is how many bad skips of a frame are looked at. A skip takes some 200 bytes, and to judge one
// its checkpoint is read, which may have some megabytes.
const maxRefusedSkips = 16
