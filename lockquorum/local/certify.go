package local

import (
	"context"
	"fmt"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
)

// certify signs what this device's voter says of a document, for another device.
func (v *Voter) certify(ctx context.Context, from trust.DeviceID, lock lockquorum.LockID, document lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error) {
	e := v.answers()
	if e == nil {
		return certificate.Signed{}, lockquorum.ErrStopped
	}
	return v.Sign(ctx, from, e, lock, document, shown...)
}

// Sign returns what this device's voter says of a document, signed, for a device that may read it and shows what it has seen.
func (v *Voter) Sign(ctx context.Context, from trust.DeviceID, e lockquorum.Engine, lock lockquorum.LockID, document lockquorum.DocumentID,
	shown ...lockquorum.Position,
) (certificate.Signed, error) {
	st, _, err := e.Read(ctx, from, lockquorum.Query{Kind: lockquorum.ReadLock, ID: lock}, shown...)
	if err != nil {
		return certificate.Signed{}, err
	}
	signed, err := certificate.Sign(v.cfg.Keys, certificate.Of(st, v.server.Practice, lock, document))
	if err != nil {
		return signed, fmt.Errorf("certify: %w", err)
	}
	return signed, nil
}
