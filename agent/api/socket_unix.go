//go:build unix

package api

import (
	"errors"
	"os"
	"syscall"
)

// ownPrivate says whether dir belongs to this user and nobody else may enter it.
func ownPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() || !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return errors.New("the socket's folder is not this user's own")
	}
	return nil
}
