package main

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

// watchEvery is how often a watched status is asked for.
const watchEvery = 500 * time.Millisecond

// watch shows the status whenever it changes, until ctx ends. It speaks only to a running agent: opening the folder here
// would keep the agent from starting. While none runs, the last status is shown as that of no agent.
func (c *cli) watch(ctx context.Context, peer string) error {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	p := c.printer()
	w := watcher{p: p, json: c.json, screen: !c.json && terminal(c.out)}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var agent *client.Client
	defer func() {
		if agent != nil {
			_ = agent.Close()
		}
	}()
	for p.failed == nil {
		if agent == nil {
			agent, err = client.Dial(dir)
		}
		var status api.Status
		if err == nil {
			status, err = agent.Status(ctx, peer)
		}
		switch {
		case ctx.Err() != nil:
			return nil // being interrupted is how watching ends
		case err == nil:
			w.show(status, time.Now())
		case api.CodeOf(err) == api.CodeUnavailable:
			if agent != nil {
				_ = agent.Close()
				agent = nil
			}
			w.gone(time.Now())
		default:
			return err
		}
		err = nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return p.failed
}

// watcher prints a status when it is another than before.
type watcher struct {
	p      *printer
	json   bool
	screen bool // redraw in place, also what is not worth a line

	last  api.Status
	shown []byte // of the last, without what changes all the time
}

func (w *watcher) show(s api.Status, now time.Time) {
	w.last = s
	steady, err := json.Marshal(steady(s))
	if err != nil {
		panic(err) // of a struct that encoding/json knows
	}
	same := bytes.Equal(steady, w.shown)
	if same && !w.screen {
		return
	}
	first := w.shown == nil
	w.shown = steady
	switch {
	case w.json:
		w.p.jsonLine(s)
	case w.screen:
		// Drawn into memory first, so that it does not flicker; cleared to the right of each line and below.
		var text bytes.Buffer
		to := printer{out: &text, err: w.p.err}
		to.line("%s", when(now))
		to.status(s, now)
		page := bytes.ReplaceAll(text.Bytes(), []byte("\n"), []byte("\x1b[K\n"))
		if first {
			page = append([]byte("\x1b[2J"), page...)
		}
		w.p.write(append(append([]byte("\x1b[H"), page...), "\x1b[J"...))
	default:
		if !first {
			w.p.line("")
		}
		w.p.line("%s", when(now))
		w.p.status(s, now)
	}
}

// gone shows that no agent runs.
func (w *watcher) gone(now time.Time) {
	s := w.last
	s.Running, s.InSync, s.State, s.Reason = false, false, "offline", "no agent runs here"
	s.Addresses, s.Peers, s.Sync = []string{}, orEmpty(s.Peers), orEmpty(s.Sync)
	for i := range s.Peers {
		s.Peers[i].State, s.Peers[i].Way, s.Peers[i].RTTMillis = "offline", "", 0
	}
	w.show(s, now)
}

// steady returns a status without what changes by itself.
func steady(s api.Status) api.Status {
	s.Peers = append([]api.Peer(nil), s.Peers...)
	for i := range s.Peers {
		s.Peers[i].RTTMillis, s.Peers[i].ClockMillis, s.Peers[i].LastContact = 0, 0, nil
		s.Peers[i].Proof.StoredAsOf, s.Peers[i].Proof.ReadableAsOf = nil, nil
	}
	s.Sync = append([]api.PeerSync(nil), s.Sync...)
	for i := range s.Sync {
		s.Sync[i].BytesSent, s.Sync[i].BytesReceived = 0, 0 // pings too
	}
	return s
}
