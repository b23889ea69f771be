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

// once has something carried out that comes to the same whenever it is carried out again, and needs no session.
func (c *Client) once(ctx context.Context, o lockquorum.Operation) (lockquorum.Answer, error) {
	a, err := c.do(ctx, lockquorum.Request{Operation: o})
	if err == nil {
		err = codeError(a.Code)
	}
	return a, err
}

// inSession has something carried out that would come to something else later: a question that was given up and asked again may still arrive.
func (c *Client) inSession(ctx context.Context, o lockquorum.Operation) (a lockquorum.Answer, err error) {
	for range tries {
		s, err := c.session(ctx)
		if err != nil {
			return a, err
		}
		if a, _, err = s.do(ctx, o); err != nil {
			c.end(s)
			return a, err
		}
		if a.Code != lockquorum.CodeNoSession && a.Code != lockquorum.CodeReused {
			c.put(s)
			return a, codeError(a.Code)
		}
	}
	return a, codeError(a.Code)
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
	a, err := c.inSession(ctx, &lockquorum.OpenCircle{Circle: circle, First: first, Last: last})
	return a.Series, err
}

// CloseCircle ends a circle's series.
func (c *Client) CloseCircle(ctx context.Context, circle lockquorum.CircleID) (lockquorum.SeriesID, error) {
	a, err := c.inSession(ctx, &lockquorum.CloseCircle{Circle: circle})
	return a.Series, err
}

// Break ends somebody's lease, which its token names, and takes documents back to heads that were certified before. It is ErrStaleToken if the lease is over and no document is
// taken back, or another one was granted, and ErrOtherHeads if such heads are not remembered.
func (c *Client) Break(ctx context.Context, lock lockquorum.LockID, token lockquorum.Token, back []lockquorum.Certified, note []byte) error {
	_, err := c.inSession(ctx, &lockquorum.Break{Lock: lock, Token: token, Back: back, Note: note})
	return err
}
