package crdt

import (
	"bytes"
	"crypto/sha256"
	"unicode/utf8"
)

// The columns of a change, ascending as they stand in it. The number is Automerge's: column, then type in the low bits.
// Two more exist, for marks, which documents here do not contain.
const (
	objActorColumn   = 0x01
	objCounterColumn = 0x02
	keyActorColumn   = 0x11
	keyCounterColumn = 0x13
	keyStringColumn  = 0x15
	insertColumn     = 0x34
	actionColumn     = 0x42
	valueMetaColumn  = 0x56
	valueColumn      = 0x57
	predCountColumn  = 0x70
	predActorColumn  = 0x71
	predCtrColumn    = 0x73
	numColumns       = 12
)

// Automerge's numbers for what a value is, in the low four bits of its metadata.
const (
	valueNull   = 0
	valueFalse  = 1
	valueTrue   = 2
	valueInt    = 4
	valueString = 6
	valueBytes  = 7
)

// Automerge's numbers for actions. It has three more: increment, make table, mark.
const (
	nativeMakeMap  = 0
	nativePut      = 1
	nativeMakeList = 2
	nativeDelete   = 3
	nativeMakeText = 4
)

var magic = [4]byte{0x85, 0x6f, 0x4a, 0x83}

const chunkTypeChange = 1

// Decode decodes one uncompressed Automerge change, of which it trusts nothing. It refuses whatever the documents of
// this package never contain and every encoding but Automerge's own, and allocates in proportion to what it has already
// checked. Every error is a *Refused.
//
// The change's strings share one copy of raw.
func Decode(raw []byte) (*Change, error) {
	if len(raw) > MaxChangeBytes {
		return nil, refuse(ReasonSize)
	}
	if len(raw) < 9 || [4]byte(raw) != magic || raw[8] != chunkTypeChange {
		return nil, refuse(ReasonEnvelope)
	}
	var why string
	d := decoder{reader: reader{rest: string(raw[9:]), why: &why}}
	if n := d.uint(); d.failed() || n != uint64(len(d.rest)) {
		return nil, refuse(ReasonEnvelope)
	}
	c := &Change{Hash: sha256.Sum256(raw[8:])}
	if !bytes.Equal(c.Hash[:4], raw[4:8]) {
		return nil, refuse(ReasonChecksum)
	}
	d.header(c)
	if d.columns(); !d.failed() {
		d.ops(c, uint64(len(raw)))
	}
	if d.failed() {
		return nil, refuse(why)
	}
	return c, nil
}

type decoder struct {
	reader
	actors []Actor // the author first, as the operations number them
	used   []bool

	objActor, objCounter             column
	keyActor, keyCounter, keyString  column
	insert                           boolColumn
	action, valueMeta                column
	values                           reader
	predCount, predActor, predNumber column
}

func (d *decoder) header(c *Change) {
	n := d.capped(MaxChangeDeps, ReasonDeps)
	if n*uint64(len(ChangeHash{})) > uint64(len(d.rest)) {
		d.fail(ReasonEncoding)
		return
	}
	c.Deps = make([]ChangeHash, n)
	for i := range c.Deps {
		copy(c.Deps[i][:], d.take(32))
		if i > 0 && bytes.Compare(c.Deps[i-1][:], c.Deps[i][:]) >= 0 {
			d.fail(ReasonDeps)
		}
	}
	c.Actor = d.actor()
	c.Seq = d.capped(MaxSeq, ReasonHeader)
	c.StartOp = d.capped(MaxCounter, ReasonHeader)
	c.TimeSeconds = d.int()
	c.Message = d.take(d.capped(MaxMessageBytes, ReasonHeader))
	if c.Seq == 0 || c.StartOp == 0 || c.TimeSeconds > MaxAbsTimeSeconds || c.TimeSeconds < -MaxAbsTimeSeconds ||
		!utf8.ValidString(c.Message) {
		d.fail(ReasonHeader)
	}
	others := d.capped(MaxChangeActors-1, ReasonActors)
	d.actors = append(d.actors, c.Actor)
	for i := range others {
		a := d.actor()
		if d.failed() {
			return
		}
		if a == c.Actor || i > 0 && bytes.Compare(d.actors[i][:], a[:]) >= 0 {
			d.fail(ReasonActors)
			return
		}
		d.actors = append(d.actors, a)
	}
	d.used = make([]bool, len(d.actors))
	d.used[0] = true
}

