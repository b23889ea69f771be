package lockquorum

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"chartmesh/wire"
)

// commandVersion begins every command in the log.
const commandVersion = 1

// Command is one entry of the quorum's log.
//
//	version (1) | clock | device (32) | session (16) | seq | done | op (1) | what the operation needs
//
// Integers are unsigned LEB128. docs/spec/lockquorum.md has the operations.
type Command struct {
	// Clock is the replicated clock, in milliseconds: the proposer's reading, which holds if it is beyond that of the commands before.
	Clock int64
	// Device is who asks, as the connection proves; zeros: the leader itself.
	Device DeviceID
	// Session, Seq and Done let an answer be asked for again: of one session every Seq is carried out once, and what it amounted to is kept
	// until the session says, by Done, that it has all answers up to there. A zero Session keeps nothing.
	Session   SessionID
	Seq, Done uint64
	Operation Operation
}

// Op numbers an operation. The numbers are part of the format.
type Op uint8

const (
	OpTick        Op = 1
	OpOpen        Op = 2
	OpKeep        Op = 3
	OpEnd         Op = 4
	OpAcquire     Op = 5
	OpRenew       Op = 6
	OpCommit      Op = 7
	OpRelease     Op = 8
	OpCancel      Op = 9
	OpBreak       Op = 10
	OpAssign      Op = 11
	OpResolve     Op = 12
	OpOpenCircle  Op = 13
	OpCloseCircle Op = 14
	OpGrant       Op = 15
	OpVoid        Op = 16
	OpVoters      Op = 17
	OpDefine      Op = 18
	OpTake        Op = 19
	OpGiveBack    Op = 20
)

// Operation is what a command does. Its implementations are in this package.
type Operation interface {
	Op() Op
	append(*wire.Writer)
	read(*wire.Reader)
	// valid reports whether its fields are such as are written and read.
	valid() bool
	// apply changes a State whose clock, index and sessions are up to date.
	apply(*State, *Command) Result
}

func operationOf(op Op) Operation {
	switch op {
	case OpTick:
		return &Tick{}
	case OpOpen:
		return &Open{}
	case OpKeep:
		return &Keep{}
	case OpEnd:
		return &End{}
	case OpAcquire:
		return &Acquire{}
	case OpRenew:
		return &Renew{}
	case OpCommit:
		return &Commit{}
	case OpRelease:
		return &Release{}
	case OpCancel:
		return &Cancel{}
	case OpBreak:
		return &Break{}
	case OpAssign:
		return &Assign{}
	case OpResolve:
		return &Resolve{}
	case OpOpenCircle:
		return &OpenCircle{}
	case OpCloseCircle:
		return &CloseCircle{}
	case OpGrant:
		return &Grant{}
	case OpVoid:
		return &Void{}
	case OpVoters:
		return &Voters{}
	case OpDefine:
		return &Define{}
	case OpTake:
		return &Take{}
	case OpGiveBack:
		return &GiveBack{}
	}
	return nil
}

// ErrTooLarge says that a command has more than MaxCommand bytes.
var ErrTooLarge = errors.New("command is too large")

// Marshal writes a command. It is ErrTooLarge beyond MaxCommand, and wire.ErrMalformed for what Parse would not read.
func (c *Command) Marshal() ([]byte, error) {
	var w wire.Writer
	w.Byte(commandVersion)
	w.Uvarint(uint64(c.Clock))
	w.Raw(c.Device[:])
	w.Raw(c.Session[:])
	w.Uvarint(c.Seq)
	w.Uvarint(c.Done)
	w.Byte(byte(c.Operation.Op()))
	c.Operation.append(&w)
	if len(w.Bytes()) > MaxCommand {
		return nil, ErrTooLarge
	}
	if !c.valid() {
		return nil, fmt.Errorf("write command: %w: %T", wire.ErrMalformed, c.Operation)
	}
	return w.Bytes(), nil
}

// Parse reads a command: wire.ErrMalformed for what no voter of this version writes.
func Parse(b []byte) (*Command, error) {
	if len(b) > MaxCommand {
		return nil, fmt.Errorf("parse command: %w: %d bytes", wire.ErrMalformed, len(b))
	}
	r := wire.NewReader(b)
	if r.Byte() != commandVersion {
		r.Fail("version")
	}
	c := &Command{Clock: int64(r.Uvarint(MaxClock))}
	r.Fixed(c.Device[:])
	r.Fixed(c.Session[:])
	c.Seq = r.Uvarint(1<<63 - 1)
	c.Done = r.Uvarint(1<<63 - 1)
	if c.Operation = operationOf(Op(r.Byte())); c.Operation == nil {
		r.Fail("operation")
	} else if c.Operation.read(r); r.Err() == nil && !c.valid() {
		r.Fail("place in a session, or a field of the operation")
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("parse command: %w", err)
	}
	return c, nil
}

// hashOf names what an operation asks for.
func hashOf(o Operation) [32]byte {
	var w wire.Writer
	w.Raw([]byte("chartmesh quorum operation 1"))
	w.Byte(byte(o.Op()))
	o.append(&w)
	return sha256.Sum256(w.Bytes())
}

