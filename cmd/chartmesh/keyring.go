package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chartmesh/agent/api"
)

// maxPassphrase is what is read of a passphrase; one byte more than any may have.
const maxPassphrase = 1025

// unlock gives the keyring's passphrase: from the file descriptor that was named, or from the terminal.
func (c *cli) unlock() ([]byte, error) {
	if c.passphrase != nil {
		return c.passphrase, nil
	}
	switch f, ok := c.in.(*os.File); {
	case c.passphraseFD >= 0:
		pipe := os.NewFile(uintptr(c.passphraseFD), "passphrase")
		if pipe == nil {
			return nil, usage("--passphrase-fd %d is no open file descriptor", c.passphraseFD)
		}
		b, err := io.ReadAll(io.LimitReader(pipe, maxPassphrase+1))
		if err := errors.Join(err, pipe.Close()); err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
		c.passphrase = bytes.TrimRight(b, "\r\n")
	case ok && terminal(f):
		p := c.printer()
		_, _ = fmt.Fprint(p.err, "Passphrase of this device's keys: ")
		b, err := term.ReadPassword(int(f.Fd()))
		p.remark("")
		if err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
		c.passphrase = b
	default:
		return nil, &api.Error{Code: api.CodeForbidden, Message: "this device's keys are protected by a passphrase",
			Hint: "type it at a terminal, or give it on a file descriptor: --passphrase-fd 3 3< FILE"}
	}
	return c.passphrase, nil
}

func (c *cli) keyringCommand() *cobra.Command {
	status := &cobra.Command{
		Use:     "status",
		Short:   "show where and how this device keeps its keys",
		Example: "  chartmesh keyring status --json",
		Args:    cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				s, err := agent.KeyringStatus(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(s)
					return p.failed
				}
				p.line("keys in %s", visible(s.File))
				switch s.Protection {
				case "passphrase":
					p.line("protected by a passphrase, which every start asks for")
				case "keychain":
					p.line("protected by a key in the system's keychain: only this user on this machine opens them, when logged in")
				default:
					p.line("protected by the file's permissions alone: whoever can read this user's files has them")
					p.hint("chartmesh keyring protect")
				}
				p.line("%s of scopes open", plural(s.Epochs, "key"))
				if s.StoreKeyChanged != nil {
					p.line("the store was last encrypted anew %s", when(*s.StoreKeyChanged))
				}
				return p.failed
			})
		}),
	}
	var remove, keychain bool
	protect := &cobra.Command{
		Use:   "protect [--keychain | --remove]",
		Short: "seal this device's keys under a passphrase, or by the system's keychain",
		Long: `Reads a passphrase from stdin and seals the keys of this device under it (argon2id, 64 MiB): a copy of the folder, or the disk of a
stolen machine, is worth nothing without. Every start of the agent asks for it, at the terminal or by --passphrase-fd; nothing opens the
folder if it is forgotten, but the practice's other devices have the records, and this one can join anew.

With --keychain they are sealed under a key that the system's keychain keeps (Secret Service on Linux, the keychain of macOS): nobody types
anything, and a copy of the folder is worth nothing on another machine. It needs the session of the user, so it is nothing for a
service that starts before anybody logs in. If the keychain is reset, nothing opens the folder.

The keys that stood there in clear may still be somewhere on the disk, and are in older copies of the folder.`,
		Example: `  chartmesh keyring protect
  chartmesh agent --passphrase-fd 3 3< /run/credentials/chartmesh
  chartmesh keyring protect --keychain
  chartmesh keyring protect --remove`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) (err error) {
			p := c.printer()
			req := api.ProtectionRequest{Keychain: keychain}
			if remove && keychain {
				return usage("--keychain or --remove, not both")
			}
			if !remove && !keychain {
				if req.Passphrase, err = c.readSecret(p, "New passphrase:"); err != nil {
					return err
				}
				if terminal(c.in) {
					again, err := c.readSecret(p, "Once more:")
					if err != nil {
						return err
					}
					if again != req.Passphrase {
						return usage("the two differ; nothing was changed")
					}
				}
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if err := agent.ProtectKeyring(ctx, req); err != nil {
					return err
				}
				s, err := agent.KeyringStatus(ctx)
				if err != nil {
					return err
				}
				if c.json {
					p.json(s)
				} else {
					p.line("protected by: %s", s.Protection)
				}
				return p.failed
			})
		}),
	}
	protect.Flags().BoolVar(&remove, "remove", false, "leave the keys to the file's permissions again")
	protect.Flags().BoolVar(&keychain, "keychain", false, "seal the keys under a key in the system's keychain instead")
	return family("keyring", "how this device keeps its keys", status, protect, c.rotateStorageCommand())
}

func (c *cli) rotateStorageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-storage",
		Short: "encrypt this device's store anew, under another key",
		Long: `Writes the store of this device anew under another key, and removes the old one. Whoever has an older copy of the folder, or of its
keyring, can open what that copy holds and nothing that is stored from now on. The agent must be stopped; it takes as long as writing the
records once, and that much room. Cut short at any moment, the next command or the agent finishes it or takes it back.

This changes nothing for the other devices: the keys of scopes, which they share, are made anew when a device is removed.`,
		Example: `  chartmesh keyring rotate-storage
  chartmesh keyring rotate-storage --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			if err := c.guarded(); err != nil {
				return err
			}
			p := c.printer()
			r, err := c.joins.rotate(ctx, dir, openOptions{logger: c.logger(slog.LevelWarn), leastFree: c.leastFree(), unlock: c.unlock})
			if err != nil {
				return err
			}
			if c.json {
				p.json(r)
				return p.failed
			}
			p.line("the store is encrypted anew: %s, in %s", plural(r.Values, "value"), r.Took.Round(time.Millisecond))
			p.remark("Copies of the folder from before still open with the keyring that is in them.")
			return p.failed
		}),
	}
}
