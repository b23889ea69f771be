package client

import (
	"context"

	"chartmesh/lockquorum"
)

// Ask asks one voter after another until one answers that leads. Errors are those of ask that no other voter would answer otherwise, ctx's, and
// *NoQuorumError.
func (c *Client) Ask(ctx context.Context, ask func(context.Context, lockquorum.Engine) error) error {
	return c.any(ctx, false, ask)
}
