package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

// maxCode is what is read of an invite code.
const maxCode = 8 << 10

func (c *cli) inviteCommand() *cobra.Command {
	req := api.InviteRequest{}
	picture := false
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "let one more device in, by a few words that are read over the phone",
		Long: `Prints a link, and five words, that admit one device, once, and waits. Read the words to whoever sits at the new device,
where "chartmesh join" asks for them. Then this command shows that device's name and fingerprint and asks whether it may join: compare
the fingerprint with the one on the other screen.

This device's agent must be running, and the new one be in the same network, or be given one of the addresses that are printed. The
link, and with --qr the picture of it, hold the addresses too; whoever sees it can ask to join as with the words.

Interrupting the command withdraws the invitation. If the terminal is lost otherwise, it stays open until it expires:
"chartmesh invite list" shows it and who waits, "chartmesh invite confirm" lets that device in, "chartmesh invite revoke" ends it.

With --yes the command returns at once, and whoever has the code first is let in without a question: for scripts.`,
		Example: `  chartmesh invite
  chartmesh invite --role reader --site Nord --expires 15m --qr
  chartmesh invite --yes --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			if req.Expires <= 0 || req.Expires > api.MaxInvite {
				return usage("--expires is a time of at most 30 days, for example 24h")
			}
			return c.running(func(agent *client.Client) error {
				invite, err := agent.Invite(ctx, req)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.jsonLine(invite)
				} else {
					err = p.invite(invite, picture)
				}
				if err == nil && p.failed == nil && !req.Yes {
					err = c.attend(ctx, p, agent, invite.Name)
				}
				return errors.Join(err, p.failed)
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Role, "role", "member", "what the device may do: member, admin, reader (sees everything and changes nothing) or server")
	flags.StringVar(&req.Site, "site", "", "the `NAME` of the site where the device is (default: it says so itself)")
	flags.DurationVar(&req.Expires, "expires", 24*time.Hour, "how long the code can be used")
	flags.BoolVar(&picture, "qr", false, "print the link as a QR code too")
	flags.BoolVar(&req.Yes, "yes", false, "let in whoever has the code, without asking, and do not wait")
	cmd.AddCommand(c.inviteListCommand(), c.inviteConfirmCommand(), c.inviteRevokeCommand())
	return cmd
}

// invite prints the secrets of an invitation: the link, then the words. They are the result; what explains them is not.
func (p *printer) invite(i api.Invite, picture bool) error {
	p.line("%s", i.Link) // the first line: a script hands it to join, which needs no multicast then
	if picture {
		if err := p.qr(i.Link); err != nil {
			return err
		}
	}
	p.line("%s", i.Words)
	p.remark("Either admits one device as %s until %s. Five wrong guesses of the words block them.", i.Role, when(i.Expires))
	for _, a := range i.Addresses {
		if _, at, ok := strings.Cut(address(a), " "); ok {
			p.remark("If it finds nothing: --address %s", at)
		}
	}
	for _, a := range i.Anchors {
		p.remark("From another network: --anchor %s", visible(a))
	}
	p.hint("on the new device: chartmesh join, and type the five words when asked")
	return nil
}

// address turns a multiaddress into "kind IP:PORT"; one that it does not know becomes "".
func address(multi string) string {
	f := strings.Split(multi, "/")
	switch {
	case len(f) < 5 || f[1] != "ip4" && f[1] != "ip6":
		return ""
	case f[1] == "ip6":
		return f[3] + " [" + f[2] + "]:" + f[4]
	}
	return f[3] + " " + f[2] + ":" + f[4]
}

// qr prints a text as a QR code of half blocks. What is light in it is drawn, as terminals are mostly dark; cameras take it the other
// way round too.
func (p *printer) qr(text string) error {
	code, err := qr.Encode(strings.ToUpper(text), qr.L) // capitals take two thirds of the room, and mean the same in a link
	if err != nil {
		return fmt.Errorf("make the QR code: %w", err)
	}
	const quiet = 4 // modules of margin, without which a camera sees no code
	for y := -quiet; y < code.Size+quiet; y += 2 {
		var line strings.Builder
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				line.WriteByte(' ')
			case upper:
				line.WriteString("▄")
			case lower:
				line.WriteString("▀")
			default:
				line.WriteString("█")
			}
		}
		p.line("%s", line.String())
	}
	return nil
}

// attend waits for newcomers of an invitation, asks about each and ends when one is in. Interrupted, it withdraws the
// invitation: nobody is there to confirm.
func (c *cli) attend(ctx context.Context, p *printer, agent *client.Client, name string) error {
	answers := c.answers(ctx)
	cut := false // a question was overtaken: what is typed now may have been meant for it
	state := api.InviteState{State: api.InviteOpen}
	p.remark("Waiting for the new device; an interrupt withdraws the invitation.")
	for {
		next, err := agent.WaitInvite(ctx, name, state.State)
		switch {
		case ctx.Err() != nil:
			return errors.Join(agent.RevokeInvite(context.WithoutCancel(ctx), name), ctx.Err())
		case api.CodeOf(err) == api.CodeNotFound:
			return &api.Error{Code: api.CodeNotFound, Message: "the invitation was withdrawn", Hint: "make another: chartmesh invite"}
		case err != nil:
			return err
		}
		if c.json {
			p.jsonLine(next)
		}
		switch state = next; state.State {
		case api.InviteUsed:
			if !c.json {
				p.line("%s joined as %s", visible(who(*state.Device)), state.Role)
			}
			return p.failed
		case api.InviteExpired:
			return &api.Error{Code: api.CodeTimeout, Message: "the invitation has expired", Hint: "make another: chartmesh invite"}
		case api.InviteBlocked:
			p.remark("Wrong words were tried too often: they are blocked. The link still works.")
		case api.InviteWaiting:
			if cut {
				select {
				case <-answers:
				default:
				}
			}
			asking, overtaken := context.WithCancel(ctx)
			go func() { // ends with asking
				_, _ = agent.WaitInvite(asking, name, state.State)
				overtaken()
			}()
			yes, err := c.ask(asking, p, answers, state)
			overtaken()
			if cut = ctx.Err() == nil && errors.Is(err, context.Canceled); cut {
				p.remark("\nIt waits no longer.") // it hung up, or somebody decided elsewhere
				continue
			}
			if err != nil {
				return errors.Join(agent.RevokeInvite(context.WithoutCancel(ctx), name), err)
			}
			err = agent.ConfirmInvite(ctx, name, api.InviteDecision{Admit: yes, Fingerprint: state.Newcomer.Fingerprint})
			if api.CodeOf(err) == api.CodeConflict {
				p.remark("That device has hung up.")
			} else if err != nil {
				return err
			}
		}
	}
}

// typed is a line of stdin.
type typed struct {
	line string
	err  error
}

// answers reads stdin line by line, until it ends or ctx does.
func (c *cli) answers(ctx context.Context) <-chan typed {
	lines := make(chan typed)
	go func() { // ends with the process if nobody types anything
		r := bufio.NewReader(io.LimitReader(c.in, maxCode))
		for {
			line, err := r.ReadString('\n')
			select {
			case lines <- typed{line, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				close(lines)
				return
			}
		}
	}()
	return lines
}

// ask shows a newcomer and reads whether it may join. No answer is no.
func (c *cli) ask(ctx context.Context, p *printer, answers <-chan typed, state api.InviteState) (bool, error) {
	n := state.Newcomer
	p.remark("%s at %s wants to join as %s. Its fingerprint: %s", visible(n.Name), visible(n.Site), state.Role, n.Fingerprint)
	_, _ = fmt.Fprint(p.err, "Is that the fingerprint on the other screen, and may it join? [y/N] ")
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case a, more := <-answers:
		line := strings.ToLower(strings.TrimSpace(a.line))
		if !more || a.err != nil && line == "" {
			if more && !errors.Is(a.err, io.EOF) {
				return false, fmt.Errorf("read the answer: %w", a.err)
			}
			return false, usage("there is nobody to confirm on stdin; the invitation is withdrawn (--yes asks nobody)")
		}
		return line == "y" || line == "yes", nil
	}
}

func (c *cli) inviteListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list this device's invitations, and who waits to be let in",
		Long: `Lists the invitations that this device has opened, until a quarter of an hour after their end, by the first two of their words, which
are no secret.`,
		Example: "  chartmesh invite list --json",
		Args:    cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				list, err := agent.Invites(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				switch {
				case c.json:
					p.json(orEmpty(list))
				case len(list) == 0:
					p.remark("There is no invitation.")
				default:
					var rows [][]string
					for _, s := range list {
						whom := ""
						if s.Newcomer != nil {
							whom = s.Newcomer.Name + " at " + s.Newcomer.Site + ", " + s.Newcomer.Fingerprint
						} else if s.Device != nil {
							whom = who(*s.Device)
						}
						rows = append(rows, []string{s.Name, s.State, s.Role, s.Site, when(s.Expires), fmt.Sprint(s.TriesLeft), whom})
					}
					p.table([]string{"INVITATION", "STATE", "ROLE", "SITE", "UNTIL", "TRIES LEFT", "DEVICE"}, rows)
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) inviteConfirmCommand() *cobra.Command {
	decline := false
	cmd := &cobra.Command{
		Use:   "confirm INVITATION FINGERPRINT",
		Short: "let in the device that waits, or turn it away",
		Long: `Lets in the device that waits to be confirmed, as "chartmesh invite" does when it is answered with y; for when its terminal is
gone. The fingerprint is the one that the new device shows.`,
		Example: `  chartmesh invite confirm able-zebra 0AB1-C2D3-E4F5-6G7H
  chartmesh invite confirm able-zebra 0AB1-C2D3-E4F5-6G7H --decline`,
		Args: cobra.ExactArgs(2),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				d := api.InviteDecision{Admit: !decline, Fingerprint: strings.ToUpper(args[1])}
				if err := agent.ConfirmInvite(ctx, args[0], d); err != nil {
					return err
				}
				p := c.printer()
				switch {
				case c.json:
					p.json(d)
				case decline:
					p.line("turned away")
				default:
					p.line("confirmed")
				}
				return p.failed
			})
		}),
	}
	cmd.Flags().BoolVar(&decline, "decline", false, "turn it away")
	return cmd
}

func (c *cli) inviteRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke INVITATION",
		Short:   "end an invitation, and turn away who waits",
		Example: "  chartmesh invite revoke able-zebra",
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if err := agent.RevokeInvite(ctx, args[0]); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(struct {
						Revoked string `json:"revoked"`
					}{args[0]})
				} else {
					p.line("%s is withdrawn", args[0])
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) joinCommand() *cobra.Command {
	var opts joinOptions
	cmd := &cobra.Command{
		Use:   "join [WORDS|CODE|-] [--site NAME] [--device NAME]",
		Short: "join a practice with the words, or the code, from another device",
		Long: `Joins the practice of the device where "chartmesh invite" printed five words, and gets the keys of what this device may read. The
records follow when the agent runs. That device is looked for on the local network, or asked at --address; the link and the code that
"invite" prints hold its addresses and do as well. From another network it is asked through the practice's --anchor, which "invite" prints.

The words may be cut short, and case and what stands between them do not matter. A word that was misheard is noticed before anything
is sent. This device shows its fingerprint, which whoever confirms it compares.

Without an argument, or with "-", the words are read from stdin. That is the better way: a command line can be seen by other users
of this machine, and stays in the shell's history. --site is needed unless the invitation says where the device is.`,
		Example: `  chartmesh join --site Nord --device Labor
  chartmesh join --address 192.168.1.20:4801
  chartmesh join --anchor /dns4/anchor.example.org/udp/4001/quic-v1/p2p/12D3KooW…
  chartmesh join - --site Nord < code.txt`,
		Args: cobra.ArbitraryArgs,
		RunE: c.do(func(ctx context.Context, args []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			if strings.TrimSpace(opts.device) == "" {
				return usage("a device needs --device")
			}
			p := c.printer()
			if len(args) > 0 && args[0] != "-" {
				opts.code = strings.TrimSpace(strings.Join(args, " "))
			} else if opts.code, err = c.readLine("the five words, or the code", maxCode); err != nil {
				return err
			}
			if opts.address != "" && len(opts.anchor) > 0 {
				return usage("give --address or --anchor, not both")
			}
			opts.logger = c.logger(slog.LevelWarn)
			opts.begun = func(fingerprint string) {
				p.remark("Looking for the inviting device. This device's fingerprint: %s", fingerprint)
			}
			opts.waiting = func() { p.remark("Found. Waiting for somebody there to compare the fingerprint and confirm.") }
			j, err := c.joins.join(ctx, dir, opts)
			if err != nil {
				return err
			}
			if c.json {
				p.json(struct {
					Joined bool   `json:"joined"`
					Site   string `json:"site"`
					Device string `json:"device"`
					Role   string `json:"role"`
				}{true, j.site, j.device, j.role})
				return p.failed
			}
			p.line("joined as %s at %s", visible(j.device), visible(j.site))
			p.hint("next: chartmesh agent, and then chartmesh status --wait in-sync")
			return p.failed
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.site, "site", "", "the site's `NAME`")
	flags.StringVar(&opts.device, "device", hostname(), "this device's `NAME`")
	flags.StringVar(&opts.address, "address", "", "where the inviting device is, `IP:PORT` or a multiaddress, instead of looking for it")
	flags.StringArrayVar(&opts.anchor, "anchor", nil, "the `ADDRESS` of the practice's anchor, from another network than the inviting device's; may be given again")
	flags.DurationVar(&opts.timeout, "timeout", 30*time.Second, "how long to look for the inviting device; being confirmed may take longer")
	return cmd
}
