package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
	"chartmesh/wire"
)

// One question, and its answer, on a stream of their own. Each stands behind its length, four bytes, big endian:
//
//	question  "cmqp" 1 | founding entry 32 | 1 | shown | wait 1 | command, its clock and device zeros
//	                                         2 | shown | kind 1, ID 32, series, number            what the quorum agrees on
//	                                         3 | count | kind 1, ID 32 …                          the names behind keyed hashes
//	                                         5 | epoch | number | count | number, device 32 …     begin to vote, at these voters' word
//	                                         6 | count | device 32 …                              have these vote and nobody else
//	                                         8 | shown | lock 32 | document 32                    what is certified of a document
//	shown     count | position, behind its length …                                                how far the quorum was seen to be
//	answer    1 | position, behind its length | code | token | end | series | number | heads 32 | place | count | document 32, heads 32, token, place …
//	          2 | position, behind its length | what was read (lockquorum.View)
//	          3 | names …                       empty: not known
//	          4 | why 1 | leader 32             zeros: nobody
//	          5                                 it begins
//	          6                                 they vote
//	          8 | statement | voter 32 | signature 64
//
// What is asked when a quorum is founded anew stands in founding.go. Voters' messages, but snapshots (snapshot.go), follow one another on a stream that begins
// with the question 7; nothing is answered:
//
//	message   epoch | index | chain 32 | message of Raft, in protobuf

var magic = []byte{'c', 'm', 'q', 'p', 1}

// Kinds of questions and answers.
const (
	kindDo       = 1
	kindRead     = 2
	kindNames    = 3
	kindRefused  = 4 // of answers alone
	kindBegin    = 5
	kindChange   = 6
	kindMessages = 7 // of questions alone
	kindCertify  = 8
	kindSnapshot = 12
)

// Caps of what comes from the other side.
const (
	// MaxNames is how many names are asked for at a time.
	MaxNames    = 256
	maxName     = 200
	maxQuestion = 16 << 10
	maxAnswer   = 64 << 10
	maxView     = lockquorum.MaxView
	maxMessage  = 4 << 20
)

// Name is a keyed hash of some kind.
type Name struct {
	Kind byte
	ID   [32]byte
}

// question is what is asked.
type question struct {
	practice trust.EntryID
	kind     byte
	shown    []lockquorum.Position
	query    lockquorum.Query
	request  lockquorum.Request // without what is shown
	names    []Name
	begin    Begin
	devices  []lockquorum.DeviceID
	lock     lockquorum.LockID
	document lockquorum.DocumentID
	hold     bool
	prepare  Prepare
	length   uint64 // of what follows in frames
}

// Begin asks a device to begin to vote, under a number of its own, in the quorum of others.
type Begin struct {
	Epoch, Number uint64
	Voters        []lockquorum.Voter
}

func (q question) encode() ([]byte, error) {
	var w wire.Writer
	w.Raw(magic)
	w.Raw(q.practice[:])
	w.Byte(q.kind)
	switch q.kind {
	case kindDo, kindRead, kindCertify:
		w.Uvarint(uint64(len(q.shown)))
		for _, p := range q.shown {
			w.Blob(p.Marshal())
		}
	}
	switch q.kind {
	case kindRead:
		w.Byte(byte(q.query.Kind))
		w.Raw(q.query.ID[:])
		w.Uvarint(q.query.Series)
		w.Uvarint(uint64(q.query.Number))
	case kindDo:
		w.Bool(q.request.Wait)
		c := lockquorum.Command{Session: q.request.Session, Seq: q.request.Seq, Done: q.request.Done, Operation: q.request.Operation}
		b, err := c.Marshal()
		if err != nil {
			return nil, err
		}
		w.Raw(b)
	case kindNames:
		w.Uvarint(uint64(len(q.names)))
		for _, n := range q.names {
			w.Byte(n.Kind)
			w.Raw(n.ID[:])
		}
	case kindBegin:
		w.Uvarint(q.begin.Epoch)
		w.Uvarint(q.begin.Number)
		w.Uvarint(uint64(len(q.begin.Voters)))
		for _, v := range q.begin.Voters {
			w.Uvarint(v.ID)
			w.Raw(v.Device[:])
		}
	case kindCertify:
		w.Raw(q.lock[:])
		w.Raw(q.document[:])
	case kindTestimony:
		w.Bool(q.hold)
	case kindPrepare:
		w.Raw(q.prepare.Entry[:])
		w.Uvarint(q.prepare.Epoch)
		w.Uvarint(q.prepare.Number)
		w.Uvarint(q.length)
	case kindChange:
		w.Uvarint(uint64(len(q.devices)))
		for _, d := range q.devices {
			w.Raw(d[:])
		}
	}
	return w.Bytes(), nil
}

