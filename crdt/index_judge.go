package crdt

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// Judge says whether a decoded change may be applied, and returns the record to Add once it is.
//
// Its error is ErrKnown; a *Missing if a dependency is not applied yet; a *Refused; or, for a change that would be
// acceptable, an *Equivocation. Whether a change is refused, and why, depends on it and its ancestors alone and never
// on what else is applied, so that all peers agree in whatever order changes reach them.
func (x *Index) Judge(c *Change) (Record, error) {
	if x.Has(c.Hash) {
		return Record{}, ErrKnown
	}
	past, missing := x.past(c.Deps)
	if missing != nil {
		return Record{}, missing
	}
	// Since an actor's own changes are all among the ancestors, an earlier one cannot be merely late: it would be the
	// ancestor of a dependency, and the dependencies are here.
	actor, used := x.actors[c.Actor]
	if !used {
		actor = -1
	}
	before := uint64(0)
	if used {
		before = past.get(actor)
	}
	if c.Seq != before+1 {
		return Record{}, refuse(ReasonSeq)
	}
	if c.StartOp <= past.last || c.StartOp > past.last+1+MaxCounterGap {
		return Record{}, refuse(ReasonStartOp)
	}
	j := judge{index: x, past: past, c: c, foreign: map[OpID]int32{}, made: make([]int32, len(c.Ops)), last: -1}
	for i := range c.Ops {
		if reason := j.op(i); reason != "" {
			return Record{}, refuse(reason)
		}
	}
	if !j.marked() {
		return Record{}, refuse(ReasonUnmarked)
	}
	r, names := j.record()
	if names > MaxChangeNames {
		return Record{}, refuse(ReasonNames)
	}
	if used && uint64(len(x.chains[actor])) >= c.Seq {
		return Record{}, &Equivocation{Actor: c.Actor, Seq: c.Seq, Other: x.chains[actor][c.Seq-1].Hash}
	}
	return r, nil
}

// liveKey is a map's register that says whether it is live or removed (docs/spec/document.md).
const liveKey = "~v"

// judge is the state of one Judge.
type judge struct {
	index *Index
	past  past
	c     *Change

	containers []container
	foreign    map[OpID]int32 // containers of ancestors and the root, by ID
	made       []int32        // by operation: the container that it made, plus one
	last       int32          // the container of the operation before, -1: none
	texts      map[textEdit]struct{}
}

// container is one that the change writes to, or that is around such a one.
type container struct {
	id      OpID
	kind    Kind
	parent  int32  // -1: the root itself
	slot    string // its key in the parent, if that is a map
	key     string // the resource's root key
	depth   int
	own     bool // made by this change
	written bool
	live    bool // liveKey was written
	checked bool // marked has seen it
}

// textEdit is a write to a text's register in the map around it.
type textEdit struct {
	in  int32
	key string
}

// op judges one operation and returns a reason to refuse it.
func (j *judge) op(i int) string {
	op := &j.c.Ops[i]
	at, reason := j.container(op.Obj, i)
	if reason != "" {
		return reason
	}
	j.containers[at].written = true
	if (op.Key != "") != (j.containers[at].kind == Map) {
		return ReasonObjectType
	}
	switch kind := j.containers[at].kind; {
	case kind == Text:
		return j.inText(i, op)
	case kind == List:
		reason = j.inList(i, op)
	case j.containers[at].parent < 0:
		reason = inRoot(op)
	default:
		reason = j.inMap(i, at, op)
	}
	if reason != "" || op.Action != ActionMake {
		return reason
	}
	around := &j.containers[at]
	made := container{
		id: j.c.ID(i), kind: op.Value.Kind, parent: at, slot: op.Key, key: around.key, depth: around.depth + 1, own: true,
	}
	if around.parent < 0 {
		made.key = op.Key
	}
	if made.depth > MaxDepth {
		return ReasonDepth
	}
	j.containers = append(j.containers, made)
	j.made[i] = int32(len(j.containers))
	return ""
}

