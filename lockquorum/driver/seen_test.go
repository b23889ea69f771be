package driver

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
)

// TestAloneWentBack: a voter alone whose disk went back gives nothing to who saw it later, nor to anybody after him, also when it is started again. What nobody
// shows it cannot know.
func TestAloneWentBack(t *testing.T) {
	for _, shown := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			twin := founded(t, 1, 1)
			d := open(t, twin, Config{})
			stop := start(t, d)
			openCircle(t, d)
			assign(t, d, 1)
			old := twin.Copy()
			last := assign(t, d, 2)
			must(t, stop())
			d = open(t, old, Config{})
			start(t, d)
			ask := lockquorum.Request{Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{3}}}
			if shown {
				ask.Shown = []lockquorum.Position{last.Position}
			}
			a, err := d.Do(t.Context(), quorumtest.B, ask)
			if !shown {
				if err != nil || a.Number != last.Number {
					t.Errorf("who has seen nothing is given %d (%v), and another was given %d", a.Number, err, last.Number)
				}
				return
			}
			if !errors.Is(err, lockquorum.ErrOutcomeUnknown) {
				t.Errorf("who saw it later is answered %+v (%v)", a, err)
			}
			<-d.Ended()
			ask.Shown = nil
			if _, err := d.Do(t.Context(), quorumtest.C, ask); !errors.Is(err, lockquorum.ErrStopped) || !errors.Is(err, lockquorum.ErrLost) {
				t.Errorf("the next one is answered %v", err)
			}
			disk, _, err := OpenDisk(old)
			must(t, err)
			if _, err := Open(t.Context(), Config{ID: 1, Device: d.cfg.Device, Disk: disk, Allow: quorumtest.Allow}); !errors.Is(err, voter.ErrLost) {
				t.Errorf("started again it votes: %v", err)
			}
		})
	}
}

// TestHeard: what the voter's own device has heard is held against every command, whoever asks.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 1, 1)
		d := open(t, twin, Config{})
		stop := start(t, d)
		openCircle(t, d)
		old := twin.Copy()
		last := assign(t, d, 1).Position
		must(t, stop())
		for what, heard := range map[string][]lockquorum.Position{"nothing": nil, "it": {last}} {
			d := open(t, old.Copy(), Config{Heard: func() []lockquorum.Position { return heard }})
			start(t, d)
			_, _, err := d.Read(t.Context(), quorumtest.C, lockquorum.Query{Kind: lockquorum.ReadVoters})
			if errors.Is(err, lockquorum.ErrOutcomeUnknown) != (heard != nil) {
				t.Errorf("whose device has heard %s answers %v", what, err)
			}
		}
	})
}

// TestMessagesShow: voters say with each message how far they have come; another history at a place that both have ends who is told of it, and only a
// voter's word counts.
func TestMessagesShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := cluster(t)
		e := leader{n}
		openCircle(t, e)
		said := map[lockquorum.DeviceID]lockquorum.Seen{}
		n.set(func() { n.heard = func(from lockquorum.DeviceID, at lockquorum.Seen) { said[from] = at } })
		seen := assign(t, e, 1).Position.Seen
		time.Sleep(time.Second)
		n.set(func() {
			for device := range n.voters {
				if said[device] != seen {
					t.Errorf("voter %v says that it is at %v, and it is at %v", device, said[device].Place, seen.Place)
				}
			}
		})
		other := seen
		other.Chain[0]++
		lead := e.find()
		beat := &pb.Message{Type: pb.MsgHeartbeatResp.Enum(), To: proto.Uint64(lead.cfg.ID), From: proto.Uint64(lead.cfg.ID%3 + 1), Term: proto.Uint64(lead.Status().Term)}
		lead.Receive(quorumtest.Stranger, other, beat)
		lead.Receive(lockquorum.DeviceID{byte(lead.cfg.ID%3 + 1)}, seen, beat)
		synctest.Wait()
		if st := lead.Status(); !st.Running {
			t.Fatalf("it ends by a stranger's word, or by what is so: %v", st.Err)
		}
		lead.Receive(lockquorum.DeviceID{byte(lead.cfg.ID%3 + 1)}, other, beat)
		<-lead.Ended()
		if st := lead.Status(); !errors.Is(st.Err, lockquorum.ErrLost) {
			t.Errorf("it says %v", st.Err)
		}
	})
}
