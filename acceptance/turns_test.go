package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
)

const codeList = "CodeSystem/services"

// TestTurns: two workstations change a code list in turn, over a link that breaks at random. What was committed is in the list on both, in one order; what was
// written and not committed in time is in neither, and shown on both; what was refused is nowhere.
func TestTurns(t *testing.T) {
	turns := 12
	if os.Getenv("HEAVY") != "" {
		turns = 100
	}
	random := seed(t)

	root := t.TempDir()
	a := found(t, root, "Mitte")
	b := join(t, root, "Nord", a)
	b.syncsWith(a.name)
	var committed, unclear, refused []string
	for n := range turns {
		s := []*site{a, b}[n%2]
		code := fmt.Sprintf("c%03d", n)
		if random.IntN(2) == 0 { // the link breaks somewhere in the turn, and is mended before the next one
			after := time.Duration(random.IntN(120)) * time.Millisecond
			broken := make(chan struct{})
			go func() {
				defer close(broken)
				wait(t, after)
				must(t, b.client.SetOnline(t.Context(), false))
			}()
			switch takeTurn(t, s, code) {
			case nil:
				committed = append(committed, code)
			case errUnclear:
				unclear = append(unclear, code)
			default:
				refused = append(refused, code)
			}
			<-broken
			must(t, b.client.SetOnline(t.Context(), true))
			continue
		}
		if err := takeTurn(t, s, code); err == nil {
			committed = append(committed, code)
		} else if err == errUnclear {
			unclear = append(unclear, code)
		} else {
			refused = append(refused, code)
		}
	}
	a.waitInSync(time.Minute)
	b.waitInSync(time.Minute)

	// Both show the same, once it is known of everything what became of it.
	var list, held []string
	for end := time.Now().Add(2 * time.Minute); ; wait(t, 200*time.Millisecond) {
		list, held = codes(t, a), late(t, a)
		sum := slices.Concat(list, held)
		slices.Sort(sum)
		want := slices.Sorted(slices.Values(slices.Concat(committed, unclear)))
		if slices.Equal(sum, want) && slices.Equal(list, codes(t, b)) && slices.Equal(held, late(t, b)) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Mitte lists %q and holds back %q,\nNord lists %q and holds back %q,\nanswered as committed were %q, as not committed %q",
				list, held, codes(t, b), late(t, b), committed, unclear)
		}
	}
	for _, code := range committed {
		if !slices.Contains(list, code) {
			t.Errorf("%s was answered as committed, and is not in the list", code)
		}
	}
	if len(committed) < turns/4 {
		t.Errorf("only %d of %d turns committed anything", len(committed), turns)
	}
	t.Logf("%d turns: %d committed, %d answered as not committed, %d refused; %d are listed, %d held back and shown", turns, len(committed), len(unclear), len(refused), len(list), len(held))
}

var (
	errUnclear = fmt.Errorf("written, and not committed as far as is known")
	errRefused = fmt.Errorf("nothing was written")
)

// takeTurn has a site add a code under a lease, and says what came of it.
func takeTurn(t *testing.T, s *site, code string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.client.AcquireLease(ctx, "user", api.LeaseRequest{Name: "code-lists"}); err != nil {
		return errRefused
	}
	defer func() { _ = s.client.ReleaseLease(ctx, "code-lists") }() // else it ends by itself
	list := map[string]any{"resourceType": "CodeSystem", "id": "services", "status": "active", "content": "complete"}
	ref, err := api.ParseRef(codeList)
	must(t, err)
	was, err := s.client.Get(t.Context(), ref, "")
	switch {
	case err == nil:
		must(t, json.Unmarshal(was.JSON, &list))
	case api.CodeOf(err) != api.CodeNotFound:
		must(t, err)
	}
	concepts, _ := list["concept"].([]any)
	list["concept"] = append(concepts, map[string]any{"code": code})
	body, err := json.Marshal(list)
	must(t, err)
	_, err = s.client.Put(ctx, "user", body, false)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "it is written on this device"):
		return errUnclear
	}
	return errRefused
}

// codes lists the codes of the list that a site shows.
func codes(t *testing.T, s *site) (list []string) {
	t.Helper()
	ref, err := api.ParseRef(codeList)
	must(t, err)
	got, err := s.client.Get(t.Context(), ref, "")
	must(t, err)
	var cs struct{ Concept []struct{ Code string } }
	must(t, json.Unmarshal(got.JSON, &cs))
	for _, c := range cs.Concept {
		list = append(list, c.Code)
	}
	return list
}

var quotedCode = regexp.MustCompile(`"(c[0-9]{3})\\?"`)

// late lists the codes of what a site holds back.
func late(t *testing.T, s *site) []string {
	t.Helper()
	list := []string{}
	for _, h := range s.held() {
		detail, err := s.client.HeldChunk(t.Context(), h.Chunk)
		must(t, err)
		text, err := json.Marshal(detail)
		must(t, err)
		for _, m := range quotedCode.FindAllSubmatch(text, -1) {
			list = append(list, string(m[1]))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
