package storage

import "bytes"

// tree is a persistent ordered map: put and del return a new one and leave the old as it was, so that a snapshot is a
// pointer. It is a treap whose priorities are hashes of the keys, so that its shape depends on its content alone.
type tree struct {
	key, value  []byte
	priority    uint64
	left, right *tree
}

// put returns t with key set to value; it keeps both slices.
func (t *tree) put(key, value []byte) *tree {
	if t == nil {
		return &tree{key: key, value: value, priority: priorityOf(key)}
	}
	n := *t
	switch c := bytes.Compare(key, t.key); {
	case c == 0:
		n.value = value
	case c < 0:
		n.left = t.left.put(key, value)
		if l := n.left; l.priority > n.priority { // l is a copy of this put's own
			n.left, l.right = l.right, &n
			return l
		}
	default:
		n.right = t.right.put(key, value)
		if r := n.right; r.priority > n.priority {
			n.right, r.left = r.left, &n
			return r
		}
	}
	return &n
}

// del returns t without key.
func (t *tree) del(key []byte) *tree {
	if t == nil {
		return nil
	}
	c := bytes.Compare(key, t.key)
	if c == 0 {
		return join(t.left, t.right)
	}
	n := *t
	if c < 0 {
		if n.left = t.left.del(key); n.left == t.left {
			return t
		}
	} else if n.right = t.right.del(key); n.right == t.right {
		return t
	}
	return &n
}

// join returns the union of a and b, where every key of a is less than every key of b.
func join(a, b *tree) *tree {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		n := *a
		n.right = join(a.right, b)
		return &n
	default:
		n := *b
		n.left = join(a, b.left)
		return &n
	}
}

// get returns key's value and whether there is one.
func (t *tree) get(key []byte) ([]byte, bool) {
	for t != nil {
		switch c := bytes.Compare(key, t.key); {
		case c == 0:
			return t.value, true
		case c < 0:
			t = t.left
		default:
			t = t.right
		}
	}
	return nil, false
}

// scan calls fn for every pair from the first key >= from on, ascending, until fn returns false.
func (t *tree) scan(from []byte, fn func(key, value []byte) bool) bool {
	if t == nil {
		return true
	}
	c := bytes.Compare(from, t.key)
	if c < 0 && !t.left.scan(from, fn) {
		return false
	}
	if c <= 0 && !fn(t.key, t.value) {
		return false
	}
	return t.right.scan(from, fn)
}

// priorityOf is FNV-1a with a finisher: neighbouring keys must not get neighbouring priorities.
func priorityOf(key []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range key {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
