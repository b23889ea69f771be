package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

const heldShown = 100

// Status says how things stand: with the records, and with every other device.
func (a *Agent) Status(_ context.Context, peer string) (api.Status, error) {
	st := a.records.State()
	host := a.host.Load()
	statuses := map[trust.DeviceID]p2p.PeerStatus{}
	if host != nil {
		for _, p := range host.Peers() {
			statuses[p.Device] = p
		}
	}
	// After the sessions: what they say to hold alike is counted as applied only if it was by then.
	counts := a.records.Status()
	proofs, err := a.records.Proofs()
	if err != nil {
		return api.Status{}, err
	}
	id, err := p2p.PeerID(a.keys.Device())
	if err != nil {
		return api.Status{}, err
	}
	others := a.others(st)
	s := api.Status{
		Practice: a.keys.PracticeName(st), PeerID: id.String(), Version: a.cfg.Version,
		Documents: counts.Documents, Resources: counts.Resources, Parked: counts.Parked, Quarantined: counts.Quarantined,
		Unapplied: counts.Unapplied, Conflicts: counts.Conflicts, OwnChanges: counts.Own, NotElsewhere: counts.NotElsewhere,
		AtAnchorOnly: counts.AtAnchor, AtDevices: counts.Own - counts.NotElsewhere - counts.AtAnchor,
		Elsewhere: elsewhere(counts, len(others) > 0),
		Addresses: []string{}, Peers: []api.Peer{}, Sync: []api.PeerSync{},
	}
	s.Device, s.Site = a.keys.Names(st, a.keys.Device())
	branches := a.records.Branches()
	s.Branches = branches[a.keys.Device()]
	if logs := a.records.OwnLogs(); len(logs) > 1 {
		last := logs[len(logs)-1]
		s.NewLog = &api.NewLog{Began: last.Began, Reason: last.Reason.String(), Logs: len(logs)}
	}
	if host != nil {
		s.Running, s.Addresses = true, host.Addresses()
	}
	connected, agreed, syncing, found := 0, 0, false, peer == ""
	for _, m := range others {
		ps := statuses[m.Device]
		p := a.peer(st, m, ps, proofs[m.Device])
		p.Branches = branches[m.Device]
		switch {
		case ps.Connected || host == nil:
		case m.Role == trust.RoleAnchor && p.Reason != "" && p.State == p2p.Offline.String():
			p.Reason += "; if it was set up anew it has to admit the practice again (`chartmesh anchor add` prints the token)"
		case m.Role != trust.RoleAnchor && slices.ContainsFunc(st.Anchors(), func(m trust.Member) bool { return statuses[m.Device].Connected }):
			p.Way = api.WayStored
		}
		if peer != "" && p.Name != peer && p.PeerID != peer && p.Site != peer {
			continue
		}
		found = true
		if ps.Connected {
			connected++
			if ps.Session.InSync && ps.State != p2p.Diverged {
				agreed++
			}
			syncing = syncing || ps.State == p2p.Syncing
		}
		s.Peers = append(s.Peers, p)
		if ses := ps.Session; !ses.Started.IsZero() {
			s.Sync = append(s.Sync, api.PeerSync{
				Peer: p.Name, Started: ses.Started, RoundTrips: ses.RoundTrips, BytesSent: ses.BytesOut,
				BytesReceived: ses.BytesIn, ChunksSent: ses.ChunksOut, ChunksRecv: ses.ChunksIn,
			})
		}
	}
	if !found {
		return api.Status{}, &api.Error{Code: api.CodeNotFound, Message: "the practice has no other device of this name",
			Hint: "`chartmesh peer list` shows them"}
	}
	s.InSync = connected > 0 && agreed == connected && counts.AtEnd && counts.Unapplied == 0
	switch {
	case host == nil:
		s.State, s.Reason = "offline", "no agent is running"
	case !a.online.Load():
		s.State, s.Reason = "offline", "the network is paused"
	case connected == 0 && incompatible(s) != "":
		s.State, s.Reason = "offline", incompatible(s)
	case connected == 0 && len(others) == 0:
		s.State, s.Reason = "offline", "the practice has no other device yet"
	case connected == 0:
		s.State, s.Reason = "offline", "no other device can be reached"
	case syncing || !counts.AtEnd:
		s.State = "syncing"
		for _, p := range s.Peers {
			if p.State == "syncing" && p.TakesNothing != "" {
				s.Reason = reasonsFull[p.TakesNothing]
			}
		}
	default:
		s.State, s.Reason = "online", incompatible(s)
	}
	if s.Store, err = a.storeStatus(s); err != nil {
		return api.Status{}, err
	}
	s.Reason = storeReason(s)
	held, err := a.records.Held(heldShown)
	if err != nil {
		return api.Status{}, err
	}
	for _, h := range held {
		device, _ := a.keys.Names(st, h.Device)
		s.Held = append(s.Held, api.Held{Chunk: hex.EncodeToString(h.Chunk[:8]), State: h.State.String(), Reason: h.Reason, Device: device})
	}
	return s, nil
}

