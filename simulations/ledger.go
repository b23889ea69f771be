package simulations

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/trust"
)

// ledger is what an onlooker who sees every device writes down: each write with the change that it became, what its
// author had seen, and what was acknowledged.
type ledger struct {
	logs    map[writer]uint64 // how far each log has been read
	docs    map[crdt.DocumentID]*lineage
	scopes  map[crdt.DocumentID]trust.ScopeID
	entries []*entry
	byRef   map[string][]*entry
	wholes  map[string]bool // every quantity that somebody wrote, canonical
	tokens  int
}

type place struct {
	scope trust.ScopeID
	log   chunk.LogID
}

// writer is a device at one of its logs: two copies of one device write the same.
type writer struct {
	device *device
	place
}

// Kinds of writes.
const (
	kindPut     = "put"
	kindImport  = "import"
	kindDelete  = "delete"
	kindResolve = "resolve"
)

// intent is what a device is about to write.
type intent struct {
	kind    string
	content map[string]string         // Type/id to what it shall be; empty: removed
	base    map[string]string         // what its author saw
	seen    map[string][]api.Conflict // and which conflicts were open
	decided *api.Conflict             // of a decision: content is what it led to
	chosen  string                    // and this is the side that was chosen
}

// entry is a change's part in one resource.
type entry struct {
	ref     string
	hash    crdt.ChangeHash
	doc     crdt.DocumentID
	device  *device
	at      place
	counter uint64
	chunk   chunk.ID
	acked   bool
	// mayBeGone says that the disk on which it was written went back, and nobody else had it then; gone that nobody has.
	mayBeGone, gone bool
	barred          bool     // gone, and held aside: its author was removed
	anew            []*entry // the same, written anew since it lost its place
	origin          *entry   // of such a one
	intent
}

func newLedger() *ledger {
	return &ledger{
		logs: map[writer]uint64{}, docs: map[crdt.DocumentID]*lineage{}, scopes: map[crdt.DocumentID]trust.ScopeID{},
		byRef: map[string][]*entry{}, wholes: map[string]bool{},
	}
}

// token returns a text that nobody has written before; tokens finds it wherever it went.
func (l *ledger) token() string {
	l.tokens++
	return fmt.Sprintf("tok%05dq", l.tokens)
}

// number is a token as a JSON number.
func (l *ledger) number() string {
	l.tokens++
	return fmt.Sprintf("77%05d.5", l.tokens)
}

var tokenPattern = regexp.MustCompile(`tok\d{5}q|77\d{5}\.5`)

func tokens(s string) []string { return tokenPattern.FindAllString(s, -1) }

// read takes down what a device has appended to its own logs since it was last looked at: the outcome of what it was
// told to do, acknowledged or not. It returns how many changes there were.
func (l *ledger) read(d *device, i *intent) (added []*entry, chunks int) {
	for _, s := range d.replica.State().Scopes() {
		at := place{s.ID, chunk.CurrentLog(d.keys)}
		end := d.replica.Vector(s.ID)[at.log].Counter
		if end < l.logs[writer{d, at}] {
			d.w.fail("I-durable", "%s holds %d chunks of its own log, %d were written", d.name, end, l.logs[writer{d, at}])
			return nil, 0
		}
		for l.logs[writer{d, at}] < end {
			items, err := d.replica.Chunks(s.ID, at.log, l.logs[writer{d, at}], 1)
			if err != nil || len(items) == 0 || items[0].Skip || items[0].Loose {
				d.w.fail("I-sound", "%s cannot read its own chunk %d: %v", d.name, l.logs[writer{d, at}]+1, err)
				return nil, 0
			}
			l.logs[writer{d, at}]++
			if i == nil {
				i = d.pending
			}
			list, written, err := l.enter(d, at, items[0].Bytes, i)
			if written {
				chunks++
			}
			if err != nil {
				d.w.fail("I-sound", "%s wrote a chunk that cannot be understood: %v", d.name, err)
				return nil, 0
			}
			added = append(added, list...)
		}
	}
	d.pending = nil
	return added, chunks
}

