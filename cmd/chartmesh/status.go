package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) statusCommand() *cobra.Command {
	var wait, peer string
	var watch bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show whether this device is in sync, and with whom",
		Long: `Shows the state of this device: online (everything is where it should be), syncing, or offline, with the reason and
with what is not on any other device yet.

--wait in-sync waits until at least one device was reached, this one holds the same as every connected one, and all of it
is applied. --wait running waits until an agent answers. Both end with exit code 6 when --timeout is over.

--watch goes on until it is interrupted, also over a restart of the agent: on a terminal it is drawn anew, elsewhere printed
again when something has changed, with --json as one object a line.`,
		Example: `  chartmesh status
  chartmesh status --wait in-sync --timeout 60s --peer Labor
  chartmesh status --watch
  chartmesh status --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			if wait != "" && wait != "in-sync" && wait != "running" {
				return usage("--wait is in-sync or running")
			}
			if timeout <= 0 {
				return usage("--timeout is a time, for example 60s")
			}
			if watch && wait != "" {
				return usage("--watch and --wait exclude each other")
			}
			if watch {
				return c.watch(ctx, peer)
			}
			var status api.Status
			var waited error
			if wait != "" {
				status, waited = c.wait(ctx, wait, peer, timeout)
				if waited != nil && (api.CodeOf(waited) != api.CodeTimeout || ctx.Err() != nil) {
					return waited
				}
			}
			if wait == "" || waited != nil { // after a timeout, what there is instead says why
				var err error
				if status, err = c.status(ctx, peer); err != nil {
					return errors.Join(waited, err)
				}
			}
			p := c.printer()
			if c.json {
				p.json(status)
			} else {
				p.status(status, time.Now())
			}
			return errors.Join(waited, p.failed)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&wait, "wait", "", "wait for in-sync or running")
	flags.BoolVarP(&watch, "watch", "w", false, "go on showing it, until interrupted")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	flags.StringVar(&peer, "peer", "", "only with the device of this `NAME`")
	return cmd
}

func (c *cli) status(ctx context.Context, peer string) (status api.Status, err error) {
	err = c.with(ctx, func(agent api.Agent, running bool) error {
		status, err = agent.Status(ctx, peer)
		status.Running = running
		return err
	})
	return status, err
}

// wait waits for a running agent and then, if asked to, for that agent to be in sync.
func (c *cli) wait(ctx context.Context, what, peer string, timeout time.Duration) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	agent, err := c.dialed(ctx)
	if err != nil {
		return api.Status{}, err
	}
	defer func() { _ = agent.Close() }() // only idle connections
	if what == "running" {
		return agent.Status(ctx, peer)
	}
	return agent.WaitInSync(ctx, peer)
}

// dialed waits until an agent answers on the folder.
func (c *cli) dialed(ctx context.Context) (*client.Client, error) {
	dir, err := c.folder()
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for said := false; ; {
		agent, err := client.Dial(dir)
		if err == nil || api.CodeOf(err) != api.CodeUnavailable {
			return agent, err
		}
		if !said {
			said = true
			c.printer().remark("waiting for an agent on %s", visible(dir))
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, err // no agent, rather than no time
			}
			return nil, ctx.Err()
		case <-retry.C:
		}
	}
}

// status prints a status for a person.
func (p *printer) status(s api.Status, now time.Time) {
	p.line("%s", visible(headline(s)))
	p.line("%s", visible(fmt.Sprintf("%s: %s at %s", s.Practice, s.Device, s.Site)))
	p.line("")
	p.line("records     %s in %s", plural(s.Resources, "resource"), plural(s.Documents, "document"))
	p.line("conflicts   %s", toDecide(s.Conflicts))
	p.line("elsewhere   %s", elsewhere(s))
	if s.Parked+s.Quarantined+s.Unapplied > 0 {
		p.line("held back   %s parked, %s quarantined, %s unapplied", count(s.Parked), count(s.Quarantined), count(s.Unapplied))
		for _, h := range s.Held {
			p.line("            %s", visible(fmt.Sprintf("%s %s from %s: %s", shorten(h.Chunk, 17), h.State, h.Device, h.Reason)))
		}
		p.line("            look at one: chartmesh quarantine show CHUNK")
	}
	if s.NewLog != nil {
		p.line("log         %s", visible(fmt.Sprintf("begun anew %s: %s", ago(&s.NewLog.Began, now), s.NewLog.Reason)))
	}
	if s.Branches > 0 {
		p.line("histories   %s of this device's logs; all of it is kept", histories(s.Branches))
	}
	p.store(s.Store)
	p.line("peer ID     %s", visible(s.PeerID))
	for i, a := range s.Addresses {
		label := ""
		if i == 0 {
			label = "addresses"
		}
		p.line("%-11s %s", label, visible(a))
	}
	p.line("version     %s", visible(s.Version))
	if len(s.Peers) == 0 {
		return
	}
	p.line("")
	p.peers(s.Peers, now)
}

// histories says how many histories logs have beside their first.
func histories(n int) string {
	if n == 1 {
		return "1 more history"
	}
	return count(n) + " more histories"
}

// store prints what is out of the ordinary on the disk.
func (p *printer) store(s api.Store) {
	if s.State == api.StoreReadOnly {
		p.line("disk        nearly full: %s free, nothing is written below %s; make room, and writing goes on by itself",
			size(s.FreeBytes), size(s.LeastBytes))
	}
	if r := s.Repair; r != nil {
		switch {
		case r.Done == nil:
			p.line("damage      found %s: %s", when(r.Since), visible(r.Reason))
			p.line("            %s of %s held again, %s read from the damaged store", count(r.Have), plural(r.Of, "chunk"), count(r.Salvaged))
			if r.Unsure > 0 {
				p.line("            %s of this device could not be read, and no other device was known to have them", plural(r.Unsure, "chunk"))
			}
		case r.LostOwn+r.LostOthers > 0:
			p.line("damage      found %s and repaired, except %s of this device and %s of others that no device had that was reached",
				when(r.Since), plural(r.LostOwn, "chunk"), count(r.LostOthers))
		default:
			p.line("damage      found %s and repaired whole", when(r.Since))
		}
		if r.Kept > 0 {
			p.line("            %s after those that are missing: kept, and passed on when they have come", plural(r.Kept, "chunk"))
		}
	}
	for i, a := range s.SetAside {
		label := ""
		if i == 0 {
			label = "set aside"
		}
		p.line("%-11s %s, %s: damaged; remove it when all is repaired", label, visible(a.Path), size(a.Bytes))
	}
}

// headline is the one sentence that says how things are.
func headline(s api.Status) string {
	state := s.State
	if s.InSync {
		state += ", in sync"
	}
	if !s.Running {
		state = "offline: no agent runs here"
	} else if s.Reason != "" {
		state += ": " + s.Reason
	}
	if s.NotElsewhere > 0 {
		state += "; " + hereAlone(s)
	}
	return state
}

func toDecide(n int) string {
	if n == 0 {
		return "none"
	}
	return count(n) + " to decide: chartmesh conflict list"
}

// hereAlone says how much would be gone if this device were lost.
func hereAlone(s api.Status) string {
	here := plural(s.NotElsewhere, "change")
	if s.NotElsewhere < s.OwnChanges {
		here += " of " + count(s.OwnChanges)
	}
	if s.NotElsewhere == 1 {
		return here + " is on this device alone"
	}
	return here + " are on this device alone"
}

// elsewhere says what would be left if this device were lost. An agent of before [api.Status.Elsewhere] leaves that empty.
func elsewhere(s api.Status) string {
	here, anchor := hereAlone(s), ""
	if s.AtAnchorOnly > 0 {
		anchor = "; of the others " + count(s.AtAnchorOnly) + " at an anchor alone"
	}
	switch s.Elsewhere {
	case api.ElsewhereAlone:
		if s.OwnChanges == 0 {
			return "nothing: the practice has no other device"
		}
		return "nothing: the practice has no other device; " + here
	case api.ElsewhereUnwritten:
		return "this device has written nothing"
	case api.ElsewhereNone:
		return "nothing: no other device has confirmed any; " + here
	case api.ElsewhereAll:
		if s.AtAnchorOnly > 0 {
			return "every change of this device is stored elsewhere, " + count(s.AtAnchorOnly) + " at an anchor alone"
		}
		return "every change of this device is stored on another one"
	}
	return here + anchor
}

// peers prints the devices: first how things stand with each, then by which way, and what it has confirmed. What needs words
// stands below.
func (p *printer) peers(peers []api.Peer, now time.Time) {
	var rows, ways [][]string
	for _, peer := range peers {
		name := shorten(peer.Name, longestName)
		lacks := chunks(peer.LacksChunks, peer.LacksBytes)
		if peer.LacksChunks > 0 && peer.Proof.StoredAsOf == nil {
			lacks = "not known" // it may have all, and has told this device of nothing
		}
		rows = append(rows, []string{name, shorten(peer.Site, longestName), peer.Role, peer.State, ago(peer.LastContact, now),
			lacks, chunks(peer.BehindChunks, peer.BehindBytes)})
		rtt, clock := "", ""
		if peer.RTTMillis > 0 {
			rtt, clock = span(time.Duration(peer.RTTMillis*float64(time.Millisecond))), fmt.Sprintf("%+.0f ms", peer.ClockMillis)
			if peer.ClockWarning {
				clock = fmt.Sprintf("%+.1f s", peer.ClockMillis/1000)
			}
		}
		stored, readable, asOf := count(peer.Proof.Stored)+" of "+count(peer.Proof.Chunks), count(peer.Proof.Readable), "never"
		if peer.Role == "anchor" {
			readable = "sealed" // it opens nothing
		}
		if peer.Proof.StoredAsOf != nil {
			asOf = ago(peer.Proof.StoredAsOf, now)
		}
		ways = append(ways, []string{name, peer.Way, rtt, clock, shorten(peer.Version, 18), stored, readable, asOf})
	}
	p.table(strings.Split("DEVICE,SITE,ROLE,STATE,LAST CONTACT,IT LACKS,WE LACK", ","), rows)
	p.line("")
	p.table(strings.Split("DEVICE,WAY,ROUND TRIP,CLOCK,VERSION,STORED THERE,READABLE,CONFIRMED", ","), ways)
	first := true
	for _, peer := range peers {
		for _, note := range notes(peer) {
			if first {
				p.line("")
				first = false
			}
			p.line("%s", visible(peer.Name+": "+note))
		}
	}
}

// longestName is how much of a name a table has room for.
const longestName = 20

func chunks(n, bytes uint64) string {
	if n == 0 {
		return "nothing"
	}
	return plural(n, "chunk") + ", " + size(bytes)
}

// notes says what is out of the ordinary with a device.
func notes(peer api.Peer) (list []string) {
	if peer.Reason != "" {
		list = append(list, peer.Reason)
	}
	switch peer.TakesNothing {
	case api.TakesNothingFull:
		list = append(list, "it takes nothing, since its disk is full")
	case api.TakesNothingQuota:
		list = append(list, "it takes nothing more, since the practice's share of it is used up")
	}
	if peer.ClockWarning {
		than := "ahead of"
		if peer.ClockMillis < 0 {
			than = "behind"
		}
		list = append(list, fmt.Sprintf("its clock is %s %s this one; set the wrong one right",
			span(time.Duration(max(peer.ClockMillis, -peer.ClockMillis)*float64(time.Millisecond))), than))
	}
	if l := peer.Proof.Lost; l != nil && l.Again == nil {
		had := "before"
		if l.Confirmed != nil {
			had = "on " + when(*l.Confirmed)
		}
		list = append(list, "it holds less than it had confirmed "+had+": it was put back, or lost data; it is being filled again")
	}
	if peer.Branches > 0 {
		list = append(list, "it wrote a log more than once: it was copied, or went back. All of it is kept ("+histories(peer.Branches)+")")
	}
	return list
}
