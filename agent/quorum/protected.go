package quorum

import (
	"context"
	"errors"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/lockquorum/client"
	"chartmesh/trust"
)

// Names are how voters know what protected documents are about, and who may vote: what a replica judges certificates by.
type Names struct {
	Keys interface {
		QuorumName(scope trust.ScopeID, kind string, parts ...string) ([32]byte, error)
	}
	Members func() *trust.State
}

func (n Names) hash(kind string, parts ...string) [32]byte {
	st := n.Members()
	if st == nil {
		return [32]byte{}
	}
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok {
		return [32]byte{}
	}
	h, _ := n.Keys.QuorumName(scope, kind, parts...) // zeros, which nothing has, of who reads nothing
	return h
}

// Lock implements certificate.Hasher. Names of locks of protected documents are in ASCII.
func (n Names) Lock(name string) lockquorum.LockID { return n.hash(kindLock.String(), name) }

// Document implements certificate.Hasher.
func (n Names) Document(id [32]byte) lockquorum.DocumentID { return n.hash("document", string(id[:])) }

// Heads implements certificate.Hasher.
func (n Names) Heads(document [32]byte, heads [][32]byte) lockquorum.Heads {
	if len(heads) == 0 {
		return lockquorum.Heads{}
	}
	parts := []string{string(document[:])}
	for _, h := range heads {
		parts = append(parts, string(h[:]))
	}
	return n.hash("heads", parts...)
}

// Voted implements certificate.Voters: whoever a quorum may have had vote (decision 0067), of an epoch that there may be.
func (n Names) Voted(st *trust.State, epoch uint64, device trust.DeviceID) certificate.Word {
	if lockquorum.MayBe(st, epoch) && lockquorum.MayHaveVoted(st, device) {
		return certificate.Yes
	}
	return certificate.Unknown
}

// Held is a lease that this process holds.
type Held struct {
	name    string
	lease   *client.Lease
	commits chan struct{} // room for who commits
	own     bool
}

// Held lists the leases that this process holds. Those that were lost are not among them, however long they were to be kept.
func (s *Service) Held() (list []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.mu.held {
		if h.lease.Err() == nil {
			list = append(list, h.held())
		}
	}
	return list
}

// Own reports whether whoever took it writes under it alone: see Use.
func (h Held) Own() bool { return h.own }

// checkWait bounds how long Check waits for a voter.
const checkWait = time.Second

// Check asks for a moment whether the lease still holds: it may have been broken.
func (h Held) Check(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	h.lease.Check(ctx)
}

// Lock is the name of the lock.
func (h Held) Lock() string { return h.name }

// Token names the lease.
func (h Held) Token() lockquorum.Token { return h.lease.Token() }

// Context ends with the lease.
func (h Held) Context() context.Context { return h.lease.Context() }

// Certified returns the heads of a document that are certified, as far as its holder knows; zeros: none.
func (h Held) Certified(document lockquorum.DocumentID) lockquorum.Heads {
	return h.lease.Certified(document)
}

// Documents lists those of which heads were certified when the lease was granted.
func (h Held) Documents() []lockquorum.DocumentID { return h.lease.Documents() }

// Commits runs what finds out heads and commits them, one at a time: heads of an earlier moment, committed on top of later ones, would take those back.
func (h Held) Commits(ctx context.Context, commit func() error) error {
	select {
	case h.commits <- struct{}{}:
		defer func() { <-h.commits }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return commit()
}

// Commit certifies heads of a document, within Commits.
func (h Held) Commit(ctx context.Context, document lockquorum.DocumentID, heads lockquorum.Heads) error {
	return h.lease.Commit(ctx, document, heads)
}

// Certify returns what a voter that leads says of a document, signed.
func (s *Service) Certify(ctx context.Context, lock string, document lockquorum.DocumentID) (signed certificate.Signed, err error) {
	id, err := s.id(kindLock, lock)
	if err != nil {
		return signed, s.explain(err)
	}
	if err := s.serves(); err != nil {
		return signed, err
	}
	err = s.client.Ask(ctx, func(ctx context.Context, e lockquorum.Engine) (err error) {
		var there bool // at another device
		if signed, there, err = s.voter.Seen().Certifies(ctx, e, id, document); !there {
			signed, err = s.voter.Sign(ctx, s.self, e, id, document)
		}
		return err
	})
	return signed, s.explain(err)
}

// Ask asks for a moment who votes.
func (s *Service) Ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, asksAround)
	defer cancel()
	if st, err := s.client.Read(ctx, voters); err == nil {
		s.voter.Heard(ctx, st)
	}
}

// Voters lists the devices that vote, as this one last heard.
func (s *Service) Voters() (list []trust.DeviceID) {
	for _, v := range s.voter.Voting() {
		list = append(list, v.Device)
	}
	return list
}

// Uncertain reports whether an error of Held.Commit leaves open what is certified.
func Uncertain(err error) bool {
	return errors.Is(err, client.ErrOutcomeUnknown) || errors.Is(err, client.ErrOtherHeads)
}

// Lost reports whether an error of Held.Commit says that the lease is over.
func Lost(err error) bool { return errors.Is(err, client.ErrLeaseLost) }

// Explain says an error of a lease in words for people.
func (s *Service) Explain(err error) error { return s.explain(err) }
