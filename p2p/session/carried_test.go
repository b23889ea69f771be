package session_test

import (
	"context"
	"testing"
	"time"

	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// carrier is a replica that carries a number; it takes the larger one.
type carrier struct {
	*sessiontest.Replica
	has   byte
	calls int
}

func (c *carrier) Carries() []byte {
	if c.has == 0 {
		return nil
	}
	return []byte{c.has}
}

func (c *carrier) Carried(_ context.Context, _ trust.DeviceID, b []byte) {
	c.calls++
	c.has = max(c.has, b[0])
}

// carrying is a mesh in which devices carry something, but those of a version that does not know it.
func carrying(t *testing.T, older ...int) *mesh {
	m := newMesh(t, 1, 3, 1)
	for _, n := range m.nodes {
		m.carriers = append(m.carriers, &carrier{Replica: n})
	}
	for _, i := range older {
		m.carriers[i] = nil
	}
	return m
}

// later lets time go by, in which sessions are asked for frames as a network would.
func (m *mesh) later(d time.Duration) {
	for range int(d / time.Second) {
		m.now = m.now.Add(time.Second)
		m.settle()
	}
}

// TestCarried: what one device carries comes to those that it never spoke with, at once where they meet, and else soon; and what one has already is not told it.
func TestCarried(t *testing.T) {
	m := carrying(t)
	m.carriers[0].has = 5
	m.connect(0, 1)
	m.settle()
	m.links[0].down = true
	m.connect(1, 2)
	m.settle()
	if m.carriers[2].has != 5 {
		t.Fatalf("it carries %d", m.carriers[2].has)
	}
	m.later(time.Minute)
	messages, calls := m.messages, m.carriers[1].calls
	for i := range 10 { // it moves on and on
		m.carriers[2].has = byte(6 + i)
		m.later(time.Second)
	}
	m.later(40 * time.Second)
	if m.carriers[1].has != 15 {
		t.Errorf("it carries %d", m.carriers[1].has)
	}
	if got := m.carriers[1].calls - calls; got > 2 {
		t.Errorf("it is told %d times", got)
	}
	if frames := m.messages - messages; frames > 2+4*4 { // PINGs and PONGs
		t.Errorf("that takes %d frames", frames)
	}
	messages = m.messages
	m.later(10 * time.Minute)
	if frames := m.messages - messages; frames > 4*41 {
		t.Errorf("when nothing moves there are %d frames", frames)
	}
}

// TestCarriedByOlder: a device that does not know what is carried neither sends nor passes it on, and all else goes on.
func TestCarriedByOlder(t *testing.T) {
	m := carrying(t, 1)
	m.carriers[0].has = 5
	m.connect(0, 1)
	m.connect(1, 2)
	m.edit(0, 0, 100)
	m.later(2 * time.Minute)
	if m.carriers[2].has != 0 || m.carriers[0].calls != 0 || !m.agreed() {
		t.Errorf("it carries %d, was told %d times; they agree: %v", m.carriers[2].has, m.carriers[0].calls, m.agreed())
	}
}

var _ session.Carrier = (*carrier)(nil)