// enter takes down one chunk, and reports whether it is one that a user had written: checkpoints and the words on them are not.
func (l *ledger) enter(d *device, at place, raw []byte, i *intent) (added []*entry, written bool, err error) {
	sealed, err := chunk.Parse(raw)
	if err != nil {
		return nil, false, err
	}
	body, err := chunk.Open(d.keys, sealed)
	if err != nil {
		return nil, false, err
	}
	switch body := body.(type) {
	case *chunk.Changes:
		added, err = l.enterChanges(d, at, sealed, body, i)
		return added, true, err
	case *chunk.Checkpoint:
		d.w.report.Checkpoints++
		return nil, false, nil
	case *chunk.Cover:
		if !body.OK {
			d.w.fail("I-compact", "%s says that checkpoint %v is not what it claims to be", d.name, body.Checkpoint.ID)
		}
		return nil, false, nil
	case *chunk.Keys:
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("it is a chunk of another kind")
}

func (l *ledger) enterChanges(d *device, at place, sealed chunk.Sealed, changes *chunk.Changes, i *intent) ([]*entry, error) {
	x := l.docs[changes.Document]
	if x == nil {
		x = newLineage(changes.Document)
		l.docs[changes.Document], l.scopes[changes.Document] = x, at.scope
	}
	var replaces *entry
	if changes.Replaces != ([32]byte{}) { // the device itself says again what lost its place
		lost := x.byHash[changes.Replaces]
		if lost == nil || lost.entry == nil {
			return nil, fmt.Errorf("it writes anew what nobody wrote")
		}
		i, replaces = &lost.entry.intent, lost.entry
	}
	if i == nil {
		return nil, fmt.Errorf("nobody asked for it")
	}
	var added []*entry
	for _, ch := range changes.Changes {
		c, err := crdt.Decode(ch.Raw)
		if err != nil {
			return nil, err
		}
		rec, err := x.add(c)
		if err != nil {
			return nil, err
		}
		for _, ref := range rec.Keys {
			if i.decided != nil && changes.Replaces == ([32]byte{}) {
				d.decided(i, ref)
			}
			e := &entry{ref: ref, hash: rec.Hash, doc: changes.Document, device: d, at: at,
				counter: sealed.Header().Counter, chunk: sealed.ID(), intent: *i}
			x.byHash[rec.Hash].entry = e
			for _, o := range l.byRef[ref] {
				if replaces != nil && o.hash == replaces.hash {
					o.anew, e.origin = append(o.anew, e), o
				}
			}
			l.entries = append(l.entries, e)
			l.byRef[ref] = append(l.byRef[ref], e)
			added = append(added, e)
			for _, q := range wholes(i.content[ref]) {
				l.wholes[q] = true
			}
		}
	}
	return added, nil
}

// decided looks at what a decision has led to, and whether it is what was chosen.
func (d *device) decided(i *intent, ref string) {
	shown, conflicts := d.look(ref)
	i.content[ref] = shown
	for _, t := range tokens(i.chosen) {
		if !strings.Contains(shown, t) && !listed(conflicts, t) {
			d.w.fail("I-visible", "%s decided for %s in %s %q and it is not shown", d.name, t, ref, i.decided.Path)
		}
	}
}

// introduced returns the tokens that an entry brought, against what its author saw.
func (l *ledger) introduced(e *entry) []string {
	known := map[string]bool{}
	if e.decided == nil {
		for _, t := range tokens(e.base[e.ref]) {
			known[t] = true
		}
	}
	if e.kind == kindImport { // set against what was imported before it
		for _, o := range l.byRef[e.ref] {
			if o.kind == kindImport && o != e && l.saw(e, o) {
				for _, t := range tokens(o.content[e.ref]) {
					known[t] = true
				}
			}
		}
	}
	content := e.content[e.ref]
	if e.decided != nil { // who chooses a container, or that one stays, does not say again each value in it
		stays := len(e.decided.Values) == 2 && listsRemoval([]api.Conflict{*e.decided})
		if content = e.chosen; stays || !single(e.decided.Path, content) {
			return nil
		}
	}
	var list []string
	for _, t := range tokens(content) {
		if !known[t] {
			list = append(list, t)
		}
	}
	return list
}

// wrote reports whether the users of a device wrote what they are about to write, on the very version that they saw.
func (l *ledger) wrote(d *device, i *intent) bool {
	return slices.ContainsFunc(l.entries, func(e *entry) bool {
		return e.device.name == d.name && e.kind == kindPut && i.content[e.ref] != "" &&
			e.content[e.ref] == i.content[e.ref] && e.base[e.ref] == i.base[e.ref]
	})
}

// refs lists all resources that were ever written.
func (l *ledger) refs() []string { return slices.Sorted(maps.Keys(l.byRef)) }

// saw reports whether e was made on top of o.
func (l *ledger) saw(e, o *entry) bool {
	return e.hash != o.hash && e.doc == o.doc && l.docs[e.doc].buildsOn(e.hash, o.hash)
}

// replaced reports whether e knowingly took the token that o had written out of what is shown.
func (l *ledger) replaced(e, o *entry, token string) bool {
	if !l.saw(e, o) {
		return false
	}
	shown := strings.Contains(e.base[e.ref], token)
	if strings.Contains(e.content[e.ref], token) {
		// The same file, imported twice apart, or a copy of what was deleted, may be two sides of a conflict: who settles it
		// keeps the token of one.
		return (o.kind == kindImport || l.copied(e, o, token)) && shown && e.settles(token)
	}
	if e.kind == kindImport { // what people wrote stands against any file
		return o.kind == kindImport
	}
	return shown || e.settles(token)
}

// copied reports whether e saw the token that o had written in another write, too.
func (l *ledger) copied(e, o *entry, token string) bool { return len(l.alike(e, o, token)) > 0 }

// alike lists the writes with the token that o had written, made without knowing o, that e saw beside it.
func (l *ledger) alike(e, o *entry, token string) (list []*entry) {
	for _, p := range l.byRef[o.ref] {
		if p != o && p != e && l.saw(e, p) && !l.saw(p, o) && strings.Contains(p.content[p.ref], token) {
			list = append(list, p)
		}
	}
	return list
}

// merged lists the writes with the token that o had written whose value e saw as one with o's, and kept as one: who knew
// only one of them and took it away has taken away both (docs/spec/document.md, section 8).
func (l *ledger) merged(e, o *entry, token string) []*entry {
	if !l.saw(e, o) || !strings.Contains(e.content[e.ref], token) {
		return nil
	}
	return l.alike(e, o, token)
}

// settles reports whether e settled a conflict that listed a token.
func (e *entry) settles(token string) bool {
	return slices.ContainsFunc(e.seen[e.ref], func(c api.Conflict) bool { return inConflict(c, token) && e.settled(c.Path) })
}

// settled reports whether e decided the conflict that its author saw open at path, or one around it: by a decision, by
// removing the resource, or by writing something else than was shown.
func (e *entry) settled(path string) bool {
	if e.decided != nil {
		return strings.HasPrefix(path, e.decided.Path)
	}
	return slices.ContainsFunc(e.seen[e.ref], func(c api.Conflict) bool {
		return strings.HasPrefix(path, c.Path) && field(e.base[e.ref], c.Path) != field(e.content[e.ref], c.Path)
	})
}

// single reports whether a side of a conflict is one value, and not a container with values of its own.
func single(path, value string) bool {
	return path != "" && (!strings.HasPrefix(value, "{") || slices.Contains([]string{"value[x]", "total", "maritalStatus"}, path))
}

func inConflict(c api.Conflict, token string) bool {
	for _, v := range c.Values {
		if strings.Contains(string(v.Value), token) {
			return true
		}
	}
	return false
}

// story tells what became of a resource, write by write, each with the writes that it was made on.
func (l *ledger) story(ref string) string {
	var b strings.Builder
	list := l.byRef[ref]
	for i, e := range list {
		var on []int
		for j, o := range list {
			if !l.saw(e, o) {
				continue
			}
			if !slices.ContainsFunc(list, func(m *entry) bool { return l.saw(e, m) && l.saw(m, o) }) {
				on = append(on, j)
			}
		}
		fmt.Fprintf(&b, "\n  %d: %s by %s (%v) on %v: %v -> %v", i, e.kind, e.device.name, e.hash, on,
			tokens(e.base[ref]), tokens(e.content[ref]))
		for _, c := range e.seen[ref] {
			fmt.Fprintf(&b, "\n       saw conflict %q:", c.Path)
			for _, v := range c.Values {
				fmt.Fprintf(&b, " %v removed=%v;", tokens(string(v.Value)), v.Removed)
			}
		}
		if e.decided != nil {
			fmt.Fprintf(&b, "\n       decided %q", e.decided.Path)
		}
	}
	return b.String()
}
