// Package sessiontest is a replica in memory for tests of package session and of the hosts that carry it.
//
// Nouns: a [Replica] holds logs of chunks that mean nothing and membership entries that name their parents. [Chunk] and
// [Locate] are its form of a chunk.
//
// Guarantees: it keeps the contract of session.Replica and reports every breach of it by its peers through Fail; what it
// calls durable it never loses.
package sessiontest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// Replica holds chunks and entries. Its methods are safe for concurrent use.
type Replica struct {
	Device   trust.DeviceID
	Practice trust.EntryID
	// Shared lists the scopes shared with a peer; nil: all.
	Shared func(peer trust.DeviceID) []trust.ScopeID
	// Drop says whether an arriving chunk is lost, as one that is refused; nil: none.
	Drop func(session.Place) bool
	// OnAck sees every acknowledgement; OnArrive every arrival, once it is durable.
	OnAck    func(from trust.DeviceID, a session.Ack)
	OnArrive func(from trust.DeviceID, scope trust.ScopeID)
	// Fail is told of every breach of the contract.
	Fail func(format string, args ...any)
	// Lazy leaves what arrives unapplied until Apply is called.
	Lazy bool

	mu      sync.Mutex
	scopes  map[trust.ScopeID]*scope
	entries map[trust.EntryID]*entry
	order   []trust.EntryID
}

type scope struct {
	logs    map[chunk.LogID][][]byte
	tips    map[chunk.LogID][]chunk.Position
	forks   map[chunk.LogID]map[chunk.Position][]byte // chunks of other branches
	applied map[chunk.LogID]int
	taint   byte // makes what is applied differ
}

type entry struct {
	bytes   []byte
	parents []trust.EntryID
}

func newScope() *scope {
	return &scope{logs: map[chunk.LogID][][]byte{}, tips: map[chunk.LogID][]chunk.Position{},
		forks: map[chunk.LogID]map[chunk.Position][]byte{}, applied: map[chunk.LogID]int{}}
}

func (s *scope) add(log chunk.LogID, b []byte) {
	s.logs[log] = append(s.logs[log], b)
	s.tips[log] = append(s.tips[log], chunk.At(uint64(len(s.logs[log])), sha256.Sum256(b)))
}

// tip returns where a log ends.
func (s *scope) tip(log chunk.LogID) chunk.Tip {
	if n := len(s.tips[log]); n > 0 {
		return s.tips[log][n-1].Tip
	}
	return chunk.Tip{}
}

// arrive takes a chunk: it continues its log, or is of another history, or is no news, or lies beyond and is dropped.
func (s *scope) arrive(p session.Place, b []byte) {
	have, c := uint64(len(s.logs[p.Log])), p.Position.Counter
	parent := chunk.Position{Counter: c - 1, Tip: chunk.Tip(b[head-16 : head])}
	held := func(p session.Place) bool {
		return p.Position.Counter <= have && s.tips[p.Log][p.Position.Counter-1] == p.Position ||
			s.forks[p.Log][p.Position] != nil
	}
	switch {
	case c == have+1 && parent.Tip == s.tip(p.Log):
		s.add(p.Log, bytes.Clone(b))
	case !held(p) && (c == 1 || held(session.Place{Log: p.Log, Position: parent})):
		if s.forks[p.Log] == nil {
			s.forks[p.Log] = map[chunk.Position][]byte{}
		}
		s.forks[p.Log][p.Position] = bytes.Clone(b)
	}
}

// tree returns all chunks of a log, by position, with the position before each.
func (s *scope) tree(log chunk.LogID) (all map[chunk.Position][]byte, before map[chunk.Position]chunk.Position) {
	all, before = map[chunk.Position][]byte{}, map[chunk.Position]chunk.Position{}
	for i, b := range s.logs[log] {
		all[s.tips[log][i]] = b
	}
	maps.Copy(all, s.forks[log])
	for p, b := range all {
		before[p] = chunk.Position{Counter: p.Counter - 1, Tip: chunk.Tip(b[head-16 : head])}
	}
	return all, before
}

