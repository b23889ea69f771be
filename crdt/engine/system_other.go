//go:build !linux && !darwin

package engine

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }

func executable() (string, error) { return "", ErrUnsupported }

func resident(int) int64 { return 0 }
