package seen

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// founded founds a practice.
func founded(t testing.TB) (*keyring.Keyring, *trust.State) {
	t.Helper()
	keys, err := keyring.Create("", nil)
	must(t, err)
	e, _, err := keys.Found(keyring.FoundOptions{Practice: "Praxis Berg", Device: "Empfang", Site: "Mitte", Now: time.Now()})
	must(t, err)
	st, err := trust.Found(e)
	must(t, err)
	return keys, st
}

// stranger signs and belongs to nobody.
type stranger struct{ key ed25519.PrivateKey }

func (s stranger) Device() trust.DeviceID { return trust.DeviceID(s.key.Public().(ed25519.PublicKey)) }
func (s stranger) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(s.key, trust.SigningInput(context, msg))
}

func at(epoch, index uint64) lockquorum.Seen {
	return lockquorum.Seen{Place: lockquorum.Place{Epoch: epoch, Index: index}, Chain: [32]byte{byte(index)}}
}

func open(t testing.TB, store storage.Store, st *trust.State) *Keeper {
	t.Helper()
	k, err := Open(Config{Store: store, Members: func() *trust.State { return st }})
	must(t, err)
	return k
}

// answering answers with positions, one after another.
type answering struct {
	shown []lockquorum.Position
	next  lockquorum.Position
	state *lockquorum.State
	says  certificate.Signed
}

func (a *answering) Do(_ context.Context, _ lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	a.shown = r.Shown
	return lockquorum.Answer{Position: a.next, Result: lockquorum.Result{Number: 7}}, nil
}

func (a *answering) Read(_ context.Context, _ lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	a.shown = shown
	v, err := lockquorum.ParseView(q, a.state.View(q, 0))
	return v, a.next, err
}

func (a *answering) Certify(_ context.Context, _ lockquorum.LockID, _ lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error) {
	a.shown = shown
	return a.says, nil
}

// TestKept: what a voter answered is durable when its answer is passed on, and shown from then on; what nobody signed who may have voted is not.
func TestKept(t *testing.T) {
	keys, st := founded(t)
	sign := func(s lockquorum.Seen) lockquorum.Position { return lockquorum.SignPosition(keys, st.Practice(), s) }
	twin := storage.NewTwin()
	k := open(t, twin, st)
	from := &answering{next: sign(at(1, 5))}
	e := k.Engine(keys.Device(), from)
	a, err := e.Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{})
	if err != nil || a.Number != 7 || len(from.shown) != 0 {
		t.Fatalf("it answers %+v (%v), and was shown %v", a, err, from.shown)
	}
	k = open(t, twin.Copy(), st)
	if got := k.Shows(); len(got) != 1 || got[0] != from.next {
		t.Fatalf("after a crash it shows %v", got)
	}
	other := stranger{ed25519.NewKeyFromSeed(make([]byte, 32))}
	for what, p := range map[string]lockquorum.Position{
		"nobody's":           {Seen: at(1, 9), Voter: keys.Device()},
		"a stranger's":       lockquorum.SignPosition(other, st.Practice(), at(1, 9)),
		"another practice's": lockquorum.SignPosition(keys, trust.EntryID{}, at(1, 9)),
	} {
		must(t, k.Carried(t.Context(), p.Marshal()))
		if len(k.Shows()) != 1 {
			t.Errorf("what is %s is believed", what)
		}
	}
	if err := k.Carried(t.Context(), []byte{9}); err == nil {
		t.Error("what does not read is taken")
	}
	must(t, k.Carried(t.Context(), sign(at(1, 9)).Marshal()))
	must(t, k.Carried(t.Context(), sign(at(1, 8)).Marshal())) // earlier
	select {
	case <-k.Moved():
	default:
		t.Error("what is heard is not said")
	}
	if got := k.Shows(); len(got) != 2 || got[1].Index != 9 || !bytes.Equal(k.Carries(), sign(at(1, 9)).Marshal()) {
		t.Errorf("what was heard of is shown as %v", got)
	}
}

