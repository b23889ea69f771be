package session

import (
	"testing"
	"time"

	"chartmesh/trust"
)

// TestFeedOfTwoReplicas: what is synced for one practice makes nobody of another wait, also where their scopes have the same ID.
func TestFeedOfTwoReplicas(t *testing.T) {
	type nobody struct{ Replica }
	one, two := &nobody{}, &nobody{}
	var f Feed
	scope, now := trust.ScopeID{1}, time.Unix(1790000000, 0)
	a, b, c := New(Config{Replica: one, Feed: &f}), New(Config{Replica: one, Feed: &f}), New(Config{Replica: two, Feed: &f})
	if !f.take(scope, a, now) || f.take(scope, b, now) {
		t.Error("the sessions of one replica do not take turns")
	}
	if !f.take(scope, c, now) {
		t.Error("another replica waits with them")
	}
}
