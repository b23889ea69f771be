package lan

import (
	"context"
	"net/netip"
	"time"
)

// searchEvery is how often a search asks again: a packet may be lost.
const searchEvery = 2 * time.Second

// Search asks who is there until ctx ends, and tells found of every announcement once, whoever's it is: a machine that does not have
// the practice's key yet has to find out at the address. Nothing but the question is sent. A nil open is the system's multicast.
func Search(ctx context.Context, open func() (Conn, error), found func(at netip.Addr, udp, tcp uint16)) error {
	if open == nil {
		open = openMulticast
	}
	conn, err := open()
	if err != nil {
		return err
	}
	heard := make(chan received, 16)
	failed := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed <- receive(ctx, conn, heard)
	}()
	defer func() {
		_ = conn.Close()
		<-done
	}()
	question, err := AppendQuery(nil)
	if err != nil {
		return err
	}
	type place struct {
		at       netip.Addr
		udp, tcp uint16
	}
	told := map[place]bool{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-timer.C:
			timer.Reset(searchEvery)
			list, err := conn.Interfaces(false)
			if err != nil {
				return err
			}
			for _, i := range list {
				_ = conn.Send(i, question) // it may be gone since
			}
		case r := <-heard:
			for _, a := range r.packet.Announcements {
				p := place{r.from, a.UDP, a.TCP}
				if !told[p] && len(told) < maxSearched {
					told[p] = true
					found(p.at, p.udp, p.tcp)
				}
			}
		}
	}
}
