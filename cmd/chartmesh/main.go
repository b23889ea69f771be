// Command chartmesh keeps the records of a medical practice the same on all its devices: it is the agent that runs on
// each of them, and the commands by which people and scripts speak to it.
//
// Every command speaks to the agent of the data folder, over the folder's socket; when none runs, it opens the folder
// itself for as long as it takes. What the commands need of the agent beyond its API stands in join.go, and how they
// print, in output.go.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"chartmesh/cmd/chartmesh/crash"
)

func main() {
	childMain() // the engine is this binary, run again, and so is the crash monitor
	stderr, err := crash.Stderr()
	if err == nil {
		err = crash.Harden()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chartmesh: error:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once: the first one is being obeyed, and somebody lost patience.
	context.AfterFunc(ctx, stop)
	c := &cli{in: os.Stdin, out: os.Stdout, err: stderr, env: os.Getenv, joins: agentJoins, patience: 5 * time.Second}
	c.guard = sync.OnceValue(func() error { return crash.Guard(stderr, c.crashes) })
	os.Exit(c.run(ctx, os.Args[1:]))
}