func comparePositions(a, b chunk.Position) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.Tip[:], b.Tip[:]))
}

// leaves returns the ends of a log's histories, ascending.
func (s *scope) leaves(log chunk.LogID) (list []chunk.Position) {
	all, before := s.tree(log)
	inner := map[chunk.Position]bool{}
	for _, p := range before {
		inner[p] = true
	}
	for p := range all {
		if !inner[p] {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, comparePositions)
	return list
}

// Forks implements session.Replica.
func (r *Replica) Forks(id trust.ScopeID) map[chunk.LogID][32]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forksLocked(id)
}

func (r *Replica) forksLocked(id trust.ScopeID) map[chunk.LogID][32]byte {
	out := map[chunk.LogID][32]byte{}
	if s := r.scopes[id]; s != nil {
		for log := range s.forks {
			out[log] = sha256.Sum256(fmt.Append(nil, s.leaves(log)))
		}
	}
	return out
}

// Locators implements session.Replica: every position.
func (r *Replica) Locators(id trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, _ := r.scopes[id].tree(log)
	return slices.SortedFunc(maps.Keys(all), comparePositions), nil
}

// Beyond implements session.Replica.
func (r *Replica) Beyond(id trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) ([]session.Item, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, before := r.scopes[id].tree(log)
	known := map[chunk.Position]bool{}
	for _, p := range has {
		for all[p] != nil && !known[p] {
			known[p], p = true, before[p]
		}
	}
	var out []session.Item
	for _, p := range slices.SortedFunc(maps.Keys(all), comparePositions) {
		if known[p] {
			continue
		}
		if maxBytes -= len(all[p]); maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, session.Item{Bytes: all[p], Log: log, Counter: p.Counter})
	}
	return out, nil
}

// New makes a replica that belongs to scopes.
func New(device trust.DeviceID, practice trust.EntryID, scopes ...trust.ScopeID) *Replica {
	r := &Replica{
		Device: device, Practice: practice,
		Fail:    func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) },
		scopes:  map[trust.ScopeID]*scope{},
		entries: map[trust.EntryID]*entry{},
	}
	for _, id := range scopes {
		r.scopes[id] = newScope()
	}
	return r
}

// Log returns the log that a device writes in a scope.
func Log(device trust.DeviceID, id trust.ScopeID) chunk.LogID {
	return chunk.LogID(sha256.Sum256(append(device[:], id[:]...)))
}

// Chunk makes a chunk that follows the one whose tip is previous.
func Chunk(id trust.ScopeID, log chunk.LogID, counter uint64, previous chunk.Tip, body []byte) []byte {
	b := append(id[:], log[:]...)
	b = binary.BigEndian.AppendUint64(b, counter)
	return append(append(b, previous[:]...), body...)
}

const head = 16 + 32 + 8 + 16

// Locate reads what Chunk made.
func Locate(b []byte) (session.Place, error) {
	if len(b) < head {
		return session.Place{}, errors.New("chunk is cut short")
	}
	return session.Place{Scope: trust.ScopeID(b[:16]), Log: chunk.LogID(b[16:48]),
		Position: chunk.At(binary.BigEndian.Uint64(b[48:]), sha256.Sum256(b))}, nil
}

// Edit appends a chunk to the device's own log, durable at once.
func (r *Replica) Edit(id trust.ScopeID, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, log := r.scopes[id], Log(r.Device, id)
	s.add(log, Chunk(id, log, uint64(len(s.logs[log])+1), s.tip(log), body))
	if !r.Lazy {
		s.applied[log] = len(s.logs[log])
	}
}

// Apply applies all that has come; it reports whether there was anything.
func (r *Replica) Apply(id trust.ScopeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, news := r.scopes[id], false
	for log, list := range s.logs {
		news = news || s.applied[log] != len(list)
		s.applied[log] = len(list)
	}
	return news
}