// container finds or enters the container that operation i writes to, in j.containers.
func (j *judge) container(id OpID, i int) (int32, string) {
	if j.last >= 0 && j.containers[j.last].id == id {
		return j.last, ""
	}
	at, reason := j.find(id, i)
	j.last = at
	if reason != "" {
		j.last = -1
	}
	return at, reason
}

func (j *judge) find(id OpID, i int) (int32, string) {
	if j.own(id) {
		if k := id.Counter - j.c.StartOp; k < uint64(i) && j.made[k] > 0 {
			return j.made[k] - 1, ""
		}
		return -1, ReasonObject
	}
	if at, ok := j.foreign[id]; ok {
		return at, ""
	}
	f := container{id: id, kind: Map, parent: -1}
	if id != (OpID{}) {
		n := j.ancestor(id)
		if n == nil {
			return -1, ReasonObject
		}
		w := n.row(id.Counter)
		if f.kind = w.kind.makes(); f.kind == 0 {
			return -1, ReasonObject
		}
		// Accepted containers are no deeper than MaxDepth, and so is this recursion.
		parent, reason := j.find(n.objects[w.obj].id, i)
		if reason != "" {
			return -1, reason
		}
		f.parent, f.depth, f.key = parent, j.containers[parent].depth+1, n.Keys[n.keyOf(w)]
		if f.depth > 1 && !w.kind.inserts() {
			f.slot = n.names[w.ref]
		}
	}
	j.containers = append(j.containers, f)
	at := int32(len(j.containers) - 1)
	j.foreign[id] = at
	return at, ""
}

// own reports whether an ID is of this change or a later one of its actor, so that only this change can have made it.
func (j *judge) own(id OpID) bool { return id.Actor == j.c.Actor && id.Counter >= j.c.StartOp }

// ancestor returns the ancestor that made an operation, or nil.
func (j *judge) ancestor(id OpID) *indexed {
	if n := j.index.byOp(id); n != nil && n.Seq <= j.past.get(n.actor) {
		return n
	}
	return nil
}

// inRoot: nothing but resources, made once per site and never written over.
func inRoot(op *Op) string {
	if op.Action != ActionMake || op.Value.Kind != Map || len(op.Pred) != 0 || !validRootKey(op.Key) {
		return ReasonRoot
	}
	return ""
}

// validRootKey reports whether a key has the shape Type/id.
func validRootKey(key string) bool {
	kind, id, ok := strings.Cut(key, "/")
	if !ok || len(key) > MaxRootKeyBytes || kind == "" || id == "" {
		return false
	}
	for i := range len(kind) {
		if b := kind[i] | 0x20; (b < 'a' || b > 'z') && (i == 0 || kind[i] < '0' || kind[i] > '9') {
			return false
		}
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '/' {
			return false
		}
	}
	return true
}

// inMap: the kind of what stands at a key is told by how the key begins, so that nothing is written over a container.
func (j *judge) inMap(i int, at int32, op *Op) string {
	first := op.Key[0]
	switch op.Action {
	case ActionMake:
		if first == mapSlot && op.Value.Kind == Map || first == listSlot && op.Value.Kind == List ||
			first == textSlot && op.Value.Kind == Text {
			if len(op.Pred) != 0 {
				return ReasonPredecessor
			}
			return ""
		}
		return ReasonSlot
	case ActionDelete:
		return ReasonAction
	}
	switch first {
	case mapSlot, listSlot, textSlot:
		return ReasonSlot
	case tilde:
		if reason := j.control(i, at, op); reason != "" {
			return reason
		}
	}
	return j.preds(i, op)
}

