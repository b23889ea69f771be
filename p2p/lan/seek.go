package lan

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// askAgain is when a seeker asks, after it has begun: packets of multicast get lost, and the inviter may be started last.
var askAgain = []time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second}

// Seek asks the local network, and this machine, for the device that has the invitation of a locator until ctx ends, and
// calls found whenever one says so: one call at a time. It says nothing of itself. Anybody who knows the locator can claim to
// be that device; it is for the handshake after it to find out. A nil open is the system's multicast.
func Seek(ctx context.Context, open func() (Conn, error), l Locator, found func(at netip.Addr, udp, tcp uint16)) error {
	if open == nil {
		open = openMulticast
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := make([]error, 2)
	for i, loopback := range []bool{false, true} {
		wg.Go(func() {
			failed[i] = seek(ctx, open, loopback, func(r received) {
				mu.Lock()
				defer mu.Unlock()
				for _, a := range r.packet.Announcements {
					if a.Invites(l) {
						found(r.from, a.UDP, a.TCP)
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
	ended := make(chan error, 1)
	go func() { ended <- receive(ctx, conn, heard) }()
	over := false
	defer func() {
		_ = conn.Close()
		for !over {
			select {
			case <-heard:
			case <-ended:
				over = true
			}
		}
	}()
	question, err := AppendQuery(nil)
	if err != nil {
		return err
	}
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for left := askAgain; ; {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			over = true
			return err
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
			if left = left[1:]; len(left) > 0 {
				timer.Reset(time.Until(begun.Add(left[0])))
			}
		}
	}
}
