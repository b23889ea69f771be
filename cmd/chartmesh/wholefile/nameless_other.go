//go:build !linux

package wholefile

import (
	"errors"
	"os"
)

func nameless(string) (*os.File, error) { return nil, nil } //nolint:nilnil // there is no such thing here

func link(*os.File, string) error { return errors.ErrUnsupported }
