package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// SyncProtocol is the libp2p protocol of the sync session.
const SyncProtocol protocol.ID = "/chartmesh/sync/1.0.0"

// errClosing ends links when the host goes offline or closes.
var errClosing = errors.New("this device goes offline")

// errNotAdmitted ends links of those who are no longer members.
var errNotAdmitted = errors.New("the peer is not a member")

// errSilent ends a link whose peer gives no sign of life after the network has changed.
var errSilent = errors.New("it does not answer any more")

// errReplaced ends a link when its peer opened another stream.
var errReplaced = errors.New("replaced by another stream")

// Host is this device on the network. Its methods are safe for concurrent use.
type Host struct {
	cfg  Config
	log  *slog.Logger
	self trust.DeviceID
	host host.Host
	gate *gate

	takers   takers        // who takes newcomers through this host
	asks     *rate.Limiter // of newcomers
	relaying io.Closer     // nil: bytes are not passed on
	punch    *puncher      // nil: there is no relay through which others come
	reserve  chan struct{} // a connection came or went
	poke     chan struct{} // something changed that the dialler cares for
	announce chan struct{} // the local network should hear of this device anew
	news     *news
	closing  chan struct{}
	closed   sync.Once
	running  atomic.Bool
	feed     session.Feed
	full     atomic.Bool   // this device stores nothing
	hearing  chan struct{} // held by the one removed device that is heard

	mu struct {
		sync.Mutex
		online bool
		ended  bool // Run is over or Close was called: no new links
		peers  map[trust.DeviceID]*member
		proven map[trust.DeviceID]int // strangers who know a code, and wait to be confirmed
		past   Traffic                // of the sessions that are over
		of     map[session.Replica]*sessions
	}
	work sync.WaitGroup // everything that Run started
}

// member is what the host knows of another device.
type member struct {
	device trust.DeviceID
	id     peer.ID
	addrs  []ma.Multiaddr
	near   []ma.Multiaddr // where it was heard on the local network
	heard  time.Time      // when
	known  bool           // SetPeers named it
	link   *link

	whereabouts

	reaching bool      // a dial or the opening of a stream is under way
	stopDial func()    // ends the dial that is under way; nil: none is
	reached  bool      // it was reached since the last session; if it must be again, it hung up
	next     time.Time // not before
	failures int

	circuitAt time.Time // it is tried through relays, not before
	directAt  time.Time // it is tried directly although a relay passes its link on, not before
	directs   int       // how often that was tried for this link

	doubted time.Time // when it was last asked for a sign of life, see Doubt

	knockAt   time.Time // when it is taken not to let this device in; zero: never
	offered   [32]byte  // the heads of the entries that it was offered, and did not let this device in for
	offeredAt time.Time // when it last answered to that
	knockNext time.Time // not before
	refused   bool      // what it answered last

	last    session.Status // of the last link
	contact time.Time
	reason  string // why there is no link
	incompt bool
	told    telling // what OnPeer heard last
}

type telling struct {
	state  State
	agreed bool
}

// Open binds the sockets; nobody is let in before Run.
func Open(cfg Config) (*Host, error) {
	if cfg.Identity == nil || cfg.Replica == nil && cfg.ReplicaOf == nil || cfg.Admit == nil {
		return nil, errors.New("open network: identity, replica and admission are needed")
	}
	if cfg.Recovered == nil {
		cfg.Recovered = func(trust.DeviceID) session.Replica { return cfg.Replica }
	}
	relayed := cfg.Relays != nil
	if cfg.ReplicaOf == nil {
		cfg.ReplicaOf = func(trust.DeviceID) session.Replica { return cfg.Replica }
	}
	if cfg.Relays == nil {
		cfg.Relays = func() []PeerAddr { return nil }
	}
	if cfg.Listen == nil {
		cfg.Listen = DefaultListen
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		cfg: cfg, log: cfg.Logger, self: cfg.Identity.Device(),
		gate: newGate(cfg.Admit, cfg.Invites), poke: make(chan struct{}, 1), announce: make(chan struct{}, 1), reserve: make(chan struct{}, 1), closing: make(chan struct{}),
		hearing: make(chan struct{}, 1), news: newNews(cfg.OnPeer, cfg.OnAddrs),
	}
	h.mu.online = !cfg.Offline
	h.mu.peers, h.mu.proven = map[trust.DeviceID]*member{}, map[trust.DeviceID]int{}
	h.mu.of = map[session.Replica]*sessions{}
	lh, err := newHost(cfg, h.gate, relayed)
	if err != nil {
		return nil, err
	}
	h.host = lh
	if cfg.Enters != nil {
		h.gate.enters = cfg.Enters
	}
	if relayed {
		if err := h.startPunching(); err != nil {
			return nil, errors.Join(err, lh.Close())
		}
	}
	if cfg.Relay != nil {
		if err := h.startRelay(); err != nil {
			return nil, errors.Join(err, lh.Close())
		}
	}
	if cfg.Relay != nil {
		h.gate.inviting, h.asks = h.takers.any, rate.NewLimiter(asksPerSecond, asksBurst)
		h.gate.most, h.gate.rate = maxStrangersAtRelay, rate.NewLimiter(strangersPerSecondAtRelay, maxStrangersAtRelay)
	}
	h.gate.strangers = func() int {
		return h.count(func(id peer.ID) bool {
			return !h.gate.admits(id) && h.gate.recovers(id) == RootNone && !h.gate.knocking(id)
		})
	}
	h.gate.callers = func(kind RootKey) int {
		return h.count(func(id peer.ID) bool { return h.gate.recovers(id) == kind })
	}
	if cfg.Root != nil {
		h.gate.root = cfg.Root
	}
	if cfg.Readmission != nil {
		h.gate.former = cfg.Readmission.Former
	}
	return h, nil
}

