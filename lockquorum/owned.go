package lockquorum

import "chartmesh/wire"

// Owned is a part of a range, as a device says that it has it.
type Owned struct {
	Range RangeID
	Part  // without its note
}

// MaxOwned is how many parts one device says that it has.
const MaxOwned = 4096

// AppendOwned writes: count | range 32, min, max, increment, owner 32, log 32, void 1, and if so the first number that was not given …
func AppendOwned(w *wire.Writer, list []Owned) {
	w.Uvarint(uint64(len(list)))
	for _, o := range list {
		w.Raw(o.Range[:])
		w.Uvarint(uint64(o.Min))
		w.Uvarint(uint64(o.Max))
		w.Uvarint(uint64(o.Increment))
		w.Raw(o.Owner[:])
		w.Raw(o.Log[:])
		if w.Bool(o.Void); o.Void {
			w.Uvarint(uint64(o.From))
		}
	}
}

// ReadOwned reads what AppendOwned wrote.
func ReadOwned(r *wire.Reader) (list []Owned) {
	for range r.Uvarint(MaxOwned) {
		o := Owned{Range: readID[RangeID](r)}
		o.Min, o.Max, o.Increment = readNumber(r), readNumber(r), readNumber(r)
		r.Fixed(o.Owner[:])
		r.Fixed(o.Log[:])
		if o.Void = r.Bool(); o.Void {
			o.From = int64(r.Uvarint(MaxNumber + 1))
		}
		if o.Min > o.Max || o.Increment == 0 || o.Void && (o.From < o.Min || o.From > o.Max+1) {
			r.Fail("part")
		}
		if r.Err() != nil {
			return nil
		}
		list = append(list, o)
	}
	return list
}
