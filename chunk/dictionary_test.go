package chunk

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A dictionary must be the same everywhere for ever.
func TestDictionary1(t *testing.T) {
	const want = "ac7a422808673d013adc3dd4511a06ef51d9316d20927f50c0f03da8888cf26d"
	sum := sha256.Sum256(dictionary1)
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("dictionary 1 has hash %s, want %s", got, want)
	}
}

// TestTrain makes a dictionary: TRAIN_SAMPLES names a folder with a folder for each patient, which holds raw Automerge
// changes, a file each; TRAIN_OUT names the file to be written.
func TestTrain(t *testing.T) {
	samples, out := os.Getenv("TRAIN_SAMPLES"), os.Getenv("TRAIN_OUT")
	if samples == "" || out == "" {
		t.Skip("TRAIN_SAMPLES and TRAIN_OUT are not set")
	}
	folders, err := filepath.Glob(filepath.Join(samples, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var groups [][][]byte
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		var group [][]byte
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			group = append(group, b)
		}
		groups = append(groups, group)
	}
	dict := train(groups, 5, 64<<10)
	if err := os.WriteFile(out, dict, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d patients, %d bytes, SHA-256 %x", len(groups), len(dict), sha256.Sum256(dict))
}

// train collects strings of which every eight bytes occur in at least least groups, so that names and numbers of single
// patients stay out, and puts the ones that save most last, where references to them are shortest.
func train(groups [][][]byte, least, size int) []byte {
	const window = 8
	type shingle [window]byte
	seen := map[shingle]int{}
	last := map[shingle]int{}
	for g, group := range groups {
		for _, change := range group {
			for i := 0; i+window <= len(change); i++ {
				k := shingle(change[i : i+window])
				if l, ok := last[k]; !ok || l != g {
					last[k] = g
					seen[k]++
				}
			}
		}
	}
	runs := map[string]int{} // runs of common shingles, with their number
	for _, group := range groups {
		for _, change := range group {
			start := -1
			for i := 0; i <= len(change); i++ {
				common := i+window <= len(change) && seen[shingle(change[i:i+window])] >= least
				if common && start < 0 {
					start = i
				} else if !common && start >= 0 {
					runs[string(change[start:i-1+window])]++
					start = -1
				}
			}
		}
	}
	type candidate struct {
		text   string
		weight int
	}
	var list []candidate
	for text, n := range runs {
		if len(text) >= 12 && n > 1 {
			list = append(list, candidate{text, n * len(text)})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(-cmp.Compare(a.weight, b.weight), cmp.Compare(a.text, b.text))
	})
	have := map[shingle]bool{}
	var parts []string
	for _, c := range list {
		fresh := 0
		for i := 0; i+window <= len(c.text); i++ {
			if !have[shingle([]byte(c.text[i:i+window]))] {
				fresh++
			}
		}
		if 4*fresh < len(c.text) || len(c.text) > size {
			continue // mostly there already, or no room
		}
		for i := 0; i+window <= len(c.text); i++ {
			have[shingle([]byte(c.text[i:i+window]))] = true
		}
		parts = append(parts, c.text)
		size -= len(c.text)
	}
	slices.Reverse(parts)
	var out bytes.Buffer
	for _, p := range parts {
		out.WriteString(p)
	}
	return out.Bytes()
}

func TestTrainLeavesSinglePatientsOut(t *testing.T) {
	var groups [][][]byte
	for i := range 6 {
		own := "Familienname-" + hex.EncodeToString([]byte{byte(i), byte(17 * i), 3, 4, 5})
		groups = append(groups, [][]byte{[]byte("http://loinc.org Observation final " + own), []byte(own + own)})
	}
	got := string(train(groups, 5, 1000))
	if !bytes.Contains([]byte(got), []byte("http://loinc.org Observation final")) {
		t.Error("what all have in common is missing")
	}
	if bytes.Contains([]byte(got), []byte("0111030405")) || bytes.Contains([]byte(got), []byte("name-0222")) {
		t.Errorf("what one patient has is in the dictionary: %q", got)
	}
}