func parseQuestion(b []byte) (q question, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(magic)), magic) {
		r.Fail("magic or version")
	}
	r.Fixed(q.practice[:])
	q.kind = r.Byte()
	switch q.kind {
	case kindDo, kindRead, kindCertify:
		for range r.Uvarint(lockquorum.MaxShown) {
			if q.shown = append(q.shown, readPosition(r)); r.Err() != nil {
				return q, r.Err()
			}
		}
	}
	switch q.kind {
	case kindDo:
		q.request.Wait = r.Bool()
		if err := r.Err(); err != nil {
			return q, err
		}
		c, err := lockquorum.Parse(r.Rest())
		if err != nil {
			return q, err
		}
		if c.Clock != 0 || c.Device != (lockquorum.DeviceID{}) {
			return q, fmt.Errorf("parse question: %w: clock or device", wire.ErrMalformed)
		}
		q.request.Session, q.request.Seq, q.request.Done, q.request.Operation = c.Session, c.Seq, c.Done, c.Operation
		return q, nil
	case kindRead:
		q.query.Kind = lockquorum.Kind(r.Byte())
		r.Fixed(q.query.ID[:])
		q.query.Series, q.query.Number = r.Uvarint(lockquorum.MaxSeries), int64(r.Uvarint(lockquorum.MaxNumber+1))
	case kindMessages, kindSnapshot:
	case kindBegin:
		q.begin.Epoch = r.Uvarint(maxCount)
		if q.begin.Number = r.Uvarint(maxCount); q.begin.Epoch == 0 || q.begin.Number == 0 {
			r.Fail("number")
		}
		for range r.Uvarint(lockquorum.MaxVoters) {
			v := lockquorum.Voter{ID: r.Uvarint(maxCount)}
			if r.Fixed(v.Device[:]); r.Err() != nil {
				return q, r.Err()
			}
			q.begin.Voters = append(q.begin.Voters, v)
		}
	case kindCertify:
		r.Fixed(q.lock[:])
		r.Fixed(q.document[:])
	case kindTestimony:
		q.hold = r.Bool()
	case kindPrepare:
		r.Fixed(q.prepare.Entry[:])
		q.prepare.Epoch, q.prepare.Number = r.Uvarint(maxCount), r.Uvarint(maxCount)
		if q.length = r.Uvarint(maxState); q.length == 0 || q.prepare.Epoch == 0 || q.prepare.Number == 0 {
			r.Fail("voter")
		}
	case kindChange:
		for range r.Uvarint(lockquorum.MaxVoters) {
			var d lockquorum.DeviceID
			if r.Fixed(d[:]); r.Err() != nil {
				return q, r.Err()
			}
			q.devices = append(q.devices, d)
		}
	case kindNames:
		for range r.Uvarint(MaxNames) {
			n := Name{Kind: r.Byte()}
			r.Fixed(n.ID[:])
			if r.Err() != nil {
				return q, r.Err()
			}
			q.names = append(q.names, n)
		}
	default:
		r.Fail("kind of question")
	}
	return q, r.Close()
}

