package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/trust"
	"chartmesh/wire"
)

// What is asked when a quorum is founded anew: what a device has stored of the one before, and to store a voter of the new one. Both may be large. So a length stands
// where they would, and they follow in frames of their own:
//
//	question  16 | hold 1                                    what the device has of the quorum
//	          17 | entry 32 | epoch | number | length        store this voter; its State follows
//	answer    16 | length                                    a Testimony follows
//	          17                                             it is stored

const (
	kindTestimony = 16
	kindPrepare   = 17
)

// Caps of what follows in frames.
const (
	maxPiece     = 1 << 20
	maxState     = lockquorum.MaxSnapshot
	maxTestimony = maxState + 97<<20 // a voter's log, with a snapshot in one
)

// Testimony is what a device has of a quorum: all that its voter stored, and the parts of ranges that are its own.
type Testimony struct {
	Log   []byte // empty: it has no voter
	Parts []lockquorum.Owned
}

// Prepare is a voter of a quorum that an entry of the membership log is to found, and the State that all of its voters begin with.
type Prepare struct {
	Entry         trust.EntryID
	Epoch, Number uint64
	State         []byte // a snapshot
}

func (t Testimony) encode() []byte {
	var w wire.Writer
	w.Blob(t.Log)
	lockquorum.AppendOwned(&w, t.Parts)
	return w.Bytes()
}

func parseTestimony(b []byte) (t Testimony, err error) {
	r := wire.NewReader(b)
	t.Log = r.Blob(maxTestimony)
	t.Parts = lockquorum.ReadOwned(r)
	return t, r.Close()
}

// writePieces writes what follows in frames.
func writePieces(st Stream, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		_ = st.SetDeadline(time.Now().Add(patience))
		if err := writeFrame(st, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// readPieces reads what follows in frames. It has as much memory as came, and not as was announced.
func readPieces(st Stream, length uint64) ([]byte, error) {
	var all []byte
	for uint64(len(all)) < length {
		_ = st.SetDeadline(time.Now().Add(patience))
		b, err := readFrame(st, int(min(maxPiece, length-uint64(len(all)))))
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}

// testify answers with what this device has.
func (s *Server) testify(ctx context.Context, from lockquorum.DeviceID, hold bool) answer {
	t, err := s.Testify(ctx, from, hold)
	if err != nil {
		return refused(err)
	}
	b := t.encode()
	if len(b) > maxTestimony {
		return refused(lockquorum.ErrBusy)
	}
	return answer{kind: kindTestimony, length: uint64(len(b)), pieces: b}
}

// prepare takes the State of a voter that is to be stored, of who may have that done.
func (s *Server) prepare(st Stream, from lockquorum.DeviceID, p *Prepare, length uint64) (err error) {
	if s.Prepare == nil || s.Founds == nil || !s.Founds(from) {
		return lockquorum.ErrForbidden
	}
	p.State, err = readPieces(st, length)
	return err
}

// Testimony asks for what the device has of the quorum. With hold, its voter gives nothing from then on, for Hold.
func (e *Engine) Testimony(ctx context.Context, hold bool) (t Testimony, err error) {
	_, err = e.converse(ctx, question{kind: kindTestimony, hold: hold}, nil, func(st Stream, a answer) error {
		b, err := readPieces(st, a.length)
		if err == nil {
			t, err = parseTestimony(b)
		}
		return err
	})
	return t, err
}

// Hold is for how long a voter gives nothing whose log was asked for by who is about to found the quorum anew: what it gave then, the new one would not know.
const Hold = 3 * time.Minute

// Prepare asks the device to store a voter.
func (e *Engine) Prepare(ctx context.Context, p Prepare) error {
	if len(p.State) == 0 || len(p.State) > maxState {
		return fmt.Errorf("a State of %d bytes: %w", len(p.State), errors.ErrUnsupported)
	}
	_, err := e.converse(ctx, question{kind: kindPrepare, prepare: p, length: uint64(len(p.State))}, p.State, nil)
	return err
}