func (d *decoder) actor() (a Actor) {
	if n := d.uint(); n != uint64(len(a)) {
		d.fail(ReasonActors)
		return a
	}
	copy(a[:], d.take(uint64(len(a))))
	return a
}

// columns takes the table of columns and cuts the rest into them.
func (d *decoder) columns() {
	n := d.capped(numColumns, ReasonColumns)
	var specs, lengths [numColumns]uint64
	for i := range n {
		specs[i], lengths[i] = d.uint(), d.uint()
		// Automerge leaves empty columns out.
		if i > 0 && specs[i] <= specs[i-1] || lengths[i] == 0 {
			d.fail(ReasonColumns)
		}
	}
	var data [predCtrColumn + 1]string
	for i := range n {
		switch specs[i] {
		case objActorColumn, objCounterColumn, keyActorColumn, keyCounterColumn, keyStringColumn, insertColumn,
			actionColumn, valueMetaColumn, valueColumn, predCountColumn, predActorColumn, predCtrColumn:
			data[specs[i]] = d.take(lengths[i])
		default:
			d.fail(ReasonColumns)
			return
		}
	}
	if d.rest != "" {
		d.fail(ReasonEncoding)
	}
	column := func(spec int, kind columnKind) column { return newColumn(data[spec], kind, d.why) }
	d.objActor, d.objCounter = column(objActorColumn, uintColumn), column(objCounterColumn, uintColumn)
	d.keyActor, d.keyCounter = column(keyActorColumn, uintColumn), column(keyCounterColumn, deltaColumn)
	d.keyString = column(keyStringColumn, stringColumn)
	d.insert = boolColumn{reader: reader{rest: data[insertColumn], why: d.why}}
	d.action, d.valueMeta = column(actionColumn, uintColumn), column(valueMetaColumn, uintColumn)
	d.values = reader{rest: data[valueColumn], why: d.why}
	d.predCount = column(predCountColumn, uintColumn)
	d.predActor, d.predNumber = column(predActorColumn, uintColumn), column(predCtrColumn, deltaColumn)
}

func (d *decoder) ops(c *Change, size uint64) {
	rows, _ := d.action.rows(MaxChangeOps, 1<<32, ReasonOps)
	predRows, preds := d.predCount.rows(MaxChangeOps, MaxChangePreds, ReasonPreds)
	switch {
	case d.failed():
		return
	case rows == 0 || c.StartOp+rows-1 > MaxCounter:
		d.fail(ReasonOps)
		return
	case predRows != rows:
		d.fail(ReasonRows)
		return
	}
	// A long run of equal rows takes a few bytes, so that the number of rows alone is no reason to allocate for them.
	room := min(rows, size/8+1)
	c.Ops = make([]Op, 0, room)
	counts := make([]int32, 0, room)
	pred := make([]OpID, 0, min(preds, size/8))
	for range rows {
		op := d.op()
		if d.failed() {
			return
		}
		before := len(pred)
		pred = d.preds(pred)
		if d.failed() {
			return
		}
		c.Ops, counts = append(c.Ops, op), append(counts, int32(len(pred)-before))
	}
	if uint64(len(pred)) != preds {
		d.fail(ReasonRows)
	}
	for i, n := range counts {
		if n > 0 {
			c.Ops[i].Pred, pred = pred[:n:n], pred[n:]
		}
	}
	d.close()
}