// control judges a write to a key that begins with a tilde: a map's or a text's register, or the scalar field of a JSON
// object whose name begins with a character that means something here.
func (j *judge) control(i int, at int32, op *Op) string {
	if rest, escaped := strings.CutPrefix(op.Key, escape); escaped {
		if !reserved(rest) {
			return ReasonControl
		}
		return ""
	}
	if len(op.Key) > 1 && op.Key[1] == textSlot && op.Value.Kind == String {
		// Names the one of several texts that is live; an edit must be told by the register's number all the same.
		if !j.namesText(i, op) {
			return ReasonControl
		}
		return ""
	}
	if op.Value.Kind != Int || op.Value.Int != stateRemoved && op.Value.Int != stateLive {
		return ReasonControl
	}
	switch {
	case op.Key == liveKey:
		j.containers[at].live = true
	case len(op.Key) > 1 && op.Key[1] == textSlot:
		if j.texts == nil {
			j.texts = map[textEdit]struct{}{}
		}
		j.texts[textEdit{at, op.Key}] = struct{}{}
	default:
		return ReasonControl
	}
	return ""
}

// namesText reports whether a status register's value is the ID of a text in the slot that it belongs to.
func (j *judge) namesText(i int, op *Op) bool {
	id, ok := parseOpID(op.Value.Str)
	if !ok {
		return false
	}
	slot := op.Key[1:]
	if j.own(id) {
		k := id.Counter - j.c.StartOp
		return k < uint64(i) && j.made[k] > 0 && j.c.Ops[k].Value.Kind == Text && j.c.Ops[k].Obj == op.Obj &&
			j.c.Ops[k].Key == slot
	}
	n := j.ancestor(id)
	if n == nil {
		return false
	}
	w := n.row(id.Counter)
	return w.kind == rowMakeText && n.objects[w.obj].id == op.Obj && n.names[w.ref] == slot
}

// parseOpID reads what OpID.String writes.
func parseOpID(s string) (id OpID, ok bool) {
	counter, actor, _ := strings.Cut(s, "@")
	n, err := strconv.ParseUint(counter, 10, 32)
	if err != nil || len(s) > maxTextName || len(actor) != hex.EncodedLen(len(id.Actor)) {
		return OpID{}, false
	}
	id.Counter = n
	if _, err := hex.Decode(id.Actor[:], []byte(actor)); err != nil || id.String() != s {
		return OpID{}, false
	}
	return id, true
}

// inList: a map is inserted, and never written over; the core miscounts lists whose elements have several values.
func (j *judge) inList(i int, op *Op) string {
	switch {
	case op.Action == ActionDelete:
		return ReasonAction
	case !op.Insert || op.Action != ActionMake || op.Value.Kind != Map:
		return ReasonSlot
	case len(op.Pred) != 0:
		return ReasonPredecessor
	case op.Elem != (OpID{}) && !j.element(i, op):
		return ReasonElement
	}
	return ""
}

// inText: single characters come, and are deleted. A deletion names nothing but its character, since the core keeps a
// deletion only in what it deletes.
func (j *judge) inText(i int, op *Op) string {
	if op.Elem != (OpID{}) && !j.element(i, op) {
		return ReasonElement
	}
	if op.Insert {
		if op.Action != ActionPut || op.Value.Kind != String || !oneCharacter(op.Value.Str) {
			return ReasonText
		}
		if len(op.Pred) != 0 {
			return ReasonPredecessor
		}
		return ""
	}
	if op.Action != ActionDelete {
		return ReasonText
	}
	if len(op.Pred) != 1 || op.Pred[0] != op.Elem {
		return ReasonPredecessor
	}
	return ""
}

func oneCharacter(s string) bool {
	for i := range s {
		if i > 0 {
			return false
		}
	}
	return s != ""
}

// element reports whether the element that operation i names was inserted into the same object before.
func (j *judge) element(i int, op *Op) bool {
	if j.own(op.Elem) {
		k := op.Elem.Counter - j.c.StartOp
		return k < uint64(i) && j.c.Ops[k].Insert && j.c.Ops[k].Obj == op.Obj
	}
	n := j.ancestor(op.Elem)
	if n == nil {
		return false
	}
	w := n.row(op.Elem.Counter)
	return w.kind.inserts() && n.objects[w.obj].id == op.Obj
}

// preds judges the predecessors of a scalar written to a map's key: earlier scalars of the same key. The core ignores
// any other silently, and then finds another hash when it loads what it saved.
func (j *judge) preds(i int, op *Op) string {
	for _, p := range op.Pred {
		if !j.samePlace(i, op, p) {
			return ReasonPredecessor
		}
	}
	return ""
}

