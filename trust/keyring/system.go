package keyring

import (
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	zalando "github.com/zalando/go-keyring"
)

const (
	keychainService = "chartmesh"

	// keychainPatience is how long a keychain may take: it may ask the user to unlock it, and nobody may be there.
	keychainPatience = time.Minute
)

// systemKeychain is the operating system's: the Secret Service on Linux, the keychain of macOS, the Credential Manager of Windows.
type systemKeychain struct{}

func (systemKeychain) Set(name string, secret []byte) error {
	_, err := askKeychain(func() (string, error) {
		return "", zalando.Set(keychainService, name, base64.StdEncoding.EncodeToString(secret))
	})
	return err
}

func (systemKeychain) Get(name string) ([]byte, error) {
	text, err := askKeychain(func() (string, error) { return zalando.Get(keychainService, name) })
	if errors.Is(err, zalando.ErrNotFound) {
		return nil, ErrKeychainEntry
	} else if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, ErrKeychainEntry
	}
	return secret, nil
}

func (systemKeychain) Delete(name string) error {
	_, err := askKeychain(func() (string, error) { return "", zalando.Delete(keychainService, name) })
	if errors.Is(err, zalando.ErrNotFound) {
		return nil
	}
	return err
}

// askKeychain calls the library, which waits for the user as long as he likes.
func askKeychain(call func() (string, error)) (string, error) {
	if !keychainThere() {
		return "", ErrNoKeychain
	}
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := call()
		answered <- answer{text, err}
	}()
	timer := time.NewTimer(keychainPatience)
	defer timer.Stop()
	select {
	case a := <-answered:
		if a.err != nil && !errors.Is(a.err, zalando.ErrNotFound) {
			return "", fmt.Errorf("%w: %w", ErrNoKeychain, a.err)
		}
		return a.text, a.err
	case <-timer.C:
		return "", fmt.Errorf("%w: it does not answer, perhaps because it waits to be unlocked", ErrNoKeychain)
	}
}
