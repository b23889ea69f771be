package client

import (
	"context"

	"chartmesh/lockquorum"
)

// Define says which numbers a range has, and how many of them a device takes at a time; 0: an administrator grants them.
func (c *Client) Define(ctx context.Context, o lockquorum.Define) error {
	_, err := c.inSession(ctx, &o)
	return err
}

// Grant delegates a part of a range. It is ErrOverlap if another part has some of its numbers, and ErrUnknown if the range does not have them.
func (c *Client) Grant(ctx context.Context, o lockquorum.Grant) error {
	_, err := c.once(ctx, &o)
	return err
}

// Take has this device have one part of a range more, under a log of which it knows so many. It is ErrUnknown if there is no such range, and ErrExhausted
// if there is nothing to take.
func (c *Client) Take(ctx context.Context, id lockquorum.RangeID, log [32]byte, have int) error {
	_, err := c.once(ctx, &lockquorum.Take{Range: id, Log: log, Have: uint64(have)})
	return err
}

// Void takes back what is left of a part, and GiveBack of one of this device. It is ErrResolved if that was done otherwise.
func (c *Client) Void(ctx context.Context, o lockquorum.Void) error {
	_, err := c.once(ctx, &o)
	return err
}

// GiveBack is Void for a part of this device.
func (c *Client) GiveBack(ctx context.Context, o lockquorum.Void) error {
	_, err := c.once(ctx, &lockquorum.GiveBack{Void: o})
	return err
}