// Run serves and dials until ctx ends or Close is called, and returns when all of its goroutines are gone. It runs once.
func (h *Host) Run(ctx context.Context) error {
	if !h.running.CompareAndSwap(false, true) {
		return errors.New("run network: it ran before")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx, which ends with Run
		select {
		case <-h.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	events, err := h.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtLocalAddressesUpdated),
	}, eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("run network: %w", err)
	}
	changes := &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) { h.connected(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) {
			h.wakeDialler()
			h.wakeReserver()
		},
	}
	h.host.Network().Notify(changes)
	h.host.SetStreamHandler(SyncProtocol, func(s network.Stream) { h.handle(ctx, s, h.accept) })
	if h.cfg.Invites != nil {
		h.host.SetStreamHandler(JoinProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveJoin) })
	}
	if h.cfg.Root != nil {
		h.host.SetStreamHandler(RecoverProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveRecovery) })
	}
	if h.cfg.Relay != nil {
		h.host.SetStreamHandler(IntroduceProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveIntroduction) })
	}
	if h.cfg.Readmission != nil {
		h.host.SetStreamHandler(KnockProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveKnock) })
	}
	if h.cfg.Quorum != nil {
		h.host.SetStreamHandler(QuorumProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveQuorum) })
	}
	if h.cfg.Relay == nil {
		h.host.SetStreamHandler(AddressesProtocol, func(s network.Stream) { h.handle(ctx, s, h.serveAddresses) })
	}
	h.mu.Lock()
	if !h.mu.ended { // else Close waits already, or has waited, for all that runs
		h.work.Go(func() { h.listenEvents(ctx, events) })
		h.work.Go(func() { h.news.run(ctx) })
		h.work.Go(func() { h.keepReservations(ctx) })
		h.work.Go(func() { watchWakes(ctx, clocks(time.Now()), h.woke) })
		if h.cfg.LAN != nil {
			h.work.Go(func() { h.discover(ctx) })
		}
		h.gate.open.Store(h.mu.online)
	}
	h.mu.Unlock()
	h.dialler(ctx)

	// Stop input, end what runs, wait.
	h.gate.open.Store(false)
	h.host.RemoveStreamHandler(SyncProtocol)
	h.host.RemoveStreamHandler(JoinProtocol)
	h.host.RemoveStreamHandler(RecoverProtocol)
	h.host.RemoveStreamHandler(KnockProtocol)
	h.host.RemoveStreamHandler(IntroduceProtocol)
	h.host.RemoveStreamHandler(QuorumProtocol)
	h.host.RemoveStreamHandler(AddressesProtocol)
	h.host.Network().StopNotify(changes)
	h.mu.Lock()
	h.mu.ended = true
	h.mu.Unlock()
	h.work.Wait()
	_ = events.Close()
	return nil
}

// stopPunching ends what runs through relays first: a punch waits for an answer there.
func (h *Host) stopPunching() error {
	if h.punch == nil {
		return nil
	}
	closeRelayed(h.host.Network().Conns())
	return h.punch.service.Close()
}

// Close ends Run and releases the sockets. It may be called again.
func (h *Host) Close() error {
	var err error
	h.closed.Do(func() {
		h.gate.open.Store(false)
		close(h.closing)
		h.mu.Lock()
		h.mu.ended = true
		h.mu.Unlock()
		h.work.Wait()
		if h.relaying != nil {
			err = h.relaying.Close()
		}
		if err = errors.Join(err, h.stopPunching(), h.host.Close()); err != nil {
			err = fmt.Errorf("close network: %w", err)
		}
	})
	return err
}

