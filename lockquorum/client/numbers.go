package client

import (
	"context"

	"chartmesh/lockquorum"
)

// Number is a number of a circle.
type Number struct {
	Series lockquorum.SeriesID
	Number int64
}

// once has something carried out that comes to the same if it is asked for again, and needs no session.
func (c *Client) once(ctx context.Context, o lockquorum.Operation) (lockquorum.Answer, error) {
	a, err := c.do(ctx, lockquorum.Request{Operation: o})
	if err == nil {
		err = codeError(a.Code)
	}
	return a, err
}

// Assign gives an item its number, once and for ever: asked again it is the same. Errors are ErrUnknown, ErrClosed, ErrExhausted, ErrNoQuorum
// and ErrOutcomeUnknown, after which it is safe to ask again.
func (c *Client) Assign(ctx context.Context, circle lockquorum.CircleID, item lockquorum.ItemID) (Number, error) {
	a, err := c.once(ctx, &lockquorum.Assign{Circle: circle, Item: item})
	return Number{a.Series, a.Number}, err
}

// Resolve says once what became of an item's number. It is ErrResolved if it was said otherwise.
func (c *Client) Resolve(ctx context.Context, circle lockquorum.CircleID, item lockquorum.ItemID, to lockquorum.NumberState, note []byte) (Number, error) {
	a, err := c.once(ctx, &lockquorum.Resolve{Circle: circle, Item: item, To: to, Note: note})
	return Number{a.Series, a.Number}, err
}

// OpenCircle begins a circle, or its next series after it was closed. It is ErrExists if it gives other numbers.
func (c *Client) OpenCircle(ctx context.Context, circle lockquorum.CircleID, first, last int64) (lockquorum.SeriesID, error) {
	a, err := c.once(ctx, &lockquorum.OpenCircle{Circle: circle, First: first, Last: last})
	return a.Series, err
}

// CloseCircle ends a circle's series.
func (c *Client) CloseCircle(ctx context.Context, circle lockquorum.CircleID) (lockquorum.SeriesID, error) {
	a, err := c.once(ctx, &lockquorum.CloseCircle{Circle: circle})
	return a.Series, err
}

// Break ends somebody's lease, which its token names, and takes documents back to heads that were certified before. It is ErrStaleToken if the lease is over and no document is
// taken back, or another one was granted, and ErrOtherHeads if such heads are not remembered.
func (c *Client) Break(ctx context.Context, lock lockquorum.LockID, token lockquorum.Token, back []lockquorum.Certified, note []byte) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	a, _, err := s.do(ctx, &lockquorum.Break{Lock: lock, Token: token, Back: back, Note: note})
	if err != nil {
		c.end(s)
		return err
	}
	c.put(s)
	return codeError(a.Code)
}