// EditAs appends a chunk to a log as a copy of this device would.
func (r *Replica) EditAs(id trust.ScopeID, log chunk.LogID, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[id]
	s.add(log, Chunk(id, log, uint64(len(s.logs[log])+1), s.tip(log), body))
	s.applied[log] = len(s.logs[log])
}

// Forked returns how many chunks of other branches of a log are held.
func (r *Replica) Forked(id trust.ScopeID, log chunk.LogID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.scopes[id].forks[log])
}

// Taint makes the replica apply differently from others.
func (r *Replica) Taint(id trust.ScopeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scopes[id].taint++
}

// AddScope makes the replica belong to one more scope.
func (r *Replica) AddScope(id trust.ScopeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.scopes[id] == nil {
		r.scopes[id] = newScope()
	}
}

// Enter adds a membership entry on top of all heads.
func (r *Replica) Enter(payload []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	heads := r.headsLocked()
	b := []byte{byte(len(heads))}
	for _, h := range heads {
		b = append(b, h[:]...)
	}
	r.enterLocked(append(b, payload...))
}

func (r *Replica) enterLocked(b []byte) {
	id := trust.EntryID(sha256.Sum256(b))
	e := &entry{bytes: bytes.Clone(b)}
	for i := range int(b[0]) {
		p := trust.EntryID(b[1+32*i : 33+32*i])
		if r.entries[p] == nil {
			return
		}
		e.parents = append(e.parents, p)
	}
	if r.entries[id] == nil {
		r.entries[id] = e
		r.order = append(r.order, id)
	}
}

func (r *Replica) headsLocked() []trust.EntryID {
	heads := map[trust.EntryID]bool{}
	for _, id := range r.order {
		heads[id] = true
		for _, p := range r.entries[id].parents {
			delete(heads, p)
		}
	}
	return slices.SortedFunc(maps.Keys(heads), func(a, b trust.EntryID) int { return bytes.Compare(a[:], b[:]) })
}

// Entries returns how many membership entries there are.
func (r *Replica) Entries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.order)
}

// Holds reports whether all that v names is durable here.
func (r *Replica) Holds(id trust.ScopeID, v chunk.Vector) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[id]
	for log, p := range v {
		if s == nil {
			return false
		}
		if all, _ := s.tree(log); all[p] == nil {
			return false
		}
	}
	return true
}

// Hello implements session.Replica.
func (r *Replica) Hello(peer trust.DeviceID) session.Local {
	var shared []trust.ScopeID
	if r.Shared != nil {
		shared = r.Shared(peer)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := session.Local{Practice: r.Practice, Heads: r.headsLocked()}
	for id, s := range r.scopes {
		if r.Shared != nil && !slices.Contains(shared, id) {
			continue
		}
		d := session.Digest{VectorHash: r.heldLocked(id), AtEnd: true}
		for log, n := range s.applied {
			if all, _ := s.tree(log); n == len(s.logs[log]) {
				n = len(all) // branches are applied with the rest
			}
			h := sha256.Sum256(append(binary.BigEndian.AppendUint64(log[:], uint64(n)), s.taint))
			for i := range h {
				d.Applied[i] ^= h[i]
			}
		}
		for log, list := range s.logs {
			d.AtEnd = d.AtEnd && s.applied[log] == len(list)
		}
		l.Scopes = append(l.Scopes, session.ScopeDigest{Scope: id, Digest: d})
	}
	return l
}

// Vector implements session.Replica.
func (r *Replica) Vector(id trust.ScopeID) chunk.Vector {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.vectorLocked(id)
}

// heldLocked names all that is held of a scope.
func (r *Replica) heldLocked(id trust.ScopeID) [32]byte {
	forks := r.forksLocked(id)
	hash := r.vectorLocked(id).Hash()
	for _, log := range slices.SortedFunc(maps.Keys(forks), chunk.LogID.Compare) {
		print := forks[log]
		hash = sha256.Sum256(append(hash[:], print[:]...))
	}
	return hash
}

func (r *Replica) vectorLocked(id trust.ScopeID) chunk.Vector {
	v := chunk.Vector{}
	if s := r.scopes[id]; s != nil {
		for log, tips := range s.tips {
			v[log] = tips[len(tips)-1]
		}
		for log := range s.forks { // the longest history, of equally long ones the smallest
			leaves := s.leaves(log)
			v[log] = leaves[slices.IndexFunc(leaves, func(p chunk.Position) bool { return p.Counter == leaves[len(leaves)-1].Counter })]
		}
	}
	return v
}

// EntriesSince implements session.Replica.
func (r *Replica) EntriesSince(heads []trust.EntryID) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[trust.EntryID]bool{}
	queue := slices.Clone(heads)
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		if e := r.entries[id]; e != nil && !known[id] {
			known[id] = true
			queue = append(queue, e.parents...)
		}
	}
	var out [][]byte
	for _, id := range r.order {
		if !known[id] {
			out = append(out, r.entries[id].bytes)
		}
	}
	return out
}

