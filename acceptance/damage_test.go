package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	"chartmesh/agent/api"
)

// TestDamage harms every kind of file of a real agent's store in every way, of one that was killed and of one that was
// closed. The agent starts, says what it found, and ends in full repair from the other device.
func TestDamage(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	b := join(t, root, "branch", a)
	a.patients(1, 20)
	for i := range 30 {
		_, err := b.put(fmt.Appendf(nil, `{"resourceType":"Basic","id":"own%d","code":{"text":"x"}}`, i), false)
		must(t, err)
	}
	a.inSync()
	b.inSync()
	want := a.export()
	outcomes := map[string]int{}
	for _, killed := range []bool{true, false} {
		if b.cmd == nil {
			b.start()
			b.repaired()
		}
		state := "closed"
		if killed {
			state = "killed"
			_, err := b.put([]byte(`{"resourceType":"Basic","id":"last","code":{"text":"x"}}`), true)
			must(t, err)
			b.inSync()
			a.inSync()
			want = a.export()
			b.kill()
		} else {
			b.stop()
		}
		pristine := filepath.Join(root, "pristine-"+state)
		must(t, os.CopyFS(pristine, os.DirFS(filepath.Join(b.dir, "records"))))
		for _, file := range []string{"*.sst", "*.mem", "MANIFEST", "KEYREGISTRY", "*.vlog", "DISCARD"} {
			for _, harm := range []string{"flip", "cut", "delete", "empty"} {
				must(t, os.RemoveAll(filepath.Join(b.dir, "records")))
				must(t, os.CopyFS(filepath.Join(b.dir, "records"), os.DirFS(pristine)))
				name := largest(t, filepath.Join(b.dir, "records", "store", file))
				if name == "" {
					continue
				}
				inflict(t, name, harm)
				what := fmt.Sprintf("%s: %s of %s", state, harm, file)
				b.start() // and not: ends, again and again
				st := b.repaired()
				outcome := "no matter"
				if r := st.Store.Repair; r != nil && len(st.Store.SetAside) > 0 {
					outcome = "repaired"
					if r.LostOwn+r.LostOthers > 0 || r.Reason == "" {
						t.Errorf("%s: %+v", what, *r)
					}
				}
				outcomes[outcome]++
				if !bytes.Equal(b.export(), want) || !bytes.Equal(a.export(), want) {
					t.Errorf("%s: the exports differ", what)
				}
				b.verify()
				t.Logf("%-32s %s", what, outcome)
				b.stop()
				for _, dir := range st.Store.SetAside {
					must(t, os.RemoveAll(dir.Path))
				}
			}
		}
	}
	if outcomes["repaired"] < 12 {
		t.Errorf("the harms gave %v: the test shows little", outcomes)
	}
	t.Logf("%v", outcomes)
}

// largest returns the file of a pattern with the most content; empty if there is none.
func largest(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	must(t, err)
	sort.Slice(names, func(i, j int) bool { return content(t, names[i]) > content(t, names[j]) })
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// content is how much of a file comes before its zeros.
func content(t *testing.T, name string) int {
	b, err := os.ReadFile(name)
	must(t, err)
	return len(bytes.TrimRight(b, "\x00"))
}

func inflict(t *testing.T, name, harm string) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	n := max(content(t, name), 1)
	switch harm {
	case "flip":
		b[n*4/10] ^= 0x08
		err = os.WriteFile(name, b, 0o600)
	case "cut":
		err = os.Truncate(name, int64(n*6/10))
	case "delete":
		err = os.Remove(name)
	case "empty":
		err = os.Truncate(name, 0)
	}
	must(t, err)
}

// TestDamageAlone harms the store of a device that has what no other device has: it says in numbers what is gone.
func TestDamageAlone(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	b := join(t, root, "branch", a)
	b.inSync()
	must(t, b.client.SetOnline(t.Context(), false))
	ids := b.patients(2, 5)
	b.stop() // so that what it had is known to the last
	must(t, os.RemoveAll(filepath.Join(b.dir, "records", "store")))
	b.start()
	st := b.repaired()
	r := st.Store.Repair
	if r == nil || r.Unsure == 0 || r.LostOwn != r.Unsure || len(st.Store.SetAside) != 1 {
		t.Fatalf("after the loss of %d patients that no other device had: %+v", len(ids), st.Store)
	}
	// And a lost folder, as far as it goes: the practice, its members and where they are.
	b.stop()
	must(t, os.RemoveAll(st.Store.SetAside[0].Path))
	must(t, os.RemoveAll(filepath.Join(b.dir, "records")))
	b.start()
	b.repaired()
	if _, err := b.put([]byte(`{"resourceType":"Basic","id":"after","code":{"text":"x"}}`), false); err != nil {
		t.Fatal(err)
	}
	b.inSync()
	a.inSync()
	if !bytes.Equal(a.export(), b.export()) {
		t.Error("the exports differ")
	}
	events := []string{}
	must(t, b.client.Events(t.Context(), 0, false, func(e api.Event) error {
		events = append(events, e.Kind)
		return nil
	}))
	if !slices.Contains(events, "records-damaged") {
		t.Errorf("no event tells of the damage: %v", events)
	}
}
