package trust_test

import (
	"slices"
	"testing"

	"chartmesh/trust"
)

// TestReseedings: each says which it followed, also one that does not stand any more.
func TestReseedings(t *testing.T) {
	l := draw(t, `
		0 -> 1   ada adds ben admin
		1 -> 2   ada adds cem admin
		2 -> 3   ada reseeds ada
		3 -> 4   ben reseeds ben ada
		3 -> 5   cem reseeds cem
		3 -> 6   ada removes cem
		4,5 -> 7 ben reseeds ada`)
	names := map[trust.EntryID]string{}
	for name, e := range l.entries {
		names[e.ID()] = name
	}
	got := map[string]trust.Reseeding{}
	var order []string
	for _, r := range l.before(l.names).Reseedings() {
		order, got[names[r.Entry]] = append(order, names[r.Entry]), r
	}
	if len(order) != 4 || order[0] != "3" || order[3] != "7" {
		t.Fatalf("listed are %v", order)
	}
	for name, want := range map[string]struct {
		after  []string
		author signer
		stands bool
	}{
		"3": {nil, ada, true}, "4": {[]string{"3"}, ben, true}, "5": {[]string{"3"}, cem, false}, "7": {[]string{"3", "4", "5"}, ben, true},
	} {
		r := got[name]
		var after []string
		for _, id := range r.After {
			after = append(after, names[id])
		}
		slices.Sort(after)
		if !slices.Equal(after, want.after) || r.Author != want.author.Device() || r.Stands != want.stands {
			t.Errorf("%s follows %v, by %v, stands: %v", name, after, r.Author, r.Stands)
		}
	}
	if got["4"].Voters[0] != devices([]string{"ada", "ben"})[0] || len(got["4"].Voters) != 2 {
		t.Errorf("its voters are %v", got["4"].Voters)
	}
}