// AddEntries implements session.Replica.
func (r *Replica) AddEntries(_ context.Context, _ trust.DeviceID, entries [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range entries {
		if len(b) < 1+32*int(b[0]) {
			return errors.New("entry is cut short")
		}
		r.enterLocked(b)
	}
	return nil
}

// Chunks implements session.Replica.
func (r *Replica) Chunks(id trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) ([]session.Item, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[id]
	if s == nil || after > uint64(len(s.logs[log])) {
		r.Fail("asked for chunks after %d of a log of %d", after, len(s.logs[log]))
		return nil, nil
	}
	var out []session.Item
	for i, c := range s.logs[log][after:] {
		if maxBytes -= len(c); maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, session.Item{Bytes: c, Log: log, Counter: after + uint64(i) + 1})
	}
	return out, nil
}

// Stood implements session.Replica.
func (r *Replica) Stood(id trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[id]
	if s == nil || counter == 0 || counter > uint64(len(s.tips[log])) {
		return chunk.Position{}, nil
	}
	return s.tips[log][counter-1], nil
}

// Arrive implements session.Replica: what is out of order is dropped.
func (r *Replica) Arrive(_ context.Context, from trust.DeviceID, chunks [][]byte) error {
	var last trust.ScopeID
	for _, b := range chunks {
		p, err := Locate(b)
		if err != nil {
			return err
		}
		if r.Drop != nil && r.Drop(p) {
			continue
		}
		last = p.Scope
		r.mu.Lock()
		s := r.scopes[p.Scope]
		if s == nil {
			r.Fail("chunk of a scope that is not shared")
		} else {
			s.arrive(p, b)
			if !r.Lazy {
				s.applied[p.Log] = len(s.logs[p.Log])
			}
		}
		r.mu.Unlock()
	}
	if r.OnArrive != nil {
		r.OnArrive(from, last)
	}
	return nil
}

// Acked implements session.Replica.
func (r *Replica) Acked(_ context.Context, from trust.DeviceID, a session.Ack) error {
	if r.OnAck != nil {
		r.OnAck(from, a)
	}
	return nil
}

// SignAck implements session.Replica; it is a signature only by name.
func (r *Replica) SignAck(message []byte) []byte { return sign(r.Device, message) }

// VerifyAck implements session.Replica.
func (r *Replica) VerifyAck(device trust.DeviceID, message, signature []byte) bool {
	return hmac.Equal(signature, sign(device, message))
}

func sign(device trust.DeviceID, message []byte) []byte {
	h := hmac.New(sha256.New, device[:])
	h.Write(message)
	one := h.Sum(nil)
	return append(one, one...)
}
