package keyring

import (
	"os"
	"path/filepath"
)

// keychainThere reports whether there is a session's bus. Without one the library would start a bus of its own, with nobody on it.
func keychainThere() bool {
	if os.Getenv("DBUS_SESSION_BUS_ADDRESS") != "" {
		return true
	}
	run := os.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		return false
	}
	info, err := os.Stat(filepath.Join(run, "bus"))
	return err == nil && info.Mode()&os.ModeSocket != 0
}
