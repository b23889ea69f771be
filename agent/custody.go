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
	if t := a.keys.StoreKeyChanged(); !t.IsZero() {
		s.StoreKeyChanged = &t
	}
	for _, sc := range a.records.State().Scopes() {
		for _, e := range sc.Epochs {
			if a.keys.Opens(e.ID) {
				s.Epochs++
			}
		}
	}
	return s, nil
}

// ProtectKeyring seals the keys on disk under a passphrase or a key in the system's keychain, or leaves them to the file's permissions.
func (a *Agent) ProtectKeyring(_ context.Context, req api.ProtectionRequest) error {
	var err error
	switch {
	case req.Keychain && req.Passphrase != "":
		return &api.Error{Code: api.CodeInvalid, Message: "the keys are sealed by a passphrase or by the keychain, not by both"}
	case req.Keychain:
		err = a.keys.ProtectByKeychain()
	default:
		err = a.keys.Protect([]byte(req.Passphrase))
	}
	switch {
	case errors.Is(err, keyring.ErrWeak):
		return &api.Error{Code: api.CodeInvalid, Message: keyring.ErrWeak.Error(), Hint: "several words that nobody would guess"}
	case errors.Is(err, keyring.ErrKeychainLeft):
		return &api.Error{Code: api.CodeUnavailable, Message: "the keys are kept anew; the old entry of the keychain could not be removed", Err: err,
			Hint: "remove it by hand: it is called chartmesh"}
	case errors.Is(err, keyring.ErrNoKeychain), errors.Is(err, keyring.ErrKeychainEntry):
		return &api.Error{Code: api.CodeUnavailable, Message: "nothing was changed: " + keyring.ErrNoKeychain.Error(), Err: err,
			Hint: "it needs a session of the user whose agent this is, with its keychain unlocked; for a service use a passphrase"}
	}
	return explain(err)
}
