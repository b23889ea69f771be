package storage

import "context"

// Part returns the store of one of many practices within a store: its keys stand behind Within and the number. Closing it does nothing.
//
// What the store keeps of some kinds beside the engine (HEADS) it does not keep of a part's: an anchor whose disk went back is
// told by the devices, and refilled.
func Part(s Store, number uint64) Store { return partStore{s, Within.Key(number)} }

type partStore struct {
	whole Store
	at    []byte
}

func (p partStore) key(key []byte) []byte { return append(p.at[:len(p.at):len(p.at)], key...) }

func (p partStore) View(fn func(Reader) error) error {
	return p.whole.View(func(r Reader) error { return fn(partReader{p, r}) })
}

func (p partStore) Commit(ctx context.Context, b *Batch) error {
	whole, err := p.within(b)
	if err != nil {
		return err
	}
	return p.whole.Commit(ctx, whole)
}

// within makes of a batch for the part one for the whole, which is held to the same limits as any other.
func (p partStore) within(b *Batch) (*Batch, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	whole := &Batch{Frees: b.Frees, inset: len(p.at)}
	for _, o := range b.ops {
		if o.delete {
			whole.Delete(p.key(o.key))
		} else {
			whole.Put(p.key(o.key), o.value)
		}
	}
	whole.size = b.size
	return whole, nil
}

func (partStore) Close() error { return nil }

type partReader struct {
	partStore
	r Reader
}

func (p partReader) Get(key []byte) ([]byte, error) { return p.r.Get(p.key(key)) }

func (p partReader) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	return p.r.Scan(p.key(prefix), p.from(from), func(key, value []byte) error { return fn(key[len(p.at):], value) })
}

func (p partReader) Keys(prefix, from []byte, fn func(key []byte) error) error {
	return p.r.Keys(p.key(prefix), p.from(from), func(key []byte) error { return fn(key[len(p.at):]) })
}

func (p partReader) from(from []byte) []byte {
	if from == nil {
		return nil
	}
	return p.key(from)
}
