package replica_test

import (
	"fmt"
	"testing"

	"chartmesh/internal/fuzzing"
)

// TestManyConflicts opens very many conflicts in one resource: to list them costs as much as they are, and not that much for
// each of them.
func TestManyConflicts(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	const fields = 1500
	set := func(d *device, text string) {
		d.edit("Basic/many", func(o map[string]any) {
			for i := range fields {
				o[fmt.Sprintf("field%d", i)] = text
			}
		})
	}
	a.put(`{"resourceType":"Basic","id":"many"}`, false)
	set(a, "before")
	sync(t, a, b)
	set(a, "here")
	set(b, "there")
	sync(t, a, b)
	if n := len(a.conflicts()); n != fields {
		t.Fatalf("%d conflicts", n)
	}
	fuzzing.Allocates(t, fields, 16<<10, 1<<20, func() { a.conflicts() })
}
