package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/api"
)

// TestLargeHistory: a history of large versions names all of them, and holds no more of them than fits the memory; the older
// ones are read one by one.
func TestLargeHistory(t *testing.T) {
	a := practice(t, "surgery")[0]
	const parts, part = 3, 1_000_000 // each with as many bytes as one value may have, about
	const edits = 1 + parts + api.MaxHistory/(parts*part) + 3
	a.put(`{"resourceType":"DocumentReference","id":"big","status":"current","content":[{"id":"e0","attachment":{"title":"0"}},`+
		`{"id":"e1","attachment":{"title":"1"}},{"id":"e2","attachment":{"title":"2"}}]}`, false)
	for i := range edits - 1 {
		a.edit("DocumentReference/big", func(o map[string]any) {
			if o["date"] = fmt.Sprint(2000 + i); i < parts {
				o["content"].([]any)[i].(map[string]any)["attachment"].(map[string]any)["data"] = strings.Repeat("A", part)
			}
		})
	}
	h := history(t, a, "DocumentReference/big")
	held, omitted := 0, 0
	for i, rev := range h {
		held += len(rev.JSON)
		if rev.Omitted != (rev.JSON == nil) || rev.Deleted || rev.Version == "" {
			t.Errorf("revision %d: %d bytes, omitted %v", i, len(rev.JSON), rev.Omitted)
		}
		if rev.Omitted {
			omitted++
			if i != omitted-1 {
				t.Errorf("revision %d is left out, and an older one is not", i)
			}
		}
	}
	if len(h) != edits || held > api.MaxHistory || held < api.MaxHistory-api.MaxResource || omitted < parts+2 {
		t.Errorf("%d revisions of %d, %d bytes held and %d left out", len(h), edits, held, omitted)
	}
	read, err := a.Get(t.Context(), parseRef(t, "DocumentReference/big"), h[parts+1].Version)
	must(t, err)
	if len(read.JSON) < parts*part {
		t.Errorf("what is left out has %d bytes when it is read alone", len(read.JSON))
	}
}
