package lan

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// askAgain is after how long a seeker asks again, the last for ever: packets of multicast get lost, and who is sought may be
// started last.
var askAgain = []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second, 10 * time.Second}

// Seek asks the local network, and this machine, who is there until ctx ends, and tells found of each place of an announcement that is
// wanted once: one call at a time. It says nothing of itself. Anybody can announce anything; it is for the handshake after it to find
// out who is there. A nil open is the system's multicast.
func Seek(ctx context.Context, open func() (Conn, error), wanted func(Announcement) bool, found func(at netip.Addr, udp, tcp uint16)) error {
	if open == nil {
		open = openMulticast
	}
	type place struct {
		at       netip.Addr
		udp, tcp uint16
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	told := map[place]bool{}
	failed := make([]error, 2)
	for i, loopback := range []bool{false, true} {
		wg.Go(func() {
			failed[i] = seek(ctx, open, loopback, func(r received) {
				mu.Lock()
				defer mu.Unlock()
				for _, a := range r.packet.Announcements {
					p := place{r.from, a.UDP, a.TCP}
					if wanted(a) && !told[p] && len(told) < maxSought {
						told[p] = true
						found(p.at, p.udp, p.tcp)
					}
				}
			})
		})
	}
	wg.Wait()
	if failed[0] != nil && failed[1] != nil {
		return errors.Join(failed...)
	}
	return nil
}

// seek asks on the interfaces of one kind. It returns nil when ctx ends.
func seek(ctx context.Context, open func() (Conn, error), loopback bool, hear func(received)) error {
	conn, err := open()
	if err != nil {
		return err
	}
	heard := make(chan received, 16)
	var broken error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		broken = receive(ctx, conn, heard)
	}()
	defer func() {
		_ = conn.Close()
		for {
			select {
			case <-heard:
			case <-ended:
				return
			}
		}
	}()
	question, err := AppendQuery(nil)
	if err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for left := askAgain; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			if ctx.Err() != nil {
				return nil
			}
			return broken
		case r := <-heard:
			hear(r)
		case <-timer.C:
			list, err := conn.Interfaces(loopback)
			if err != nil {
				return err
			}
			for _, i := range list {
				_ = conn.Send(i, question) // an interface may be gone since
			}
			timer.Reset(left[0])
			left = left[min(1, len(left)-1):]
		}
	}
}
