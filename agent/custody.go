package agent

import (
	"context"
	"errors"
	"path/filepath"

	"chartmesh/agent/api"
	"chartmesh/trust/keyring"
)

// KeyringStatus says where and how this device keeps its keys.
func (a *Agent) KeyringStatus(context.Context) (api.KeyringStatus, error) {
	file, err := filepath.Abs(filepath.Join(a.cfg.Dir, keyring.FileName))
	if err != nil {
		return api.KeyringStatus{}, err
	}
	s := api.KeyringStatus{File: file, Protection: a.keys.Protection()}
	for _, sc := range a.records.State().Scopes() {
		for _, e := range sc.Epochs {
			if a.keys.Opens(e.ID) {
				s.Epochs++
			}
		}
	}
	return s, nil
}

// ProtectKeyring seals the keys on disk under a passphrase, or leaves them to the file's permissions.
func (a *Agent) ProtectKeyring(_ context.Context, passphrase string) error {
	err := a.keys.Protect([]byte(passphrase))
	if errors.Is(err, keyring.ErrWeak) {
		return &api.Error{Code: api.CodeInvalid, Message: keyring.ErrWeak.Error(), Hint: "several words that nobody would guess"}
	}
	return explain(err)
}