// incompatible names the versions of this device and of one that it cannot sync with, if there is one.
func incompatible(s api.Status) string {
	for _, p := range s.Peers {
		if p.State == p2p.Incompatible.String() {
			return fmt.Sprintf("%s has version %s, and this device %s, which have no protocol in common; update the older one", p.Name, p.Version, s.Version)
		}
	}
	return ""
}

// elsewhere says how much of what this device wrote is stored on another one, given whether there is one. That nothing is
// left to store must not sound as if anything were stored.
func elsewhere(counts replica.Status, others bool) string {
	switch {
	case !others:
		return api.ElsewhereAlone
	case counts.Own == 0:
		return api.ElsewhereUnwritten
	case counts.NotElsewhere == counts.Own:
		return api.ElsewhereNone
	case counts.NotElsewhere > 0:
		return api.ElsewhereSome
	}
	return api.ElsewhereAll
}

// takesNothing is what is said of a device that stores nothing, and reasonsFull why this one is not in sync with it.
var (
	takesNothing = map[session.Full]string{session.DiskFull: api.TakesNothingFull, session.UsedUp: api.TakesNothingQuota}
	reasonsFull  = map[string]string{
		api.TakesNothingFull:  "a device takes nothing, since its disk is full",
		api.TakesNothingQuota: "the anchor takes nothing more, since the practice's share of it is used up",
	}
)

func (a *Agent) peer(st *trust.State, m trust.Member, ps p2p.PeerStatus, proof replica.Proof) api.Peer {
	name, site := a.keys.Names(st, m.Device)
	p := api.Peer{
		Name: name, Site: site, Role: strings.ToLower(m.Role.String()), State: ps.State.String(), Way: ps.Way,
		RTTMillis: millis(ps.RTT), ClockMillis: millis(ps.ClockDiff), Version: ps.Version, Reason: ps.Reason,
		BehindChunks: ps.Session.BehindChunks, BehindBytes: ps.Session.BehindBytes,
		LacksChunks: proof.Chunks - proof.Stored, LacksBytes: proof.Bytes, Proof: proofOf(proof),
	}
	p.ClockWarning = clocksApart(ps.RTT, ps.ClockDiff)
	if id, err := p2p.PeerID(m.Device); err == nil {
		p.PeerID = id.String()
	}
	if ps.Connected {
		p.TakesNothing = takesNothing[ps.Session.PeerFull]
	}
	last := a.peers.get(m.Device).LastContact
	if ps.LastContact.After(last) {
		last = ps.LastContact
	}
	p.LastContact = known(last)
	return p
}

// clocksApart reports whether a clock differs so much that somebody should set it right. It is measured to half a round trip; zero:
// it was not.
func clocksApart(rtt, diff time.Duration) bool {
	return rtt > 0 && diff.Abs()-rtt/2 > api.MostClockMillis*time.Millisecond
}

func proofOf(p replica.Proof) api.Proof {
	out := api.Proof{Chunks: p.Chunks, Stored: p.Stored, StoredAsOf: known(p.StoredAsOf), Readable: p.Readable, ReadableAsOf: known(p.ReadableAsOf)}
	if l := p.Lost; !l.Seen.IsZero() {
		out.Lost = &api.Lost{Seen: l.Seen, Confirmed: known(l.Confirmed), Again: known(l.Again)}
	}
	return out
}

// known returns a time that is not zero.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// WaitInSync waits until this device is in sync.
func (a *Agent) WaitInSync(ctx context.Context, peer string) (api.Status, error) {
	if a.host.Load() == nil {
		return api.Status{}, notRunning()
	}
	// Session states change without a commit and commits without a session; a slow poll catches what neither tells.
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		peers, records := a.peers.wait(), a.records.Changed()
		s, err := a.Status(ctx, peer)
		if err != nil || s.InSync {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, &api.Error{Code: api.CodeTimeout, Message: fmt.Sprintf("not in sync: %s", why(s)), Err: ctx.Err()}
		case <-peers:
		case <-records:
		case <-poll.C:
		}
	}
}

func why(s api.Status) string {
	switch {
	case s.Unapplied > 0:
		return "this machine's engine failed on a change"
	case s.Reason != "":
		return s.Reason
	case s.State == "syncing":
		return "still syncing"
	}
	return "a peer holds something else"
}