// TestSoon: of a lease it need not be durable at once how far the quorum was, and is within a second, or when the process ends; of what lasts it is.
func TestSoon(t *testing.T) {
	keys, st := founded(t)
	synctest.Test(t, func(t *testing.T) {
		twin := storage.NewTwin()
		k := open(t, twin, st)
		stored := func() uint64 {
			m := open(t, twin.Copy(), st).mu.memory
			return m.Own.Index
		}
		from := &answering{}
		ask := func(index uint64, o lockquorum.Operation) {
			t.Helper()
			from.next = lockquorum.SignPosition(keys, st.Practice(), at(1, index))
			_, err := k.Engine(keys.Device(), from).Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{Operation: o})
			must(t, err)
			if got := k.Shows()[0].Index; got != index {
				t.Fatalf("it shows %d, and was answered at %d", got, index)
			}
		}
		ask(5, &lockquorum.Acquire{})
		if got := stored(); got != 0 {
			t.Fatalf("a lease at 5 waits for %d to be stored", got)
		}
		time.Sleep(Soon / 2)
		ask(6, &lockquorum.Release{})
		time.Sleep(Soon / 2)
		synctest.Wait()
		if got := stored(); got != 6 {
			t.Fatalf("a second later %d is stored", got)
		}
		for i, o := range []lockquorum.Operation{&lockquorum.Assign{}, &lockquorum.Commit{}, &lockquorum.Resolve{}, &lockquorum.Take{}, &lockquorum.Voters{}, &lockquorum.Break{}} {
			index := uint64(10 + i)
			if ask(index, o); stored() != index {
				t.Fatalf("%T at %d was answered, and %d is stored", o, index, stored())
			}
		}
		ask(20, &lockquorum.Renew{})
		k.Flush(t.Context())
		if got := stored(); got != 20 {
			t.Fatalf("in the end %d is stored", got)
		}
	})
}

// TestSoonIsNotTooLate: what lasts is durable when it is passed on, also where a lease that was answered from the same place, or a later one, was told before.
func TestSoonIsNotTooLate(t *testing.T) {
	keys, st := founded(t)
	synctest.Test(t, func(t *testing.T) {
		for _, lasting := range []uint64{8, 7} {
			twin := storage.NewTwin()
			k := open(t, twin, st)
			at := func(index uint64) lockquorum.Position {
				return lockquorum.SignPosition(keys, st.Practice(), at(1, index))
			}
			// Both were asked before either was answered.
			renewed, assigned := &waiting{make(chan lockquorum.Position)}, &waiting{make(chan lockquorum.Position)}
			ask := func(from *waiting, o lockquorum.Operation) {
				_, err := k.Engine(keys.Device(), from).Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{Operation: o})
				must(t, err)
			}
			go ask(renewed, &lockquorum.Renew{})
			done := make(chan struct{})
			go func() { defer close(done); ask(assigned, &lockquorum.Assign{}) }()
			renewed.answers <- at(8)
			synctest.Wait()
			assigned.answers <- at(lasting)
			<-done
			if got := open(t, twin.Copy(), st).mu.memory.Own.Index; got < lasting {
				t.Errorf("a number was given at %d and is passed on, and after a crash %d is known", lasting, got)
			}
			k.Flush(t.Context())
		}
	})
}

// waiting answers a question from where it is told to.
type waiting struct{ answers chan lockquorum.Position }

func (w *waiting) Do(context.Context, lockquorum.DeviceID, lockquorum.Request) (lockquorum.Answer, error) {
	return lockquorum.Answer{Position: <-w.answers}, nil
}

func (w *waiting) Read(context.Context, lockquorum.DeviceID, lockquorum.Query, ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	return nil, lockquorum.Position{}, errors.ErrUnsupported
}

// TestOwnVoter: what this device's own voter says is not written: it would go back with it. A voter that this device knows counts, whatever its role.
func TestOwnVoter(t *testing.T) {
	keys, st := founded(t)
	twin := storage.NewTwin()
	other := stranger{ed25519.NewKeyFromSeed(make([]byte, 32))}
	k, err := Open(Config{Store: twin, Members: func() *trust.State { return st }, Self: keys.Device()})
	must(t, err)
	k.Know(func() []lockquorum.Voter { return []lockquorum.Voter{{ID: 1, Device: other.Device()}} })
	_, err = k.Engine(keys.Device(), &answering{next: lockquorum.SignPosition(keys, st.Practice(), at(1, 5))}).Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{})
	must(t, err)
	if len(k.Shows()) != 1 || len(open(t, twin, st).Shows()) != 0 {
		t.Errorf("it shows %v, and has stored %v", k.Shows(), open(t, twin, st).Shows())
	}
	if !k.Trusts(lockquorum.SignPosition(other, st.Practice(), at(1, 9))) {
		t.Error("a voter that is known is not believed")
	}
}

