package agent_test

import (
	"strings"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
)

// TestClaim has an agent start while a command has the folder: it waits for the command, and no other gets in before it, nor
// while it runs.
func TestClaim(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := t.TempDir()
	_, err := agent.Init(dir, agent.InitOptions{Practice: "Praxis", Site: "Mitte", Device: "Empfang"})
	must(t, err)
	command := agent.Config{Dir: dir, Offline: true}
	first, err := agent.Open(command)
	must(t, err)
	if _, err := agent.Open(command); api.CodeOf(err) != api.CodeInUse {
		t.Fatalf("two commands at once: %v", err)
	}
	type opened struct {
		*agent.Agent
		err error
	}
	started := make(chan opened)
	go func() {
		a, err := agent.Open(agent.Config{Dir: dir, Repair: true})
		started <- opened{a, err}
	}()
	refused := func() bool {
		_, err := agent.Open(command)
		if api.CodeOf(err) != api.CodeInUse {
			t.Fatalf("a command beside an agent: %v", err)
		}
		return strings.Contains(err.Error(), "an agent is starting or ending on ")
	}
	for end := time.Now().Add(4 * time.Second); !refused(); {
		if time.Now().After(end) {
			t.Fatal("the agent does not claim the folder")
		}
	}
	must(t, first.Close())
	a := <-started
	must(t, a.err)
	if !refused() {
		t.Error("a running agent has not claimed the folder")
	}
	must(t, a.Close())
	last, err := agent.Open(command)
	must(t, err)
	must(t, last.Close())
}