// handle runs fn for a stream in libp2p's goroutine, counted among the host's own.
func (h *Host) handle(ctx context.Context, s network.Stream, fn func(context.Context, network.Stream, trust.DeviceID)) {
	device, err := DeviceOf(s.Conn().RemotePeer())
	h.mu.Lock()
	refuse := err != nil || h.mu.ended || !h.mu.online
	if !refuse {
		h.work.Add(1)
	}
	h.mu.Unlock()
	if refuse {
		_ = s.Reset()
		return
	}
	defer h.work.Done()
	fn(ctx, s, device)
}

// accept serves a sync stream that the peer opened.
func (h *Host) accept(ctx context.Context, s network.Stream, device trust.DeviceID) {
	if !h.cfg.Admit(device) {
		_ = s.Reset()
		return
	}
	_ = h.serve(ctx, s, device) // it has been logged, and is shown as the peer's reason
}

func (h *Host) wakeReserver() {
	select {
	case h.reserve <- struct{}{}:
	default:
	}
}

func (h *Host) listenEvents(ctx context.Context, events event.Subscription) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events.Out():
			if !ok {
				return
			}
			switch e := e.(type) {
			case event.EvtPeerIdentificationCompleted:
				if h.learn(e); h.punch != nil {
					h.punch.saw(e)
				}
			case event.EvtLocalAddressesUpdated:
				h.NetworkChanged()
			}
		}
	}
}

// connected looks at a connection that has come up. A stranger's is closed when its time is over.
func (h *Host) connected(c network.Conn) {
	device, err := DeviceOf(c.RemotePeer())
	if err == nil && h.cfg.Admit(device) {
		if isRelayed(c.RemoteMultiaddr()) {
			// What was known did not lead there, and would be tried before a punch; what it says now is taken up when it has.
			h.host.Peerstore().ClearAddrs(c.RemotePeer())
		} else if places, ok := h.host.Network().ResourceManager().(*apart); ok {
			places.came(c.RemoteMultiaddr())
		}
		h.mu.Lock()
		// The record is made here for one whose addresses nobody told us.
		if m, err := h.memberLocked(device); err == nil {
			if m.stopDial != nil {
				m.stopDial() // the peer was faster; our dial may hang on a dead address
			}
			again := m.link != nil && time.Since(m.link.since) > linkSettled && c.Stat().Direction == network.DirInbound
			direct := m.link != nil && m.link.way == wayRelayed && !isRelayed(c.RemoteMultiaddr())
			if again || direct {
				// It would not dial if it had the connection that the link runs on: it was started again, or its network
				// is another. The transport would take half a minute to notice. And a stream stays where it was opened.
				m.link.end(errReplaced)
			}
			if c.Stat().Direction == network.DirInbound {
				m.failures, m.next = 0, time.Time{} // it came to us: what our own dials met does not matter any more
			}
		}
		h.mu.Unlock()
		h.wakeDialler()
		h.wakeReserver()
		return
	}
	limit := strangerLimit
	if h.cfg.Relay != nil && !h.gate.knocking(c.RemotePeer()) {
		limit = confirmLimit // what goes through the connection is another's
	}
	time.AfterFunc(limit, func() {
		if d, err := DeviceOf(c.RemotePeer()); err != nil || !h.cfg.Admit(d) && !h.hasProven(d) {
			_ = c.Close()
		}
	})
}

// count counts the connections of some.
func (h *Host) count(of func(peer.ID) bool) int {
	n := 0
	for _, c := range h.host.Network().Conns() {
		if of(c.RemotePeer()) {
			n++
		}
	}
	return n
}

// Push says that this device has committed chunks of a scope: they go out at once to every connected peer.
func (h *Host) Push(trust.ScopeID) {
	for _, l := range h.links() {
		l.session.LocalChunks(time.Now())
		l.wakeWriter()
	}
}

// Applied says that the applier of a scope has come to its end.
func (h *Host) Applied(scope trust.ScopeID) {
	for _, l := range h.links() {
		l.session.Applied(time.Now(), scope)
		l.wakeWriter()
		h.observe(l)
	}
}

// MembershipChanged says that the membership log grew: entries go out, and who is no longer admitted is cut off.
func (h *Host) MembershipChanged() { h.membershipChanged(nil) }

// membershipChanged is MembershipChanged for the sessions with a replica, or all if that is nil.
func (h *Host) membershipChanged(of session.Replica) {
	for _, l := range h.links() {
		if of != nil && l.replica != of {
			continue
		}
		if !h.cfg.Admit(l.device) {
			l.end(errNotAdmitted)
			continue
		}
		l.session.LocalEntries(time.Now())
		l.wakeWriter()
	}
	h.wakeDialler()
}

