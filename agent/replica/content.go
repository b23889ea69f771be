package replica

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
)

// Caps of what is shown of a held chunk, which may say anything within the format's own.
const (
	contentChanges = 32
	contentValues  = 200
	contentRunes   = 200
)

// contentOf says what can be read of a held chunk's body; nil if this version cannot read its kind. The engine has no part
// in it, since the chunk may be what it fails on.
func contentOf(body chunk.Body) *api.HeldContent {
	switch body := body.(type) {
	case *chunk.Decision:
		return &api.HeldContent{Author: body.User, Origin: body.Verdict.String(), Decides: heldName(body.Chunk)}
	case *chunk.Keys:
		return &api.HeldContent{Origin: body.Kind().String()}
	case *chunk.Changes:
		return changesOf(&api.HeldContent{Author: body.Author, Origin: originName(body.Origin)}, body.Changes)
	case *chunk.Checkpoint: // of several authors, whose chunks may be gone
		var all []chunk.Change
		for _, p := range body.Parts {
			all = append(all, p.Changes...)
		}
		return changesOf(&api.HeldContent{Origin: body.Kind().String()}, all)
	}
	return nil
}

// changesOf shows the first of some changes.
func changesOf(out *api.HeldContent, changes []chunk.Change) *api.HeldContent {
	left := contentValues
	for i, ch := range changes {
		if i == contentChanges {
			out.Cut = true
			break
		}
		shown := api.HeldChange{Bytes: len(ch.Raw)}
		if c, err := crdt.Decode(ch.Raw); err != nil {
			shown.Malformed = reason(err)
		} else {
			shown.Hash, shown.Operations = c.Hash.String(), len(c.Ops)
			shown.Values = valuesOf(c, left)
			left -= len(shown.Values)
			out.Cut = out.Cut || left == 0
		}
		out.Changes = append(out.Changes, shown)
	}
	return out
}

// valuesOf lists what a change writes, at most so many values, each under the path of its container. Of a container that
// an earlier change made, this change does not say where it is.
func valuesOf(c *crdt.Change, most int) (values []api.HeldValue) {
	paths := map[crdt.OpID]string{{}: ""}
	for i, op := range c.Ops {
		if len(values) == most {
			break
		}
		in, known := paths[op.Obj]
		if !known {
			in = "…"
		}
		path := joinPath(in, op)
		if op.Action == crdt.ActionMake {
			paths[c.ID(i)] = path
			continue
		}
		v := api.HeldValue{Path: path}
		switch {
		case op.Action == crdt.ActionDelete:
			v.Removed = true
		case strings.HasPrefix(op.Key, "~") && !strings.HasPrefix(op.Key, "~~"):
			if op.Value.Kind != crdt.Int || op.Value.Int != 0 {
				continue // says that what is around it was edited
			}
			v.Path, v.Removed = in, true
		default:
			v.Value = scalarJSON(op.Value)
		}
		v.Path = cut(v.Path)
		values = append(values, v)
	}
	return values
}

// joinPath writes a place as people know it: without the marks of the document's layout.
func joinPath(in string, op crdt.Op) string {
	if op.Key == "" {
		return cut(in) + "[]"
	}
	key := strings.TrimLeft(strings.TrimPrefix(op.Key, "~~"), `{["`)
	if in == "" {
		return key
	}
	return cut(in) + "." + key
}

func scalarJSON(s crdt.Scalar) json.RawMessage {
	var v any
	switch s.Kind {
	case crdt.Int:
		v = s.Int
	case crdt.Bool:
		v = s.Int != 0
	case crdt.String:
		v = cut(s.Str)
	case crdt.Bytes:
		v = cut(strings.ToValidUTF8(s.Str, "\ufffd"))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil // no such value: numbers, truth values and valid text all marshal
	}
	return b
}

// cut shortens text to what a line of a list has room for.
func cut(s string) string {
	if len(s) <= contentRunes || utf8.RuneCountInString(s) <= contentRunes {
		return s
	}
	return string([]rune(s)[:contentRunes]) + "…"
}
