package crdt_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"chartmesh/crdt"
)

func TestValueEqual(t *testing.T) {
	bin := func(v crdt.Value) []byte {
		b, err := v.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	seeds(t, 5, func(t *testing.T, seed uint64) {
		r := &trees{Rand: rand.New(rand.NewPCG(seed, 3)), alike: true, keys: plainKeys}
		var all []crdt.Value
		for range 60 {
			all = append(all, r.tree(2))
		}
		for _, a := range all {
			for _, b := range all {
				if a.Equal(b) != bytes.Equal(bin(a), bin(b)) {
					t.Fatalf("%s and %s: equal %v, and their binary forms the opposite", text(a), text(b), a.Equal(b))
				}
			}
		}
	})
	same := [][2]crdt.Value{
		{{Kind: crdt.List}, {Kind: crdt.Bytes, Str: "j[]"}},
		{{Kind: crdt.Text}, {Kind: crdt.String}},
		{{Kind: crdt.Map}, {Kind: crdt.Map, Map: map[string]crdt.Value{}}},
	}
	for _, pair := range same {
		if !pair[0].Equal(pair[1]) || !bytes.Equal(bin(pair[0]), bin(pair[1])) {
			t.Errorf("%v and %v are not equal", pair[0], pair[1])
		}
	}
	other := [][2]crdt.Value{
		{{Kind: crdt.String, Str: "1"}, {Kind: crdt.Int, Int: 1}},
		{{Kind: crdt.Bool, Int: 1}, {Kind: crdt.Int, Int: 1}},
		{{Kind: crdt.Null}, {}},
		{parse(`{a:"x"}`), parse(`{a:x}`)},
		{parse(`["a"]`), parse(`[a]`)},
		{parse(`{a:null}`), parse(`{b:null}`)},
	}
	for _, pair := range other {
		if pair[0].Equal(pair[1]) || bytes.Equal(bin(pair[0]), bin(pair[1])) {
			t.Errorf("%v and %v are equal", pair[0], pair[1])
		}
	}
}

// patient has 30 fields, lists and nested maps among them.
const patient = `{resourceType:Patient id:1 active:true gender:female birthDate:1980-05-06 deceased:false ` +
	`name:[{use:official family:Kowalska given:[Anna Maria] prefix:[Dr.]} {use:maiden family:Nowak given:[Anna]}] ` +
	`telecom:[{system:phone use:home value:1} {system:email use:work value:2}] ` +
	`identifier:[<j1> <j2> <j3>] address:[{city:Łódź line:[x] postalCode:90-001}] maritalStatus:<jM> ` +
	`contact:[{name:{family:K given:[J]} relationship:[<jN>]}] communication:[{language:<jpl> preferred:true}] ` +
	`generalPractitioner:[<jp>] managingOrganization:<jo> extension:[<je> <jf>] meta:{profile:[a] tag:[<jt>]}}`

func BenchmarkShow(b *testing.B) {
	s := newWorld(b, true, 1).sites[0]
	s.write(parse(patient))
	register := s.read()
	b.ReportAllocs()
	for b.Loop() {
		crdt.Show(key, register)
	}
}

func BenchmarkWriteAll(b *testing.B) {
	s := newWorld(b, true, 1).sites[0]
	v := parse(patient)
	run := func(name string, register crdt.Register, want crdt.Value) {
		b.Run(name, func(b *testing.B) {
			have, all := map[string]crdt.Register{key: register}, map[string]crdt.Value{key: want}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := crdt.WriteAll(have, all); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("create", nil, v)
	s.write(v)
	run("same", s.read(), v)
	edited := parse(patient)
	edited.Map["telecom"].List[0].Map["value"] = crdt.Value{Kind: crdt.String, Str: "3"}
	run("edit", s.read(), edited)
}
