package chunk_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/trust"
)

// TestSealCheckpoint seals a checkpoint of another device's chunk, whose signature goes with it, and a word on it.
func TestSealCheckpoint(t *testing.T) {
	p := newPractice(t)
	c := p.changes(t, 300)
	one, err := chunk.Seal(p.member, p.params(p.member), c)
	if err != nil {
		t.Fatal(err)
	}
	want := &chunk.Checkpoint{
		Document: c.Document, Logs: []chunk.LogKey{one.LogKey()},
		Covers:     chunk.Covers{{Run: chunk.Run{Log: one.Log(), From: 1, To: 1, Last: one.ID()}, Tips: []chunk.Tip{{}}}},
		Parts:      []chunk.Part{chunk.PartOf(c, 0, 1)},
		Others:     []chunk.Spot{},
		Authorship: []chunk.Word{{Log: 0, Authorship: c.Authorship[0]}},
	}
	sealed, err := chunk.Seal(p.admin, p.params(p.admin), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := chunk.Parse(sealed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(p.state); err != nil {
		t.Fatal(err)
	}
	if covers, err := got.Covers(); err != nil || !reflect.DeepEqual(covers, want.Covers) {
		t.Errorf("covers %v, %v without a key", covers, err)
	}
	body, err := chunk.Open(p.member, got)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(body, want) {
		t.Errorf("opened %#v", body)
	}
	if got := body.(*chunk.Checkpoint).String(); strings.Contains(got, c.Author) {
		t.Error("a checkpoint prints its authors")
	}

	word := &chunk.Cover{Document: c.Document, Checkpoint: got.Place(), OK: true}
	params := p.params(p.admin)
	params.Counter, params.Previous = 2, got.ID()
	said, err := chunk.Seal(p.admin, params, word)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := chunk.Open(p.member, said); err != nil || !reflect.DeepEqual(body, word) {
		t.Errorf("opened %v, %v", body, err)
	}
	if _, err := said.Covers(); !errors.Is(err, chunk.ErrNewer) {
		t.Errorf("a word covers: %v", err)
	}

	// Who packs another's change cannot put a signature of their own under it.
	forged := *want
	forged.Authorship = []chunk.Word{{Log: 0, Authorship: c.Authorship[0]}}
	forged.Authorship[0].Signature[3] ^= 1
	bad, err := chunk.Seal(p.admin, p.params(p.admin), &forged)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Open(p.member, bad); !errors.Is(err, chunk.ErrDamaged) {
		t.Errorf("a forged authorship opens: %v", err)
	}
	// Every byte of the clear part is sealed with the rest.
	bent := append([]byte(nil), sealed.Bytes()...)
	at := strings.Index(string(bent), string(want.Covers[0].Last[:]))
	bent[at] ^= 1
	moved, err := chunk.Parse(bent)
	if err != nil {
		t.Fatal(err)
	}
	if err := moved.Verify(p.state); !errors.Is(err, chunk.ErrBadSignature) {
		t.Errorf("a bent clear part verifies: %v", err)
	}
	if _, err := chunk.Open(p.member, moved); !errors.Is(err, trust.ErrSealBroken) {
		t.Errorf("a bent clear part opens: %v", err)
	}
}
