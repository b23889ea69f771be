package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

// meshEngine is chartmesh as it comes: an agent in each process, each a device of one practice. Voters are devices, and so is each process of
// clients; what is measured is what its local API calls, without the socket before it.
type meshEngine struct{}

func (meshEngine) name() string { return "chartmesh" }

const (
	patience = 2 * time.Minute
	user     = "bench"
	shared   = "shared"
)

// runAgent opens the agent of a folder and runs it until ctx ends. Its API answers at the folder's socket, for the processes that join.
func runAgent(ctx context.Context, dir string, ports []int) (a *agent.Agent, end func() error, err error) {
	cfg := agent.Config{Dir: dir, NoMDNS: true, NoPorts: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}}
	if len(ports) > 0 {
		cfg.Listen = []string{fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", ports[0]), fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ports[1])}
	}
	if a, err = agent.Open(cfg); err != nil {
		return nil, nil, err
	}
	socket, err := api.Listen(dir)
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 2)
	go func() { ran <- a.Run(ctx) }()
	go func() { ran <- api.ServeOn(ctx, socket, api.NewHandler(a, api.Options{})) }()
	end = func() error {
		cancel()
		first, second := <-ran, <-ran
		for _, err := range []error{first, second} {
			if err != nil && !errors.Is(err, context.Canceled) {
				return errors.Join(err, a.Close())
			}
		}
		return a.Close()
	}
	if err := until(ctx, func() (bool, error) {
		st, err := a.Status(ctx, "")
		return err == nil && st.Running && len(st.Addresses) > 0, nil
	}); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return a, end, nil
}

// until asks again and again until the answer is yes.
func until(ctx context.Context, yes func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := yes()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func voterDir(p plan, i int) string { return filepath.Join(p.Dir, fmt.Sprintf("voter%d", i)) }

// joined makes the folder of a device that the first voter's device invites.
func joined(ctx context.Context, p plan, dir, name string) error {
	var code string
	if err := until(ctx, func() (bool, error) { // one invitation at a time
		c, err := client.Dial(voterDir(p, 0))
		if err != nil {
			return false, nil
		}
		defer c.Close()
		inv, err := c.Invite(ctx, api.InviteRequest{Role: "admin", Expires: time.Hour, Yes: true})
		code = inv.Code
		return err == nil, nil
	}); err != nil {
		return fmt.Errorf("invite %s: %w", name, err)
	}
	_, err := agent.Join(ctx, dir, agent.JoinOptions{Code: code, Site: name, Device: name})
	return err
}

func (meshEngine) node(ctx context.Context, p plan, i int, ready func()) error {
	// What an agent keeps outside of its folder is this process's own.
	if err := os.Setenv("XDG_STATE_HOME", filepath.Join(p.Dir, "state")); err != nil {
		return err
	}
	name := fmt.Sprintf("voter%d", i)
	if i == 0 {
		if _, err := agent.Init(voterDir(p, 0), agent.InitOptions{Practice: "Bench", Site: "bench", Device: name}); err != nil {
			return err
		}
	} else if err := joined(ctx, p, voterDir(p, i), name); err != nil {
		return err
	}
	a, end, err := runAgent(ctx, voterDir(p, i), p.Ports[2*i:2*i+2])
	if err != nil {
		return err
	}
	if i == 0 {
		err = until(ctx, func() (bool, error) {
			q, err := a.Quorum(ctx)
			return err == nil && q.State == api.QuorumOK, nil
		})
		if err == nil && p.Voters > 1 {
			var change api.QuorumChange
			for j := 1; j < p.Voters; j++ {
				change.Add = append(change.Add, fmt.Sprintf("voter%d", j))
			}
			err = until(ctx, func() (bool, error) { // once they have joined, and all see each other
				q, err := a.ChangeQuorum(ctx, change)
				return err == nil && len(q.Voters) == p.Voters, nil
			})
		}
		if err == nil {
			_, err = a.OpenCircle(ctx, api.CircleRequest{Name: shared, First: 1, Last: 1<<53 - 1})
		}
	}
	if err != nil {
		return errors.Join(err, end())
	}
	ready()
	<-ctx.Done()
	return end()
}

type meshClient struct {
	a   *agent.Agent
	end func() error
}

func (meshEngine) connect(ctx context.Context, p plan) (connection, error) {
	if err := os.Setenv("XDG_STATE_HOME", filepath.Join(p.Dir, "state")); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("clients%d", p.Process)
	dir := filepath.Join(p.Dir, name)
	if err := joined(ctx, p, dir, name); err != nil {
		return nil, err
	}
	a, end, err := runAgent(ctx, dir, nil)
	if err != nil {
		return nil, err
	}
	err = until(ctx, func() (bool, error) {
		q, err := a.Quorum(ctx)
		return err == nil && q.State == api.QuorumOK && len(q.Voters) == p.Voters, nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("clients%d find no quorum of %d: %w", p.Process, p.Voters, err), end())
	}
	return &meshClient{a, end}, nil
}

func (c *meshClient) close() error { return c.end() }

type meshWorker struct {
	a            *agent.Agent
	name, circle string
}

func (c *meshClient) worker(ctx context.Context, name, circle string) (worker, error) {
	if circle != shared {
		if _, err := c.a.OpenCircle(ctx, api.CircleRequest{Name: circle, First: 1, Last: 1<<53 - 1}); err != nil {
			return nil, err
		}
	}
	return &meshWorker{c.a, name, circle}, nil
}

func (w *meshWorker) lock(ctx context.Context) error {
	if _, err := w.a.AcquireLease(ctx, user, api.LeaseRequest{Name: w.name}); err != nil {
		return err
	}
	return w.a.ReleaseLease(ctx, w.name)
}

func (w *meshWorker) assign(ctx context.Context, item string) (uint64, error) {
	n, err := w.a.AssignNumber(ctx, api.NumberRequest{Circle: w.circle, Item: item})
	return uint64(n.Number), err
}

func (w *meshWorker) close(context.Context) error { return nil }
