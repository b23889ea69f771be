package keyring

import (
	"crypto/sha256"
	"os"

	"chartmesh/wire"
)

// instanceOf names this folder on this machine: a copy of the folder, here or elsewhere, has another name. A false alarm
// costs one more log; a miss (a folder restored in place) shows as two chunks at one counter, and both are kept.
//
// The file system's device number is left out, since it may change when a machine restarts.
func instanceOf(dir string) [32]byte {
	var w wire.Writer
	w.String("chartmesh instance 1")
	w.String(machineID())
	if info, err := os.Stat(dir); err == nil {
		w.Uint64(fileNumber(dir, info))
	}
	return sha256.Sum256(w.Bytes())
}