// answer is what comes back.
type answer struct {
	kind   byte
	at     lockquorum.Position
	answer lockquorum.Answer // without its Position
	view   []byte
	wanted []byte // pieces of a snapshot
	names  []string
	why    byte
	leader lockquorum.DeviceID
	signed certificate.Signed
	length uint64 // of what follows in frames
	pieces []byte
}

// Why something was refused. The numbers are part of the protocol.
const (
	whyNotLeader = 1
	whyBusy      = 2
	whyUnknown   = 3
	whyStopped   = 4
	whyForbidden = 5
	whyMalformed = 6
	whyVoters    = 7
	whyMissing   = 8
	whyLost      = 9
	whyOver      = 10
)

// refusals are the errors of an Engine that travel.
var refusals = map[byte]error{
	whyBusy: lockquorum.ErrBusy, whyUnknown: lockquorum.ErrOutcomeUnknown, whyStopped: lockquorum.ErrStopped, whyForbidden: lockquorum.ErrForbidden,
	whyMalformed: wire.ErrMalformed, whyVoters: ErrVoters, whyMissing: ErrMissing,
	whyLost: lockquorum.ErrLost, whyOver: lockquorum.ErrOver,
}

// Errors of Begin and Change, beside those of a lockquorum.Engine.
var (
	// ErrVoters says that a quorum has one voter or three.
	ErrVoters = errors.New("a quorum has one voter or three")
	// ErrMissing says that one who is to vote is not reached, has not got everything yet, or does not begin. Asked for again, it goes on.
	ErrMissing = errors.New("a device that is to vote is not ready")
)

// refused says why in a way that travels. What is not known to have failed before it was carried out may have been.
func refused(err error) answer {
	a := answer{kind: kindRefused, why: whyUnknown}
	if not := (*lockquorum.NotLeaderError)(nil); errors.As(err, &not) {
		a.why, a.leader = whyNotLeader, not.Leader
		return a
	}
	for why, is := range refusals {
		if errors.Is(err, is) {
			a.why = why
		}
	}
	for _, why := range []byte{whyOver, whyLost, whyUnknown} { // with whatever else, the last one first
		if errors.Is(err, refusals[why]) {
			a.why = why
		}
	}
	return a
}

// err is refused's inverse.
func (a answer) err() error {
	if a.why == whyNotLeader {
		return &lockquorum.NotLeaderError{Leader: a.leader}
	}
	return refusals[a.why]
}

func (a answer) encode() []byte {
	var w wire.Writer
	w.Byte(a.kind)
	switch a.kind {
	case kindDo, kindRead:
		w.Blob(a.at.Marshal())
	}
	switch a.kind {
	case kindDo:
		r := a.answer
		w.Byte(byte(r.Code))
		place(&w, r.Token)
		w.Uvarint(uint64(r.Expiry))
		w.Uvarint(r.Series.Epoch)
		w.Uvarint(r.Series.N)
		w.Uvarint(uint64(r.Number))
		w.Raw(r.Heads[:])
		place(&w, r.Place)
		w.Uvarint(uint64(len(r.Documents)))
		for _, d := range r.Documents {
			w.Raw(d.ID[:])
			w.Raw(d.Heads[:])
			place(&w, d.Token)
			place(&w, d.At)
		}
	case kindRead:
		w.Raw(a.view)
	case kindSnapshot:
		w.Raw(a.wanted)
	case kindNames:
		w.Uvarint(uint64(len(a.names)))
		for _, n := range a.names {
			w.String(n)
		}
	case kindCertify:
		w.Blob(a.signed.Statement)
		w.Raw(a.signed.Voter[:])
		w.Raw(a.signed.Signature[:])
	case kindTestimony:
		w.Uvarint(a.length)
	case kindRefused:
		w.Byte(a.why)
		w.Raw(a.leader[:])
	}
	return w.Bytes()
}

func place(w *wire.Writer, p lockquorum.Place) { w.Uvarint(p.Epoch); w.Uvarint(p.Index) }

