package lockquorum

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"chartmesh/wire"
)

// What Marshal refuses Parse would, and the other way round: of commands with random fields, at their limits and beyond them.
func TestMarshalAsParse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	edges := []int64{0, 1, MinTTL - 1, MinTTL, MaxTTL, MaxTTL + 1, MaxNumber, MaxNumber + 1, MaxNumber + 2, MaxClock, MaxClock + 1, 1<<63 - 1, -1 << 63}
	number := func() int64 { return edges[rng.IntN(len(edges))] }
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Int64:
			v.SetInt(number())
		case reflect.Uint64:
			v.SetUint(uint64(number()))
		case reflect.Uint8:
			v.SetUint(uint64(rng.IntN(5)))
		case reflect.Bool:
			v.SetBool(rng.IntN(2) == 0)
		case reflect.Array:
			v.SetZero()
			v.Index(0).SetUint(uint64(rng.IntN(3)))
		case reflect.Slice:
			n := rng.IntN(4)
			if rng.IntN(8) == 0 {
				n = MaxVoters + rng.IntN(2)
			}
			if v.Type().Elem().Kind() == reflect.Uint8 {
				n = []int{0, MaxNote, MaxNote + 1}[rng.IntN(3)]
			}
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		}
	}
	good := map[Op]int{}
	for range 60_000 {
		c := &Command{Operation: operationOf(Op(1 + rng.IntN(20)))}
		if rng.IntN(4) > 0 {
			c.Session, c.Seq = SessionID{1}, 7
		}
		if rng.IntN(4) == 0 {
			c.Clock, c.Seq, c.Done = number(), uint64(number()), uint64(number())
		}
		fill(reflect.ValueOf(c.Operation).Elem())
		var w wire.Writer
		w.Byte(commandVersion)
		w.Uvarint(uint64(c.Clock))
		w.Raw(c.Device[:])
		w.Raw(c.Session[:])
		w.Uvarint(c.Seq)
		w.Uvarint(c.Done)
		w.Byte(byte(c.Operation.Op()))
		c.Operation.append(&w)
		_, parsed := Parse(w.Bytes())
		if _, written := c.Marshal(); (written == nil) != (parsed == nil) {
			t.Fatalf("%T %+v: written %v, read %v", c.Operation, c, written, parsed)
		} else if written == nil {
			good[c.Operation.Op()]++
		}
	}
	if len(good) != 20 {
		t.Errorf("of some operations none was good: %v", good)
	}
}