func (j *judge) samePlace(i int, op *Op, p OpID) bool {
	if j.own(p) {
		k := p.Counter - j.c.StartOp
		if k >= uint64(i) {
			return false
		}
		q := &j.c.Ops[k]
		return q.Action == ActionPut && q.Obj == op.Obj && q.Key == op.Key
	}
	n := j.ancestor(p)
	if n == nil {
		return false
	}
	w := n.row(p.Counter)
	return w.kind == rowPut && n.objects[w.obj].id == op.Obj && n.names[w.ref] == op.Key
}

// marked reports whether every map of an ancestor's that the change writes into, and every map around it, has its
// liveKey written by the change too, and every such text its register: what a concurrent removal then meets.
func (j *judge) marked() bool {
	for at := range j.containers {
		c := &j.containers[at]
		if !c.written || c.own {
			continue
		}
		if c.kind == Text {
			if _, ok := j.texts[textEdit{c.parent, statusKey + c.slot}]; !ok {
				return false
			}
		}
		for k := int32(at); k >= 0 && !j.containers[k].checked; k = j.containers[k].parent {
			c := &j.containers[k]
			c.checked = true
			if c.kind == Map && c.parent >= 0 && !c.live {
				return false
			}
		}
	}
	return true
}

// record makes what is kept of the judged change, and counts the bytes of all keys in it.
func (j *judge) record() (_ Record, bytes int) {
	c := j.c
	r := Record{
		Hash: c.Hash, Deps: slices.Clone(c.Deps), Actor: c.Actor, Seq: c.Seq, StartOp: c.StartOp, Count: uint64(len(c.Ops)),
	}
	keys, names := map[string]uint32{}, map[string]uint32{}
	number := func(known map[string]uint32, list *[]string, s string) uint32 {
		n, ok := known[s]
		if !ok {
			n = uint32(len(*list))
			s = strings.Clone(s) // the change's own shares memory with all its values
			known[s] = n
			*list = append(*list, s)
			bytes += len(s)
		}
		return n
	}
	// Containers of ancestors first, then those made here in order; numbers[at] is where j.containers[at] stands.
	numbers := make([]uint32, len(j.containers))
	for at := range j.containers {
		if f := &j.containers[at]; f.written && !f.own {
			numbers[at] = uint32(len(r.objects))
			o := object{id: f.id}
			if f.parent >= 0 {
				o.key = number(keys, &r.Keys, f.key)
			}
			r.objects = append(r.objects, o)
		}
	}
	r.foreign = len(r.objects)
	for at := range j.containers {
		if f := &j.containers[at]; f.own {
			numbers[at] = uint32(len(r.objects))
			r.objects = append(r.objects, object{id: f.id, key: number(keys, &r.Keys, f.key)})
		}
	}
	j.last = -1
	for i := range c.Ops {
		op := &c.Ops[i]
		at, _ := j.container(op.Obj, i)
		w := row{at: uint32(i), obj: numbers[at], kind: kindOf(op)}
		switch {
		case op.Key != "" && j.containers[at].parent < 0:
			w.ref = keys[op.Key]
		case op.Key != "":
			w.ref = number(names, &r.names, op.Key)
		}
		if n := len(r.rows); n > 0 && w.kind.several() && r.rows[n-1].kind == w.kind && r.rows[n-1].obj == w.obj {
			continue
		}
		r.rows = append(r.rows, w)
	}
	r.rows = slices.Clip(r.rows)
	return r, bytes
}

func kindOf(op *Op) rowKind {
	switch {
	case op.Action == ActionDelete:
		return rowRemove
	case op.Action == ActionMake && op.Insert:
		return rowInsertMap
	case op.Action == ActionMake && op.Value.Kind == Map:
		return rowMakeMap
	case op.Action == ActionMake && op.Value.Kind == List:
		return rowMakeList
	case op.Action == ActionMake:
		return rowMakeText
	case op.Insert:
		return rowInsert
	}
	return rowPut
}
