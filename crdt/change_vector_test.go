package crdt

import (
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The specification's vectors, judged on a document without changes, and its table of caps.
func TestSpecification(t *testing.T) {
	b, err := os.ReadFile("../docs/spec/change-validation.md")
	if err != nil {
		t.Fatal(err)
	}
	spec := string(b)
	vectors := regexp.MustCompile("(?m)^    (\\S[^\n]*): ([0-9a-f]+)$").FindAllStringSubmatch(spec, -1)
	if len(vectors) < 6 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		raw, err := hex.DecodeString(v[2])
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if c, err := Decode(raw); err != nil {
			got = err.Error()
		} else if _, err := NewIndex(DocumentID{}).Judge(c); err == nil {
			got = "accepted, " + hex.EncodeToString(c.Hash[:])
		} else if errors.As(err, new(*Refused)) {
			got = err.Error()
		} else {
			got = "dependency missing"
		}
		if got != v[1] {
			t.Errorf("%s: %s", v[1], got)
		}
	}
	for name, want := range map[string]int{
		"MaxChangeBytes": MaxChangeBytes, "MaxChangeOps": MaxChangeOps, "MaxChangeDeps": MaxChangeDeps,
		"MaxChangeActors": MaxChangeActors, "MaxChangePreds": MaxChangePreds, "MaxChangeNames": MaxChangeNames,
		"MaxMessageBytes": MaxMessageBytes,
		"MaxKeyBytes":     MaxKeyBytes, "MaxRootKeyBytes": MaxRootKeyBytes, "MaxValueBytes": MaxValueBytes,
		"MaxDepth": MaxDepth, "MaxCounter": MaxCounter, "MaxSeq": MaxSeq, "MaxAbsTimeSeconds": MaxAbsTimeSeconds,
		"MaxCounterGap": MaxCounterGap,
	} {
		row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| ([0-9 ]+) \\|").FindStringSubmatch(spec)
		if row == nil {
			t.Errorf("%s is not in the specification", name)
		} else if got, err := strconv.Atoi(strings.ReplaceAll(row[1], " ", "")); err != nil || got != want {
			t.Errorf("%s is %d, in the specification %s", name, want, row[1])
		}
	}
	words := strings.Join(strings.Fields(spec), " ")
	for _, reason := range []string{
		ReasonSize, ReasonEnvelope, ReasonChecksum, ReasonEncoding, ReasonHeader, ReasonDeps, ReasonActors, ReasonColumns,
		ReasonRows, ReasonOps, ReasonPreds, ReasonReference, ReasonKey, ReasonAction, ReasonValue, ReasonSeq, ReasonStartOp,
		ReasonObject, ReasonObjectType, ReasonElement, ReasonPredecessor, ReasonRoot, ReasonSlot, ReasonControl, ReasonDepth,
		ReasonText, ReasonUnmarked, ReasonNames,
	} {
		if !strings.Contains(words, "*"+reason+"*") {
			t.Errorf("reason %q is not in the specification", reason)
		}
	}
}