// op takes one row but for its predecessors.
func (d *decoder) op() (op Op) {
	objActorNull, objCounterNull := d.objActor.next(), d.objCounter.next()
	switch {
	case objActorNull != objCounterNull:
		d.fail(ReasonReference)
	case !objActorNull:
		op.Obj = d.opID(d.objActor.num, d.objCounter.num)
	}

	keyStringNull, keyActorNull, keyCounterNull := d.keyString.next(), d.keyActor.next(), d.keyCounter.next()
	switch {
	case !keyStringNull:
		if op.Key = d.keyString.str; op.Key == "" || len(op.Key) > MaxKeyBytes || !keyActorNull || !keyCounterNull {
			d.fail(ReasonKey)
		}
	case keyCounterNull:
		d.fail(ReasonKey)
	case !keyActorNull:
		op.Elem = d.opID(d.keyActor.num, uint64(d.keyCounter.sum))
	case d.keyCounter.sum != 0:
		d.fail(ReasonKey)
	}

	if op.Insert = d.insert.next(); keyStringNull && !op.Insert && op.Elem == (OpID{}) || !keyStringNull && op.Insert {
		d.fail(ReasonKey)
	}
	actionNull, metaNull := d.action.next(), d.valueMeta.next()
	if actionNull || metaNull {
		d.fail(ReasonRows)
		return op
	}
	action, meta := d.action.num, d.valueMeta.num
	switch action {
	case nativeMakeMap:
		op.Action, op.Value.Kind = ActionMake, Map
	case nativeMakeList:
		op.Action, op.Value.Kind = ActionMake, List
	case nativeMakeText:
		op.Action, op.Value.Kind = ActionMake, Text
	case nativeDelete:
		op.Action = ActionDelete
	case nativePut:
		op.Action, op.Value = ActionPut, d.value(meta)
		return op
	default:
		d.fail(ReasonAction)
	}
	if meta != valueNull {
		d.fail(ReasonValue)
	}
	return op
}

// value takes the scalar that the metadata describes.
func (d *decoder) value(meta uint64) (s Scalar) {
	kind, n := meta&15, meta>>4
	if n > MaxValueBytes {
		d.fail(ReasonValue)
		return s
	}
	raw := d.values.take(n)
	switch kind {
	case valueNull:
		s.Kind = Null
	case valueFalse:
		s.Kind = Bool
	case valueTrue:
		s.Kind, s.Int = Bool, 1
	case valueInt:
		number := reader{rest: raw, why: d.why}
		if s.Kind, s.Int = Int, number.int(); number.rest != "" {
			d.fail(ReasonEncoding)
		}
		return s
	case valueString:
		if s.Kind, s.Str = String, raw; !utf8.ValidString(raw) {
			d.fail(ReasonEncoding)
		}
		return s
	case valueBytes:
		s.Kind, s.Str = Bytes, raw
		return s
	default:
		d.fail(ReasonValue)
		return s
	}
	if n != 0 {
		d.fail(ReasonEncoding)
	}
	return s
}

// preds appends a row's predecessors.
func (d *decoder) preds(pred []OpID) []OpID {
	if d.predCount.next() {
		d.fail(ReasonRows)
	}
	first := len(pred)
	for range d.predCount.num {
		if d.predActor.next() || d.predNumber.next() {
			d.fail(ReasonRows)
			return pred
		}
		id := d.opID(d.predActor.num, uint64(d.predNumber.sum))
		if n := len(pred); n > first && pred[n-1].Compare(id) >= 0 {
			d.fail(ReasonPreds)
		}
		if d.failed() {
			return pred
		}
		pred = append(pred, id)
	}
	return pred
}

func (d *decoder) opID(actor, counter uint64) OpID {
	if actor >= uint64(len(d.actors)) || counter == 0 || counter > MaxCounter {
		d.fail(ReasonReference)
		return OpID{}
	}
	d.used[actor] = true
	return OpID{Counter: counter, Actor: d.actors[actor]}
}

// close checks that every column ends with the last row and that every actor is named by some operation.
func (d *decoder) close() {
	for _, c := range []*column{&d.objActor, &d.objCounter, &d.keyActor, &d.keyCounter, &d.keyString, &d.action,
		&d.valueMeta, &d.predCount, &d.predActor, &d.predNumber} {
		c.close()
	}
	d.insert.close()
	if d.values.rest != "" {
		d.fail(ReasonRows)
	}
	for _, used := range d.used {
		if !used {
			d.fail(ReasonActors)
		}
	}
}
