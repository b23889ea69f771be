package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chartmesh/agent/quorum"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A voter that is put back from an older copy must not vote. So how far it came stands outside of its folder too, as the folder's own witness
// does (witness.go), by device alone: a copy elsewhere on this machine is not to vote either. It is not synced: what it is there for is no crash.

// quorumWitness is that file.
type quorumWitness struct{ path string }

func quorumWitnessPath(device trust.DeviceID) (string, error) {
	state, err := stateFolder()
	if err != nil {
		return "", err
	}
	var w wire.Writer
	w.String("chartmesh quorum witness 1")
	w.Raw(device[:])
	sum := sha256.Sum256(w.Bytes())
	return filepath.Join(state, "quorum-"+hex.EncodeToString(sum[:16])), nil
}

const quorumWitnessFormat = "chartmesh quorum witness\nversion 1\nepoch %d\nvoter %d\nterm %d\nindex %d\n"

func encodeReached(r quorum.Reached) []byte {
	text := fmt.Sprintf(quorumWitnessFormat, r.Epoch, r.Voter, r.Term, r.Index)
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf(nil, "%ssum %x\n", text, sum[:16])
}

func parseReached(b []byte) (r quorum.Reached, err error) {
	if _, err := fmt.Sscanf(string(b), quorumWitnessFormat, &r.Epoch, &r.Voter, &r.Term, &r.Index); err != nil || string(encodeReached(r)) != string(b) {
		return quorum.Reached{}, errWitness
	}
	return r, nil
}

// Read implements quorum.Witness.
func (w quorumWitness) Read() (quorum.Reached, bool, error) {
	info, err := os.Lstat(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return quorum.Reached{}, false, nil
	}
	if err != nil {
		return quorum.Reached{}, false, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxWitness {
		return quorum.Reached{}, false, errWitness
	}
	b, err := os.ReadFile(w.path)
	if err != nil {
		return quorum.Reached{}, false, err
	}
	r, err := parseReached(b)
	return r, err == nil, err
}

// Write implements quorum.Witness. A crash leaves the old file or the new one.
func (w quorumWitness) Write(r quorum.Reached) (err error) {
	if err := os.MkdirAll(filepath.Dir(w.path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(w.path), "quorum.new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(encodeReached(r))
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), w.path)
}