// readPosition takes a position behind its length, or none.
func readPosition(r *wire.Reader) lockquorum.Position {
	p, err := lockquorum.ParsePosition(r.Blob(lockquorum.MaxPosition))
	if err != nil {
		r.Fail("position")
	}
	return p
}

// maxCount is beyond any epoch or index.
const maxCount = 1<<63 - 1

func readPlace(r *wire.Reader) (p lockquorum.Place) {
	p.Epoch = r.Uvarint(maxCount)
	p.Index = r.Uvarint(maxCount)
	return p
}

func parseAnswer(b []byte) (a answer, err error) {
	r := wire.NewReader(b)
	switch a.kind = r.Byte(); a.kind {
	case kindDo, kindRead:
		a.at = readPosition(r)
	}
	switch a.kind {
	case kindDo:
		to := &a.answer
		to.Code = lockquorum.Code(r.Byte())
		to.Token = readPlace(r)
		to.Expiry = int64(r.Uvarint(2 * lockquorum.MaxClock))
		to.Series.Epoch = r.Uvarint(maxCount)
		to.Series.N = r.Uvarint(maxCount)
		to.Number = int64(r.Uvarint(lockquorum.MaxNumber + 1))
		r.Fixed(to.Heads[:])
		to.Place = readPlace(r)
		for range r.Uvarint(lockquorum.MaxDocuments) {
			var d lockquorum.Document
			r.Fixed(d.ID[:])
			r.Fixed(d.Heads[:])
			d.Token, d.At = readPlace(r), readPlace(r)
			if r.Err() != nil {
				return a, r.Err()
			}
			to.Documents = append(to.Documents, d)
		}
	case kindRead:
		a.view = r.Rest()
		return a, r.Err()
	case kindSnapshot:
		a.wanted = r.Rest()
		return a, r.Err()
	case kindBegin, kindChange, kindPrepare:
	case kindTestimony:
		a.length = r.Uvarint(maxTestimony)
	case kindNames:
		for range r.Uvarint(MaxNames) {
			if a.names = append(a.names, r.String(maxName)); r.Err() != nil {
				return a, r.Err()
			}
		}
	case kindCertify:
		a.signed.Statement = r.Blob(certificate.MaxStatement)
		r.Fixed(a.signed.Voter[:])
		r.Fixed(a.signed.Signature[:])
	case kindRefused:
		if a.why = r.Byte(); a.why == 0 || a.why > whyOver {
			r.Fail("why it was refused")
		}
		if r.Fixed(a.leader[:]); a.why != whyNotLeader && a.leader != (lockquorum.DeviceID{}) {
			r.Fail("leader")
		}
	default:
		r.Fail("kind of answer")
	}
	return a, r.Close()
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readFrame reads a frame of at most limit bytes. It allocates as bytes come, not as a length promises.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n == 0 || n > int64(limit) {
		return nil, fmt.Errorf("read frame: %w: %d bytes long", wire.ErrMalformed, n)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, n); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b.Bytes(), nil
}

// marshalMessage writes a message of Raft, with how far its sender has come.
func marshalMessage(at lockquorum.Seen, m *pb.Message) ([]byte, error) {
	var w wire.Writer
	place(&w, at.Place)
	w.Raw(at.Chain[:])
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	w.Raw(b)
	return w.Bytes(), nil
}

// parseMessage reads one. What protobuf takes in other forms is taken: who sends it may send any message.
func parseMessage(b []byte) (at lockquorum.Seen, m *pb.Message, err error) {
	r := wire.NewReader(b)
	at.Place = readPlace(r)
	if r.Fixed(at.Chain[:]); r.Err() != nil {
		return lockquorum.Seen{}, nil, r.Err()
	}
	m = &pb.Message{}
	if err := proto.Unmarshal(r.Rest(), m); err != nil {
		return lockquorum.Seen{}, nil, fmt.Errorf("parse message: %w", wire.ErrMalformed)
	}
	return at, m, nil
}