// TestRefused: an answer that lacks what was shown, or that its voter did not sign, is not passed on.
func TestRefused(t *testing.T) {
	keys, st := founded(t)
	sign := func(s lockquorum.Seen) lockquorum.Position { return lockquorum.SignPosition(keys, st.Practice(), s) }
	other := at(1, 9)
	other.Chain[7]++
	for what, c := range map[string]struct {
		answer lockquorum.Position
		want   error
	}{
		"earlier":         {sign(at(1, 8)), lockquorum.ErrForked},
		"another history": {sign(other), lockquorum.ErrForked},
		"earlier epoch":   {sign(at(0, 800)), lockquorum.ErrOver},
		"none":            {lockquorum.Position{}, lockquorum.ErrUnsigned},
		"unsigned":        {lockquorum.Position{Seen: at(1, 10), Voter: keys.Device()}, lockquorum.ErrUnsigned},
		"later":           {sign(at(1, 10)), nil},
		"the same":        {sign(at(1, 9)), nil},
		"later epoch":     {sign(at(2, 1)), nil},
	} {
		k := open(t, storage.NewTwin(), st)
		must(t, k.Carried(t.Context(), sign(at(1, 9)).Marshal()))
		from := &answering{next: c.answer}
		a, err := k.Engine(keys.Device(), from).Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{})
		if !errors.Is(err, c.want) || err != nil && a.Number != 0 || len(from.shown) != 1 {
			t.Errorf("%s: %v (%v), shown was %v", what, a.Result, err, from.shown)
		}
	}
	k := open(t, storage.NewTwin(), st)
	if _, err := k.Engine(lockquorum.DeviceID{9}, &answering{next: sign(at(1, 9))}).Do(t.Context(), lockquorum.DeviceID{}, lockquorum.Request{}); !errors.Is(err, lockquorum.ErrUnsigned) {
		t.Errorf("another voter's word is taken for that of who was asked: %v", err)
	}
}

// TestReadsAndCertificates are checked as answers are, and have to say of themselves what their voter signs.
func TestReadsAndCertificates(t *testing.T) {
	keys, st := founded(t)
	state := lockquorum.New(0)
	state.Reseed(1, []lockquorum.Voter{{ID: 1, Device: keys.Device()}})
	sign := func(s lockquorum.Seen) lockquorum.Position { return lockquorum.SignPosition(keys, st.Practice(), s) }
	k := open(t, storage.NewTwin(), st)
	from := &answering{state: state, next: sign(state.Seen())}
	e := k.Engine(keys.Device(), from)
	_, _, err := e.Read(t.Context(), lockquorum.DeviceID{}, lockquorum.Query{Kind: lockquorum.ReadVoters})
	must(t, err)
	from.next = sign(at(1, 9))
	if _, _, err := e.Read(t.Context(), lockquorum.DeviceID{}, lockquorum.Query{Kind: lockquorum.ReadVoters}); !errors.Is(err, lockquorum.ErrUnsigned) {
		t.Errorf("a State is read that is not the one that is signed: %v", err)
	}
	from.says, err = certificate.Sign(keys, certificate.Of(state, st.Practice(), lockquorum.LockID{}, lockquorum.DocumentID{}))
	must(t, err)
	_, ok, err := k.Certifies(t.Context(), e, lockquorum.LockID{}, lockquorum.DocumentID{})
	if !ok || err != nil {
		t.Errorf("a certificate is refused: %v (%v)", ok, err)
	}
	must(t, k.Carried(t.Context(), sign(at(1, 9)).Marshal()))
	if _, _, err = k.Certifies(t.Context(), e, lockquorum.LockID{}, lockquorum.DocumentID{}); !errors.Is(err, lockquorum.ErrForked) || len(from.shown) != 2 {
		t.Errorf("a certificate from before what was seen: %v, shown was %v", err, from.shown)
	}
	from.says.Signature[3]++
	if _, _, err = k.Certifies(t.Context(), e, lockquorum.LockID{}, lockquorum.DocumentID{}); !errors.Is(err, lockquorum.ErrUnsigned) {
		t.Errorf("a certificate that is not signed: %v", err)
	}
}

// TestDamaged: a value that does not read is forgotten, and the device goes on.
func TestDamaged(t *testing.T) {
	keys, st := founded(t)
	twin := storage.NewTwin()
	var b storage.Batch
	b.Put(storage.Quorum.Key(item), []byte{1, 9})
	must(t, twin.Commit(t.Context(), &b))
	k := open(t, twin, st)
	must(t, k.Carried(t.Context(), lockquorum.SignPosition(keys, st.Practice(), at(1, 9)).Marshal()))
	if len(open(t, twin, st).Shows()) != 1 {
		t.Error("it does not go on")
	}
}

// FuzzValues: what is read is written the same.
func FuzzValues(f *testing.F) {
	p := lockquorum.Position{Seen: at(1, 300), Voter: lockquorum.DeviceID{1}, Signature: [64]byte{9}}
	seeds := [][]byte{marshalMemory(lockquorum.Memory{}), marshalMemory(lockquorum.Memory{Own: p}), marshalMemory(lockquorum.Memory{Own: p, Heard: p})}
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseMemory(b); return err }, seeds...)
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m lockquorum.Memory
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { m, err = parseMemory(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(marshalMemory(m), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
