package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/trust"
)

// hidden is a value that says nothing of what it holds.
type hidden struct{ Name string }

func (hidden) String() string { return "something" }

// TestFormatsSayTheSame: what a line of the log holds does not depend on its form. An ID is short in both, so that it can be
// looked for, and nothing that hides in one is printed by the other.
func TestFormatsSayTheSame(t *testing.T) {
	const canary = "Zwetschgenknödel"
	values := []any{
		trust.DeviceID{1, 2, 3, 255}, trust.ScopeID{4}, trust.EntryID{5}, trust.EpochID{6}, chunk.ID{7}, chunk.LogID{8}, chunk.Tag{9},
		chunk.Actor{10}, crdt.DocumentID{11}, crdt.ChangeHash{12}, trust.RoleAdmin, chunk.KindCover,
		hidden{canary}, &hidden{canary}, struct{ Of hidden }{hidden{canary}},
		&chunk.Changes{Author: canary}, &chunk.Opaque{Content: []byte(canary)}, errors.New("why"),
	}
	for _, v := range values {
		var text, js bytes.Buffer
		slog.New(logHandler("text", &text, slog.LevelInfo)).Info("message", "value", v)
		slog.New(logHandler("json", &js, slog.LevelInfo)).Info("message", "value", v)
		var record struct {
			Time              time.Time
			Level, Msg, Value string
		}
		if err := json.Unmarshal(js.Bytes(), &record); err != nil {
			t.Errorf("%T is no text: %v in %s", v, err, &js)
			continue
		}
		if record.Time.IsZero() || record.Level != "INFO" || record.Msg != "message" {
			t.Errorf("%s", &js)
		}
		said := record.Value
		if strings.ContainsAny(said, " =\"") {
			said = fmt.Sprintf("%q", said)
		}
		if !strings.Contains(text.String(), "value="+said+"\n") {
			t.Errorf("%T: text says %s and JSON %s", v, &text, &js)
		}
		if both := text.String() + js.String(); strings.Contains(both, canary) || strings.Contains(both, "Zwet") {
			t.Errorf("%T is printed: %s", v, both)
		}
	}
}
