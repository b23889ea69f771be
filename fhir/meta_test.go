package fhir

import (
	"testing"
	"time"
)

func TestMetaComesBack(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.FixedZone("", 3600))
	for _, in := range []string{
		`{"resourceType":"Patient"}`,
		`{"resourceType":"Patient","meta":{}}`,
		`{"resourceType":"Patient","meta":{"versionId":"7"}}`,
		`{"resourceType":"Patient","meta":{"versionId":"7","lastUpdated":"2001-01-01T00:00:00Z","profile":["urn:p"]}}`,
		`{"resourceType":"Patient","meta":{"_lastUpdated":{"id":"a"},"versionId":null}}`,
		`{"resourceType":"Patient","meta":{"tag":[{"code":"a"}]}}`,
		`{"resourceType":"Patient","meta":{"tag":[]}}`,
		`{"resourceType":"Patient","meta":{"tag":"odd"}}`,
		`{"resourceType":"Patient","meta":{"tag":[{"system":"urn:chartmesh:state","code":"conflict"},{"code":"a"}]}}`,
		`{"resourceType":"Patient","meta":"odd"}`,
		`{"resourceType":"Patient","meta":[]}`,
		`{"resourceType":"Patient","meta":null}`,
	} {
		stored := parse(t, in)
		shown := SetMeta(stored, "abc", now)
		if Version(shown) != "abc" || text(object(shown, "meta"), "lastUpdated") != "2026-11-22T09:00:00.123Z" {
			t.Errorf("%s is shown as %s", in, Canonical(shown))
		}
		if back := RestoreMeta(shown, stored); !Equal(back, stored) {
			t.Errorf("%s comes back as %s", in, Canonical(back))
		}
		if back := RestoreMeta(SetConflictTag(shown), stored); !Equal(back, stored) {
			t.Errorf("%s comes back as %s with the tag", in, Canonical(back))
		}
		if !Equal(stored, parse(t, in)) {
			t.Errorf("%s was changed to %s", in, Canonical(stored))
		}
	}
}

func TestRestoreMetaKeepsEdits(t *testing.T) {
	stored := parse(t, `{"resourceType":"Patient","meta":{"versionId":"7","tag":[{"code":"a"}]}}`)
	for edited, want := range map[string]string{
		`{"a":1,"meta":{"versionId":"abc","lastUpdated":"x","tag":[{"code":"a"},{"code":"b"}]}}`: `{"a":1,"meta":{"tag":[{"code":"a"},{"code":"b"}],"versionId":"7"}}`,
		`{"meta":{"versionId":"abc","lastUpdated":"x"}}`:                                         `{"meta":{"versionId":"7"}}`,
		`{"a":2}`:            `{"a":2,"meta":{"versionId":"7"}}`,
		`{"meta":"changed"}`: `{"meta":"changed"}`,
	} {
		if got := RestoreMeta(parse(t, edited), stored); !Equal(got, parse(t, want)) {
			t.Errorf("RestoreMeta(%s) = %s, want %s", edited, Canonical(got), want)
		}
	}
}

func TestStripMeta(t *testing.T) {
	for in, want := range map[string]string{
		`{"meta":{"versionId":"a","lastUpdated":"b"}}`: `{}`,
		`{"meta":{"versionId":"a","source":"b"}}`:      `{"meta":{"source":"b"}}`,
		`{"x":1}`: `{"x":1}`,
		`{"meta":{"tag":[{"system":"urn:chartmesh:state","code":"conflict"}]}}`: `{}`,
	} {
		if got := StripMeta(parse(t, in)); !Equal(got, parse(t, want)) {
			t.Errorf("StripMeta(%s) = %s, want %s", in, Canonical(got), want)
		}
	}
}

func TestSetMetaWithoutTime(t *testing.T) {
	got := SetMeta(parse(t, `{"meta":{"lastUpdated":"x"}}`), "v", time.Time{})
	if want := parse(t, `{"meta":{"versionId":"v"}}`); !Equal(got, want) {
		t.Errorf("SetMeta = %s", Canonical(got))
	}
}
