package agent

import (
	"context"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/trust/keyring"
)

// PlanErasure says what an order to erase would name.
func (a *Agent) PlanErasure(ctx context.Context, req api.ErasureRequest) (api.ErasurePlan, error) {
	v, err := a.records.PlanErasure(ctx, req)
	return v, explain(err)
}

// OrderErasure orders an erasure; with a recovery code it is agreed at once.
func (a *Agent) OrderErasure(ctx context.Context, user string, req api.ErasureRequest) (api.Erasure, error) {
	root, err := a.rootWord(req.RecoveryCode)
	if err != nil {
		return api.Erasure{}, err
	}
	v, err := a.records.OrderErasure(ctx, user, req, root)
	return v, explain(err)
}

// AgreeErasure agrees to an order.
func (a *Agent) AgreeErasure(ctx context.Context, user, id string, req api.ErasureAgreement) (api.Erasure, error) {
	root, err := a.rootWord(req.RecoveryCode)
	if err != nil {
		return api.Erasure{}, err
	}
	v, err := a.records.AgreeErasure(ctx, user, id, root)
	return v, explain(err)
}

// Erasures lists what was ordered.
func (a *Agent) Erasures(ctx context.Context) ([]api.Erasure, error) {
	v, err := a.records.Erasures(ctx)
	return v, explain(err)
}

// rootWord agrees to orders by a recovery code; nil without one.
func (a *Agent) rootWord(code string) (func(chunk.ID) chunk.RootWord, error) {
	if code == "" {
		return nil, nil
	}
	recovery, err := keyring.OpenWithRecovery(code, a.records.State())
	if err != nil {
		return nil, explainRecovery(err)
	}
	return func(order chunk.ID) (w chunk.RootWord) {
		w.Root, w.Signature = recovery.SignErasure(order)
		return w
	}, nil
}
