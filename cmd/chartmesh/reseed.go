package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) quorumReseedCommand() *cobra.Command {
	var req api.ReseedRequest
	var yes, plan bool
	cmd := &cobra.Command{
		Use:   "reseed [NAME | NAME NAME NAME]",
		Short: "found the quorum anew, where its voters do not come back",
		Long: `Founds the quorum anew, with the devices that are named, or with this one alone. That is for when it cannot go on: two of three voters are lost, or
the folder of the only one was moved, copied or put back. While it goes on, "quorum add" and "quorum remove" change who votes.

It begins with what the log of that voter says which reaches farthest, whether that voter runs or not, and with the parts of ranges that
devices say they have. So all devices that write must be reached; one that never comes back is named with --gone. First it says what will
happen, and asks. Numbers go on in a new series; leases end; what is committed stands. Cut short, give it again. Only an administrator's device
may.`,
		Example: `  chartmesh quorum reseed --plan
  chartmesh quorum reseed
  chartmesh quorum reseed --gone Server-Nord --gone Server-Sued
  chartmesh quorum reseed Empfang Server-Nord Server-Sued --yes --json`,
		Args: cobra.MaximumNArgs(3),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				req.Voters = args
				return c.reseed(ctx, agent, req, plan, yes)
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&req.Gone, "gone", nil, "a device that never comes back: it is not waited for; may be given again")
	flags.BoolVar(&plan, "plan", false, "say what would happen, and do nothing")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) reseed(ctx context.Context, agent *client.Client, req api.ReseedRequest, plan, yes bool) error {
	p := c.printer()
	if plan || !yes {
		p.remark("Asking all devices what they have …")
		req.Plan = true
		will, err := agent.ReseedQuorum(ctx, req)
		if err != nil {
			return err
		}
		if plan && c.json {
			p.json(will)
			return p.failed
		}
		p.reseedPlan(will, plan)
		if plan {
			return p.failed
		}
		if len(will.Missing) == 0 { // else the agent refuses, and says who is waited for
			p.remark("This cannot be taken back. Type reseed to go on:")
			line, err := c.readLine("word", maxCode)
			if err != nil {
				return err
			}
			if line != "reseed" {
				return usage("that is another word; nothing was founded (--yes does not ask)")
			}
		}
	}
	p.remark("Founding the quorum anew …")
	req.Plan = false
	done, err := agent.ReseedQuorum(ctx, req)
	if err != nil {
		return err
	}
	if c.json {
		p.json(done)
		return p.failed
	}
	p.line("founded the quorum anew, of epoch %d, with %s", done.NewEpoch, names(done.Voters))
	if done.From != nil {
		p.line("it begins with the log of %s, to %d.%d", visible(party(*done.From)), done.Epoch, done.Index)
	}
	if done.Status != nil && done.Status.State != api.QuorumOK {
		p.remark("its voters have not begun yet: see chartmesh quorum status")
	}
	if done.Circles > 0 {
		p.remark("numbers go on when an administrator begins the next series: chartmesh number open")
	}
	return p.failed
}

// reseedPlan says what founding the quorum anew would do: the result, or a remark before a question.
func (p *printer) reseedPlan(r api.Reseed, result bool) {
	say := p.remark
	if result {
		say = p.line
	}
	say("to vote: %s", names(r.Voters))
	if r.From != nil {
		say("begins with the log of %s, to %d.%d", visible(party(*r.From)), r.Epoch, r.Index)
	}
	say("leases that end: %d; circles whose series end: %d", r.Leases, r.Circles)
	for _, d := range r.Devices {
		what := []string{}
		if d.Epoch > 0 {
			what = append(what, "its voter's log reaches to "+strconv.FormatUint(d.Epoch, 10)+"."+strconv.FormatUint(d.Index, 10))
		}
		if d.Parts > 0 {
			what = append(what, strconv.Itoa(d.Parts)+" parts of ranges")
		}
		if d.Problem != "" {
			what = append(what, d.Problem)
		}
		if len(what) == 0 {
			what = append(what, "nothing of the quorum")
		}
		say("  %s: %s", visible(party(d.Party)), visible(strings.Join(what, "; ")))
	}
	for _, n := range r.Notes {
		say("- %s", visible(n))
	}
	if len(r.Missing) > 0 {
		say("waited for: %s (start their agents, or name those that never come back with --gone)", names(r.Missing))
	}
}

func names(list []api.Party) string {
	var out []string
	for _, who := range list {
		out = append(out, visible(party(who)))
	}
	return strings.Join(out, ", ")
}
