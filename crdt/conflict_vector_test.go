package crdt_test

import (
	"encoding/hex"
	"testing"

	"chartmesh/crdt"
)

// TestVectors holds the test vectors of docs/spec/document.md.
func TestVectors(t *testing.T) {
	a, b := crdt.Actor{0: 0xaa, 15: 0x01}, crdt.Actor{0: 0xbb, 15: 0x02}
	number := func(n int64) crdt.Scalar { return crdt.Scalar{Kind: crdt.Int, Int: n} }
	register := crdt.Register{{
		Op: crdt.OpID{Counter: 1, Actor: a}, Scalar: crdt.Scalar{Kind: crdt.Map},
		Map: []crdt.Field{
			{Key: "gender", Values: crdt.Register{
				{Op: crdt.OpID{Counter: 5, Actor: a}, Scalar: crdt.Scalar{Kind: crdt.String, Str: "female"}},
				{Op: crdt.OpID{Counter: 5, Actor: b}, Scalar: crdt.Scalar{Kind: crdt.Bytes}},
			}},
			{Key: "~v", Values: crdt.Register{
				{Op: crdt.OpID{Counter: 4, Actor: a}, Scalar: number(1)},
				{Op: crdt.OpID{Counter: 4, Actor: b}, Scalar: number(1)},
			}},
		},
	}}
	shown := crdt.Show("Patient/1", register)
	if len(shown.Conflicts) != 1 {
		t.Fatal(describe(shown))
	}
	const id = "606516abfdb99e379de464b420fca8af"
	if got := shown.Conflicts[0].ID.String(); got != id {
		t.Errorf("conflict ID %s", got)
	}
	const binary = "010301610501016202020401780702c3a908056a312e3530"
	got, err := parse(`{a:#-1 b:[x null] é:<j1.50>}`).AppendBinary(nil)
	if err != nil || hex.EncodeToString(got) != binary {
		t.Errorf("binary form %x, %v", got, err)
	}
}
