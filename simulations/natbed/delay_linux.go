package natbed

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// slowTable is the core's table of routes by which a packet goes through the device that delays it. Not every kernel can delay by itself.
const slowTable = "100"

// inFlight is how many packets are under way at once; more are dropped, as by any queue.
const inFlight = 1 << 16

// slow has the core delay what comes from a network.
func (m *Machine) slow() {
	m.bed.t.Helper()
	var tun *os.File
	if err := m.within(func() (err error) {
		tun, err = openTUN("slow")
		return err
	}); err != nil {
		m.bed.t.Skipf("this machine makes no TUN device: %v", err)
	}
	m.ip("link", "set", "slow", "up", "txqueuelen", "10000")
	m.ip("route", "add", "default", "dev", "slow", "table", slowTable)
	type packet struct {
		at    time.Time
		bytes []byte
	}
	queue := make(chan packet, inFlight)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		for p := range queue {
			timer := time.NewTimer(time.Until(p.at))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			_, _ = tun.Write(p.bytes) // a packet can be lost
		}
	}()
	go func() {
		defer func() { close(queue); ended <- struct{}{} }()
		buf := make([]byte, 1<<16)
		for {
			n, err := tun.Read(buf)
			if err != nil {
				return
			}
			select {
			case queue <- packet{time.Now().Add(Delay), append([]byte(nil), buf[:n]...)}:
			default:
			}
		}
	}()
	m.bed.t.Cleanup(func() {
		stop()
		_ = tun.Close()
		<-ended
		<-ended
	})
}

// openTUN opens a device whose packets this process reads and writes.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