// Tick carries the clock on, so that leases end although nobody asks for anything.
type Tick struct{}

// Open begins the command's session. It ends when TTL, in milliseconds, has gone by without a command of it, and with
// it its places in queues; not before its leases end.
type Open struct{ TTL int64 }

// Keep keeps the command's session.
type Keep struct{}

// End ends the command's session and releases what it holds.
type End struct{}

// Acquire asks for a lease of TTL milliseconds. It is granted at once, or when all who asked before have had it; with Try at once or not
// at all.
type Acquire struct {
	Lock LockID
	TTL  int64
	Try  bool
}

// Renew has a lease last its TTL from now.
type Renew struct {
	Lock  LockID
	Token Token
}

// Commit certifies the heads of a document, if those that are certified are the expected ones.
type Commit struct {
	Lock          LockID
	Token         Token
	Document      DocumentID
	Expected, New Heads
}

// Release ends a lease.
type Release struct {
	Lock  LockID
	Token Token
}

// Cancel gives up waiting for a lock.
type Cancel struct{ Lock LockID }

// Break ends somebody else's lease. Back takes documents back to heads that were certified before, where the newest cannot be read.
type Break struct {
	Lock  LockID
	Token Token
	Back  []Certified // ascending by document
	Note  []byte      // sealed: who, when, why
}

// Certified are a document's certified heads.
type Certified struct {
	Document DocumentID
	Heads    Heads
}

// Assign gives an item the next number of a circle, or that which it has.
type Assign struct {
	Circle CircleID
	Item   ItemID
}

// Resolve says what became of an item's number.
type Resolve struct {
	Circle CircleID
	Item   ItemID
	To     NumberState // NumberUsed or NumberVoid
	Note   []byte      // sealed
}

// OpenCircle begins a circle of numbers, or its next series after it was closed.
type OpenCircle struct {
	Circle      CircleID
	First, Last int64
}

// CloseCircle ends a circle's series: it gives no number any more.
type CloseCircle struct{ Circle CircleID }

// Grant delegates a part of a number space to one log of a device, which gives its numbers without asking.
type Grant struct {
	Range               RangeID
	Owner               DeviceID
	Log                 [32]byte
	Min, Max, Increment int64
}

// Void takes back what is left of a part, from a number on: its log does not write any more.
type Void struct {
	Range RangeID
	Min   int64 // names the part
	From  int64 // the first number that was not given
	Note  []byte
}

// Voters notes who votes. The driver applies it with the change of Raft's configuration.
type Voters struct{ List []Voter }

// Voter is a device with its number in Raft, which is never used again.
type Voter struct {
	ID     uint64
	Device DeviceID
}

func (*Tick) Op() Op        { return OpTick }
func (*Open) Op() Op        { return OpOpen }
func (*Keep) Op() Op        { return OpKeep }
func (*End) Op() Op         { return OpEnd }
func (*Acquire) Op() Op     { return OpAcquire }
func (*Renew) Op() Op       { return OpRenew }
func (*Commit) Op() Op      { return OpCommit }
func (*Release) Op() Op     { return OpRelease }
func (*Cancel) Op() Op      { return OpCancel }
func (*Break) Op() Op       { return OpBreak }
func (*Assign) Op() Op      { return OpAssign }
func (*Resolve) Op() Op     { return OpResolve }
func (*OpenCircle) Op() Op  { return OpOpenCircle }
func (*CloseCircle) Op() Op { return OpCloseCircle }
func (*Grant) Op() Op       { return OpGrant }
func (*Void) Op() Op        { return OpVoid }
func (*Voters) Op() Op      { return OpVoters }

func (*Tick) append(*wire.Writer) {}
func (*Tick) read(*wire.Reader)   {}

func (o *Open) append(w *wire.Writer) { w.Uvarint(uint64(o.TTL)) }
func (o *Open) read(r *wire.Reader)   { o.TTL = readTTL(r) }

func (*Keep) append(*wire.Writer) {}
func (*Keep) read(*wire.Reader)   {}

func (*End) append(*wire.Writer) {}
func (*End) read(*wire.Reader)   {}

func (o *Acquire) append(w *wire.Writer) { w.Raw(o.Lock[:]); w.Uvarint(uint64(o.TTL)); w.Bool(o.Try) }
func (o *Acquire) read(r *wire.Reader)   { r.Fixed(o.Lock[:]); o.TTL = readTTL(r); o.Try = r.Bool() }

func (o *Renew) append(w *wire.Writer) { w.Raw(o.Lock[:]); o.Token.append(w) }
func (o *Renew) read(r *wire.Reader)   { r.Fixed(o.Lock[:]); o.Token = readToken(r) }

func (o *Commit) append(w *wire.Writer) {
	w.Raw(o.Lock[:])
	o.Token.append(w)
	w.Raw(o.Document[:])
	w.Raw(o.Expected[:])
	w.Raw(o.New[:])
}

func (o *Commit) read(r *wire.Reader) {
	r.Fixed(o.Lock[:])
	o.Token = readToken(r)
	r.Fixed(o.Document[:])
	r.Fixed(o.Expected[:])
	r.Fixed(o.New[:])
}

