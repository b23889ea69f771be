package fhir

import (
	"maps"
	"slices"
	"time"
)

// ConflictTag marks a resource with an open conflict, in meta.tag of what the agent shows.
const (
	ConflictTagSystem = "urn:chartmesh:state"
	ConflictTagCode   = "conflict"
)

// Version returns meta.versionId, or "".
func Version(o Object) string { return text(object(o, "meta"), "versionId") }

// SetMeta returns o as the agent shows it: with its own meta.versionId and meta.lastUpdated (UTC, milliseconds) in the
// place of those that came in. o itself stays as it is. A zero time leaves lastUpdated out.
func SetMeta(o Object, version string, updated time.Time) Object {
	meta := maps.Clone(object(o, "meta"))
	if meta == nil {
		meta = Object{}
	}
	meta["versionId"] = version
	delete(meta, "lastUpdated")
	if !updated.IsZero() {
		meta["lastUpdated"] = updated.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return withMeta(o, meta)
}

// SetConflictTag returns o with the tag that marks an open conflict.
func SetConflictTag(o Object) Object {
	meta := maps.Clone(object(o, "meta"))
	if meta == nil {
		meta = Object{}
	}
	if meta["tag"] == nil {
		meta["tag"] = []any{}
	}
	tags, ok := meta["tag"].([]any)
	if !ok || slices.ContainsFunc(tags, isConflictTag) {
		return o
	}
	meta["tag"] = append(slices.Clone(tags), Object{"system": ConflictTagSystem, "code": ConflictTagCode})
	return withMeta(o, meta)
}

// StripMeta returns o without what SetMeta and SetConflictTag add, and without a meta that is empty then.
func StripMeta(o Object) Object { return RestoreMeta(o, nil) }

// RestoreMeta undoes SetMeta and SetConflictTag on a resource that came back edited: meta.versionId and
// meta.lastUpdated become those that are stored (which came from elsewhere and are kept as they came), or none.
func RestoreMeta(edited, stored Object) Object {
	before := object(stored, "meta")
	if _, ok := edited["meta"].(Object); !ok && edited["meta"] != nil {
		return edited // of a shape that SetMeta never makes
	}
	meta := maps.Clone(object(edited, "meta"))
	if meta == nil {
		if before == nil {
			return edited
		}
		meta = Object{}
	}
	for _, k := range []string{"versionId", "lastUpdated"} {
		delete(meta, k)
		if v, ok := before[k]; ok {
			meta[k] = v
		}
	}
	if tags, ok := meta["tag"].([]any); ok && !slices.ContainsFunc(list(before, "tag"), isConflictTag) {
		if rest := slices.DeleteFunc(slices.Clone(tags), isConflictTag); len(rest) > 0 {
			meta["tag"] = rest
		} else if len(tags) > 0 {
			delete(meta, "tag")
			if old, ok := before["tag"].([]any); ok && len(old) == 0 {
				meta["tag"] = old
			}
		}
	}
	if was, had := stored["meta"]; len(meta) == 0 && (before == nil || len(before) > 0) {
		// Nothing but ours was in it: what stood there before, if anything, was no object or is emptied now.
		out := maps.Clone(edited)
		delete(out, "meta")
		if had && before == nil {
			out["meta"] = was
		}
		return out
	}
	return withMeta(edited, meta)
}

func isConflictTag(v any) bool {
	tag, ok := v.(Object)
	return ok && text(tag, "system") == ConflictTagSystem && text(tag, "code") == ConflictTagCode
}

func withMeta(o, meta Object) Object {
	out := maps.Clone(o)
	if out == nil {
		out = Object{}
	}
	out["meta"] = meta
	return out
}