// sweep closes the connections of those who may not have one (any more). It runs in the dialler's goroutine, since who
// reports a change of the membership may hold what Invites needs.
func (h *Host) sweep() {
	for _, id := range h.host.Network().Peers() {
		if device, err := DeviceOf(id); err == nil && h.gate.admits(id) {
			h.mu.Lock()
			_, _ = h.memberLocked(device) // who came as a stranger may belong by now
			h.mu.Unlock()
		}
		if !h.gate.admits(id) && h.gate.recovers(id) == RootNone && !h.gate.knocking(id) && !h.gate.inviting() {
			_ = h.host.Network().ClosePeer(id)
		}
	}
}

// InvitesChanged says that invitations were opened or closed: relays bring newcomers for those that are open.
func (h *Host) InvitesChanged() { h.wakeReserver() }

// SetOnline closes all connections and refuses new ones, or takes them up again.
func (h *Host) SetOnline(online bool) {
	h.mu.Lock()
	h.mu.online = online
	h.gate.open.Store(online && h.running.Load() && !h.mu.ended)
	for _, m := range h.mu.peers {
		m.failures, m.next = 0, time.Time{}
	}
	h.mu.Unlock()
	if !online {
		for _, l := range h.links() {
			l.end(errClosing)
		}
		for _, l := range h.links() {
			<-l.gone
		}
		for _, c := range h.host.Network().Conns() {
			_ = c.Close()
		}
	}
	h.wakeDialler()
}

// SetFull says whether this device stores nothing, for want of room on its disk. The peers are told.
func (h *Host) SetFull(full bool) {
	if h.full.Swap(full) == full {
		return
	}
	for _, l := range h.links() {
		l.wakeWriter()
	}
}

// Renew ends every session with a replica, or all if that is nil, so that they begin anew: within one, what this device was said to
// hold is never taken back.
func (h *Host) Renew(of session.Replica) {
	for _, l := range h.links() {
		if of == nil || l.replica == of {
			l.end(errClosing)
		}
	}
	h.wakeDialler()
}

func (h *Host) links() []*link {
	h.mu.Lock()
	defer h.mu.Unlock()
	var links []*link
	for _, m := range h.mu.peers {
		if m.link != nil {
			links = append(links, m.link)
		}
	}
	return links
}

// memberLocked returns the record of a device, made if need be.
func (h *Host) memberLocked(d trust.DeviceID) (*member, error) {
	if m := h.mu.peers[d]; m != nil {
		return m, nil
	}
	id, err := PeerID(d)
	if err != nil {
		return nil, err
	}
	m := &member{device: d, id: id}
	h.mu.peers[d] = m
	return m, nil
}

// Peers lists the known and the connected peers, by device.
func (h *Host) Peers() []PeerStatus {
	h.mu.Lock()
	list := make([]PeerStatus, 0, len(h.mu.peers))
	links := make([]*link, 0, len(h.mu.peers))
	near := make([][]ma.Multiaddr, 0, len(h.mu.peers))
	for _, m := range h.mu.peers {
		if !m.known && m.link == nil && m.contact.IsZero() {
			continue
		}
		list = append(list, PeerStatus{Device: m.device, State: m.stateLocked(), LastContact: m.contact, Reason: m.reason,
			Session: m.last, Version: m.last.PeerVersion, RTT: m.last.RTT, ClockDiff: m.last.ClockOffset})
		links, near = append(links, m.link), append(near, m.nearLocked(time.Now()))
	}
	h.mu.Unlock()
	for i := range list {
		if l, p := links[i], &list[i]; l != nil {
			p.Connected, p.Way, p.Addr, p.Since, p.Reason = true, h.wayNow(l, near[i]), l.addr, l.since, "" // not under the lock: it looks at the interfaces
			p.Session = l.session.Status()
			p.State, p.Version = stateOf(p.Session), p.Session.PeerVersion
			p.RTT, p.ClockDiff = p.Session.RTT, p.Session.ClockOffset
			if p.Session.LastFrame.After(p.LastContact) {
				p.LastContact = p.Session.LastFrame
			}
		}
	}
	slices.SortFunc(list, func(a, b PeerStatus) int { return bytes.Compare(a.Device[:], b.Device[:]) })
	return list
}

func (m *member) stateLocked() State {
	switch {
	case m.link != nil:
		return Syncing
	case m.incompt:
		return Incompatible
	case m.reaching:
		return Connecting
	}
	return Offline
}

func stateOf(s session.Status) State {
	switch {
	case s.Incompatible:
		return Incompatible
	case s.Diverged:
		return Diverged
	case s.InSync:
		return InSync
	}
	return Syncing
}

// Addresses lists the multiaddrs of this device, with /p2p/.
func (h *Host) Addresses() []string {
	own, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.host.ID(), Addrs: h.host.Addrs()})
	if err != nil {
		return nil
	}
	list := make([]string, len(own))
	for i, a := range own {
		list[i] = a.String()
	}
	return list
}
