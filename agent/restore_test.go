package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

var onLoopback = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}

// survive founds a practice and runs its first device until the test ends.
func survive(t *testing.T) (a *Agent, code string, addresses []string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	f, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"})
	if err != nil {
		t.Fatal(err)
	}
	a, err = Open(Config{Dir: dir, Listen: onLoopback, NoMDNS: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for a.host.Load() == nil {
		select {
		case <-t.Context().Done():
			t.Fatal("it does not run")
		case <-time.After(time.Millisecond):
		}
	}
	addresses = a.host.Load().Addresses()
	untilAnswers(t, f.RecoveryCode, addresses)
	return a, f.RecoveryCode, addresses
}

// untilAnswers waits until whatever is at the addresses answers to the code.
func untilAnswers(t *testing.T, code string, addresses []string) {
	t.Helper()
	c, err := keyring.ParseRecoveryCode(code)
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.CallerKey()
	if err != nil {
		t.Fatal(err)
	}
	caller, err := p2p.NewCaller(key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = caller.Close() }()
	for {
		if _, err := caller.Call(t.Context(), addresses, nil); err == nil {
			return
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// A restore that was cut off after the practice had taken the device in goes on where it was: the device is the same, and is entered once.
func TestRestore(t *testing.T) {
	a, code, at := survive(t)
	dir := filepath.Join(t.TempDir(), "new")
	opts := RestoreOptions{Code: code, Site: "surgery", Device: "spare", Addresses: at}
	first, err := Restore(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if first.Practice != "Practice" || first.Scopes != 2 || first.Epochs != 2 || first.Closed != 0 || len(first.Devices) != 1 ||
		first.Devices[0].Name != "desk" || !first.Devices[0].Answered {
		t.Errorf("%+v", first)
	}
	entries := a.records.State().Len()
	if err := os.RemoveAll(storeIn(dir)); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(t.Context(), dir, opts)
	if err != nil || again.PeerID != first.PeerID || a.records.State().Len() != entries {
		t.Errorf("%v: %s, before %s; %d entries, before %d", err, again.PeerID, first.PeerID, a.records.State().Len(), entries)
	}
	if _, err := Restore(t.Context(), dir, opts); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("into a folder of the practice: %v", err)
	}
	restored, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = restored.Close() }()
	st := restored.records.State()
	if self, ok := st.Member(restored.keys.Device()); !ok || self.Role != trust.RoleAdmin {
		t.Errorf("it is %+v", self)
	}
	for _, sc := range st.Scopes() {
		for _, e := range sc.Epochs {
			if !restored.keys.Opens(e.ID) {
				t.Errorf("%s does not open", sc.Name)
			}
		}
	}
	if restored.peers.get(a.keys.Device()).Addrs == nil {
		t.Error("it does not remember where the other device is")
	}
}

// imitation is a device that answers to any recovery code with what it likes.
type imitation struct {
	session.Replica
	entries [][]byte
}

func (i imitation) EntriesSince([]trust.EntryID) [][]byte { return i.entries }

func (i imitation) AddEntries(context.Context, trust.DeviceID, [][]byte) error { return nil }

// TestImitations: nothing that does not prove to be of the practice makes a device, and nothing is written.
func TestImitations(t *testing.T) {
	a, code, at := survive(t)
	log := a.records.EntriesSince(nil)
	other, err := keyring.Create("", nil)
	if err != nil {
		t.Fatal(err)
	}
	founded, _, err := other.Found(keyring.FoundOptions{Practice: "Practice", Device: "desk", Site: "surgery", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	bent := append([]byte(nil), log[0]...)
	bent[len(bent)-1]++
	for name, entries := range map[string][][]byte{
		"another practice":                  {founded.Bytes()},
		"the practice's log, and no member": log,
		"both":                              {log[0], founded.Bytes()},
		"a signature that does not hold":    {bent},
		"nothing that reads":                {[]byte("entry")},
	} {
		t.Run(name, func(t *testing.T) {
			host, err := p2p.Open(p2p.Config{
				Identity: identity{other}, Replica: imitation{entries: entries}, Admit: func(trust.DeviceID) bool { return false }, Listen: onLoopback,
				Root: func(trust.DeviceID) p2p.RootKey { return p2p.RootInForce },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _ = host.Run(ctx) })
			defer func() {
				cancel()
				wg.Wait()
				_ = host.Close()
			}()
			untilAnswers(t, code, host.Addresses())
			dir := filepath.Join(t.TempDir(), "new")
			opts := RestoreOptions{Code: code, Site: "surgery", Device: "spare", Addresses: host.Addresses()}
			if _, err := Restore(t.Context(), dir, opts); api.CodeOf(err) != api.CodeForbidden || !strings.Contains(err.Error(), errImitation.Error()) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(storeIn(dir)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a store was made: %v", err)
			}
			// Beside the real one it is passed over.
			opts.Addresses = append(opts.Addresses, at...)
			if r, err := Restore(t.Context(), dir, opts); err != nil || r.Practice != "Practice" {
				t.Errorf("beside a device of the practice: %v", err)
			}
		})
	}
}

// TestSaidToBeReplaced: that the code was replaced anybody on the local network can say; beside a device that proves to be of the practice it
// counts only where somebody was asked by name.
func TestSaidToBeReplaced(t *testing.T) {
	for _, c := range []struct {
		named, answered, refused bool
	}{{false, true, false}, {false, false, true}, {true, true, true}, {true, false, true}} {
		s := &survivors{}
		s.mu.refusals = []error{errImitation, p2p.ErrReplacedCode}
		if c.answered {
			s.mu.replies = []survivor{{}}
		}
		err := s.found(c.named, nil)
		if (err != nil) != c.refused || err != nil && !strings.Contains(err.Error(), "replaced") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
