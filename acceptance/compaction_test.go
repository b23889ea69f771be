package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"chartmesh/agent/api"
)

// TestCompaction edits one record a thousand times, and shows what is stored on each device, and sent to a new one, before
// the history is packed and after.
func TestCompaction(t *testing.T) {
	heavy(t)
	const edits = 1000
	root := t.TempDir()
	a := found(t, root, "surgery")
	b := join(t, root, "branch", a)
	ref := api.Ref{Type: "Patient", ID: "often"}
	_, err := a.put([]byte(`{"resourceType":"Patient","id":"often","active":true,"name":[{"family":"Berg","given":["Anna"]}]}`), false)
	must(t, err)
	for i := range edits {
		got, err := a.client.Get(t.Context(), ref, "")
		must(t, err)
		var o map[string]any
		must(t, json.Unmarshal(got.JSON, &o))
		o["birthDate"] = fmt.Sprintf("%d-%02d-%02d", 1920+i%90, 1+i%12, 1+i%28)
		o["telecom"] = []any{map[string]any{"system": "phone", "value": fmt.Sprintf("030 %07d", i*7919%10_000_000)}}
		body, err := json.Marshal(o)
		must(t, err)
		_, err = a.put(body, false)
		must(t, err)
	}
	b.inSync()
	a.inSync()
	export, history := a.export(), len(a.history(ref))

	join := func(name string) uint64 {
		s := join(t, root, name, a)
		sync := s.inSync().Sync
		if !bytes.Equal(s.export(), export) {
			t.Errorf("%s shows something else", name)
		}
		s.stop()
		var received uint64
		for _, p := range sync {
			received += p.BytesReceived
		}
		return received
	}
	sentBefore := join("early")
	before := a.compact() // and what it stores now is the checkpoint beside the chunks
	if before.Checkpoints != 1 || before.Deleted != 0 || before.Chunks != edits+2 || before.Waiting != 1 {
		t.Fatalf("packed: %+v", before)
	}
	early := newSite(t, root, "early")
	early.start()
	for range 3 {
		for _, s := range []*site{b, early, a} {
			s.inSync()
			s.compact()
		}
	}
	after := a.compact()
	if after.Waiting != 0 || !bytes.Equal(b.export(), export) || !bytes.Equal(a.export(), export) || len(b.history(ref)) != history {
		t.Fatalf("not settled, or other records: %+v", after)
	}
	early.stop()
	checkpoint := after.Bytes // an upper bound: with the words and the skip
	single := before.Bytes - checkpoint
	sentAfter := join("late")
	t.Logf("%d edits of %d bytes each: stored %d bytes in %d chunks, then %d in %d chunks and %d skips: %.3f", edits,
		single/(edits+1), single, before.Chunks-1, after.Bytes, after.Chunks, after.Skips, float64(after.Bytes)/float64(single))
	t.Logf("sent to a new device: %d bytes, then %d: %.3f", sentBefore, sentAfter, float64(sentAfter)/float64(sentBefore))
	if after.Bytes*10 > 3*single || sentAfter*10 > 3*sentBefore {
		t.Error("aim missed: 0.3 of what it was")
	}
}

func (s *site) compact() api.Compaction {
	s.t.Helper()
	var c api.Compaction
	must(s.t, json.Unmarshal([]byte(s.mustRun("--json", "compact")), &c))
	return c
}

func (s *site) history(ref api.Ref) []api.Revision {
	s.t.Helper()
	h, err := s.client.History(s.t.Context(), ref)
	must(s.t, err)
	return h
}