func (o *Release) append(w *wire.Writer) { w.Raw(o.Lock[:]); o.Token.append(w) }
func (o *Release) read(r *wire.Reader)   { r.Fixed(o.Lock[:]); o.Token = readToken(r) }

func (o *Cancel) append(w *wire.Writer) { w.Raw(o.Lock[:]) }
func (o *Cancel) read(r *wire.Reader)   { r.Fixed(o.Lock[:]) }

func (o *Break) append(w *wire.Writer) {
	w.Raw(o.Lock[:])
	o.Token.append(w)
	w.Uvarint(uint64(len(o.Back)))
	for _, c := range o.Back {
		w.Raw(c.Document[:])
		w.Raw(c.Heads[:])
	}
	w.Blob(o.Note)
}

func (o *Break) read(r *wire.Reader) {
	r.Fixed(o.Lock[:])
	o.Token = readToken(r)
	for range r.Uvarint(MaxDocuments) {
		var c Certified
		r.Fixed(c.Document[:])
		r.Fixed(c.Heads[:])
		if r.Err() != nil {
			return
		}
		o.Back = append(o.Back, c)
	}
	o.Note = r.Blob(MaxNote)
}

func (o *Assign) append(w *wire.Writer) { w.Raw(o.Circle[:]); w.Raw(o.Item[:]) }
func (o *Assign) read(r *wire.Reader)   { r.Fixed(o.Circle[:]); r.Fixed(o.Item[:]) }

func (o *Resolve) append(w *wire.Writer) {
	w.Raw(o.Circle[:])
	w.Raw(o.Item[:])
	w.Byte(byte(o.To))
	w.Blob(o.Note)
}

func (o *Resolve) read(r *wire.Reader) {
	r.Fixed(o.Circle[:])
	r.Fixed(o.Item[:])
	o.To = NumberState(r.Byte())
	o.Note = r.Blob(MaxNote)
}

func (o *OpenCircle) append(w *wire.Writer) {
	w.Raw(o.Circle[:])
	w.Uvarint(uint64(o.First))
	w.Uvarint(uint64(o.Last))
}

func (o *OpenCircle) read(r *wire.Reader) {
	r.Fixed(o.Circle[:])
	o.First, o.Last = readNumber(r), readNumber(r)
}

func (o *CloseCircle) append(w *wire.Writer) { w.Raw(o.Circle[:]) }
func (o *CloseCircle) read(r *wire.Reader)   { r.Fixed(o.Circle[:]) }

func (o *Grant) append(w *wire.Writer) {
	w.Raw(o.Range[:])
	w.Raw(o.Owner[:])
	w.Raw(o.Log[:])
	w.Uvarint(uint64(o.Min))
	w.Uvarint(uint64(o.Max))
	w.Uvarint(uint64(o.Increment))
}

func (o *Grant) read(r *wire.Reader) {
	r.Fixed(o.Range[:])
	r.Fixed(o.Owner[:])
	r.Fixed(o.Log[:])
	o.Min, o.Max, o.Increment = readNumber(r), readNumber(r), readNumber(r)
}

func (o *Void) append(w *wire.Writer) {
	w.Raw(o.Range[:])
	w.Uvarint(uint64(o.Min))
	w.Uvarint(uint64(o.From))
	w.Blob(o.Note)
}

func (o *Void) read(r *wire.Reader) {
	r.Fixed(o.Range[:])
	o.Min, o.From = readNumber(r), int64(r.Uvarint(MaxNumber+1))
	o.Note = r.Blob(MaxNote)
}

func (o *Voters) append(w *wire.Writer) { appendVoters(w, o.List) }
func (o *Voters) read(r *wire.Reader)   { o.List = readVoters(r) }

func (t Token) append(w *wire.Writer) { w.Uvarint(t.Epoch); w.Uvarint(t.Index) }

func readToken(r *wire.Reader) (t Token) {
	t.Epoch = r.Uvarint(1<<63 - 1)
	t.Index = r.Uvarint(1<<63 - 1)
	return t
}

func readTTL(r *wire.Reader) int64 {
	ttl := int64(r.Uvarint(MaxTTL))
	if ttl < MinTTL {
		r.Fail("how long it lasts")
	}
	return ttl
}

func readNumber(r *wire.Reader) int64 { return int64(r.Uvarint(MaxNumber)) }

func appendVoters(w *wire.Writer, list []Voter) {
	w.Uvarint(uint64(len(list)))
	for _, v := range list {
		w.Uvarint(v.ID)
		w.Raw(v.Device[:])
	}
}

func readVoters(r *wire.Reader) (list []Voter) {
	for range r.Uvarint(MaxVoters) {
		v := Voter{ID: r.Uvarint(1<<63 - 1)}
		r.Fixed(v.Device[:])
		if n := len(list); v.ID == 0 || n > 0 && list[n-1].ID >= v.ID {
			r.Fail("voters out of order")
		}
		if r.Err() != nil {
			return nil
		}
		list = append(list, v)
	}
	return list
}
