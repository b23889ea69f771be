// Package command is the program chartmesh-anchor: its commands, what they print, and the socket by which they speak to the anchor that
// runs. It stands apart from the program so that tests of other programs can run it.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"chartmesh/anchor"
	"chartmesh/p2p"
)

// Exit codes.
const (
	exitOther   = 1
	exitUsage   = 2
	exitRefused = 3 // a token is wrong, the practice is admitted already, or is not, or the quota is none
	exitAbsent  = 4 // no anchor runs in the folder
	exitTrouble = 5 // the folder cannot be opened: in use, damaged, or of a newer version
	exitIll     = 6 // status --check: the anchor runs and does not store, or not serve
)

// Main runs the command that the process was called with, until it is done or a signal ends it, and ends the process.
func Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := root().ExecuteContext(ctx)
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "chartmesh-anchor: error:", err)
	if hint := hintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "chartmesh-anchor: hint:", hint)
	}
	os.Exit(exitOf(err))
}

func exitOf(err error) int {
	_, usage := errors.AsType[usageError](err)
	switch {
	case usage:
		return exitUsage
	case errors.Is(err, p2p.ErrToken), errors.Is(err, anchor.ErrOtherAnchor), errors.Is(err, anchor.ErrAdmitted),
		errors.Is(err, anchor.ErrUnknown), errors.Is(err, anchor.ErrAmbiguous), errors.Is(err, anchor.ErrQuota), errors.Is(err, anchor.ErrVotes):
		return exitRefused
	case errors.Is(err, errAbsent):
		return exitAbsent
	case errors.Is(err, errOpen):
		return exitTrouble
	case errors.Is(err, errTrouble):
		return exitIll
	}
	return exitOther
}

func hintOf(err error) string {
	switch {
	case errors.Is(err, p2p.ErrToken):
		return "an administrator of the practice runs `chartmesh anchor add ADDRESS`, which prints it"
	case errors.Is(err, anchor.ErrOtherAnchor):
		return "the administrator gave another address: `chartmesh-anchor status` prints those of this one"
	case errors.Is(err, anchor.ErrUnknown):
		return "`chartmesh-anchor usage` lists the practices"
	case errors.Is(err, anchor.ErrAmbiguous):
		return "give more of the ID"
	case errors.Is(err, anchor.ErrVotes):
		return "an administrator of the practice runs `chartmesh quorum remove` with the anchor's name first; drop it all the same: --voter"
	case errors.Is(err, errAbsent):
		return "start it with `chartmesh-anchor run`, or name its folder with --data"
	}
	return ""
}
