package chunk_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

var update = flag.Bool("update", false, "write new test vectors")

const (
	chunkFile  = "testdata/chunk.json"
	vectorFile = "testdata/log-and-vector.json"
)

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// membership is what these tests take from the membership log's vectors.
type membership struct {
	Devices []struct {
		Seed   hexBytes `json:"ed25519_seed"`
		HPKE   hexBytes `json:"hpke_private_key"`
		Store  hexBytes `json:"store_secret"`
		Secret hexBytes `json:"device_secret"`
		Nonce  hexBytes `json:"log_nonce"`
	} `json:"devices"`
	Entries []struct {
		Bytes hexBytes `json:"bytes"`
	} `json:"entries"`
	State struct {
		Scopes []struct {
			Name     string   `json:"name"`
			Epoch    hexBytes `json:"epoch"`
			EpochKey hexBytes `json:"epoch_key"`
		} `json:"scopes"`
	} `json:"state"`
	keys     []*keyring.Keyring
	state    *trust.State
	clinical trust.ScopeID
}

func readMembership(t *testing.T) *membership {
	t.Helper()
	var m membership
	readJSON(t, "../trust/testdata/membership-log.json", &m)
	var entries []trust.Entry
	for _, x := range m.Entries {
		e, err := trust.ParseEntry(x.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	m.state, _ = trust.Replay(entries)
	m.clinical, _ = m.state.ScopeNamed(trust.ScopeClinical)
	for _, d := range m.Devices {
		all := bytes.Join([][]byte{d.Seed, d.HPKE, d.Store, d.Secret, d.Nonce, bytes.Repeat([]byte{1}, 1024)}, nil)
		k, err := keyring.Create("", bytes.NewReader(all))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Learn(m.state); err != nil {
			t.Fatal(err)
		}
		m.keys = append(m.keys, k)
	}
	return &m
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

type chunkVectors struct {
	Comment string        `json:"comment"`
	Chunks  []chunkVector `json:"chunks"`
}

type chunkVector struct {
	Name     string   `json:"name"`
	Bytes    hexBytes `json:"bytes"`
	ID       hexBytes `json:"id"`
	Log      hexBytes `json:"log"`
	Counter  uint64   `json:"counter"`
	Previous hexBytes `json:"previous"`
	Tag      hexBytes `json:"tag"`
	Salt     hexBytes `json:"salt"`
	Schema   uint16   `json:"schema"`
	Header   int      `json:"header_length"`
	Info     hexBytes `json:"body_info"`
	BodyKey  hexBytes `json:"body_key"`
	Nonce    hexBytes `json:"body_nonce"`
	Packed   hexBytes `json:"packed_body"`
	Document hexBytes `json:"document"`
	Time     int64    `json:"time_millis"`
	Author   string   `json:"author"`
	Origin   uint8    `json:"origin"`
	Changes  []struct {
		Branch uint8    `json:"branch"`
		Raw    hexBytes `json:"raw"`
		Actor  hexBytes `json:"actor"`
	} `json:"changes"`
	Authorship []struct {
		Branch    uint8    `json:"branch"`
		Seq       uint64   `json:"seq"`
		Newest    hexBytes `json:"newest"`
		Signature hexBytes `json:"signature"`
	} `json:"authorship"`
}

// TestChunkVectors opens the vectors twice: through the package, and by hand as the specification has it.
func TestChunkVectors(t *testing.T) {
	m := readMembership(t)
	if *update {
		writeChunkVectors(t, m)
	}
	var v chunkVectors
	readJSON(t, chunkFile, &v)
	if len(v.Chunks) != 2 {
		t.Fatal("the file is not whole")
	}
	for _, x := range v.Chunks {
		s, err := chunk.Parse(x.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got := describeChunk(t, m, s)
		got.Name = x.Name
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(x)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: got\n%s\nwant\n%s", x.Name, a, b)
		}
	}
	for i := 1; i < len(v.Chunks); i++ {
		s, err := chunk.Parse(v.Chunks[i].Bytes)
		if err != nil || !s.Follows(chunk.ID(v.Chunks[i-1].ID), v.Chunks[i-1].Counter) {
			t.Errorf("%s does not follow: %v", v.Chunks[i].Name, err)
		}
	}
}

func describeChunk(t *testing.T, m *membership, s chunk.Sealed) chunkVector {
	t.Helper()
	if err := s.Verify(m.state); err != nil {
		t.Fatal(err)
	}
	b, err := chunk.Open(m.keys[0], s)
	if err != nil {
		t.Fatal(err)
	}
	h, c, id, log := s.Header(), b.(*chunk.Changes), s.ID(), s.Log()
	x := chunkVector{Bytes: s.Bytes(), ID: id[:], Log: log[:], Counter: h.Counter, Previous: h.Previous[:], Tag: h.Tag[:],
		Salt: h.Salt[:], Schema: h.Schema, Header: len(s.Bytes()) - h.Length - 64, Document: c.Document[:],
		Time: c.TimeMillis, Author: c.Author, Origin: uint8(c.Origin)}

	// By hand, as docs/spec/chunk.md has it.
	info := bytes.Join([][]byte{h.Scope[:], h.Secret[:], h.Tag[:], log[:], {0, 0, 0, 0, 0, 0, 0, byte(h.Counter)}, h.Salt[:]}, nil)
	for _, sc := range m.State.Scopes {
		if !bytes.Equal(sc.Epoch, h.Epoch[:]) {
			continue
		}
		once, err := hkdf.Key(sha256.New, sc.EpochKey, nil, "chartmesh body 1\x00"+string(info), 56)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := chacha20poly1305.NewX(once[:32])
		if err != nil {
			t.Fatal(err)
		}
		head := x.Bytes[:x.Header]
		packed, err := aead.Open(nil, once[32:], x.Bytes[x.Header:x.Header+h.Length], head)
		if err != nil {
			t.Fatal("the body does not open by hand")
		}
		x.Info, x.BodyKey, x.Nonce, x.Packed = info, once[:32], once[32:], packed
	}
	for _, ch := range c.Changes {
		actor := chunk.ActorOf(log, c.Document, ch.Branch)
		x.Changes = append(x.Changes, struct {
			Branch uint8    `json:"branch"`
			Raw    hexBytes `json:"raw"`
			Actor  hexBytes `json:"actor"`
		}{ch.Branch, ch.Raw, actor[:]})
	}
	for _, a := range c.Authorship {
		x.Authorship = append(x.Authorship, struct {
			Branch    uint8    `json:"branch"`
			Seq       uint64   `json:"seq"`
			Newest    hexBytes `json:"newest"`
			Signature hexBytes `json:"signature"`
		}{a.Branch, a.Seq, a.Newest[:], a.Signature[:]})
	}
	return x
}

func writeChunkVectors(t *testing.T, m *membership) {
	k := m.keys[1]
	doc, err := k.DocumentID(m.clinical, "patient-1", "core")
	if err != nil {
		t.Fatal(err)
	}
	params := chunk.Params{Membership: m.state, Scope: m.clinical, Log: chunk.CurrentLog(k), Counter: 1}
	v := chunkVectors{Comment: "Chunk 1. The practice is that of trust/testdata/membership-log.json; the writer is its " +
		"second device, under its log_nonce. The changes stand for Automerge changes and are none."}
	for i, name := range []string{"stored", "compressed, two branches, fence"} {
		c := &chunk.Changes{Document: doc, Schema: 1, TimeMillis: now.UnixMilli(), Author: "Dr. Özil", Origin: chunk.OriginEdit,
			Changes:    []chunk.Change{{Raw: []byte("first change")}},
			Authorship: []chunk.Authorship{{Seq: 1, Newest: sha256.Sum256([]byte{1})}}}
		if i == 1 {
			c.Origin = chunk.OriginImport
			c.Changes[0].Raw = text(400)
			c.Changes = append(c.Changes, chunk.Change{Branch: 1, Raw: []byte("on an older version")})
			c.Authorship[0].Seq = 2
			c.Authorship = append(c.Authorship, chunk.Authorship{Branch: 1, Seq: 1, Newest: sha256.Sum256([]byte{2})})
			params.Fence = chunk.Fence{Epoch: 1, Index: 4711}
		}
		s, err := chunk.Seal(k, params, c)
		if err != nil {
			t.Fatal(err)
		}
		x := describeChunk(t, m, s)
		x.Name = name
		v.Chunks = append(v.Chunks, x)
		params.Counter, params.Previous = params.Counter+1, s.ID()
	}
	writeJSON(t, chunkFile, v)
}

type logVectors struct {
	Comment string        `json:"comment"`
	Logs    []logVector   `json:"logs"`
	Vectors []stateVector `json:"vectors"`
	Sets    []setVector   `json:"sets"`
}

type logVector struct {
	Device hexBytes `json:"device"`
	Nonce  hexBytes `json:"nonce"`
	Log    hexBytes `json:"log"`
}

type stateVector struct {
	Positions []vectorPosition `json:"positions"`
	Bytes     hexBytes         `json:"bytes"`
	Hash      hexBytes         `json:"hash"`
}

type vectorPosition struct {
	Log     hexBytes `json:"log"`
	Counter uint64   `json:"counter"`
	ID      hexBytes `json:"id"`
}

type setVector struct {
	Elements []hexBytes `json:"elements"`
	State    hexBytes   `json:"state"`
	Sum      hexBytes   `json:"sum"`
}

func TestLogVectors(t *testing.T) {
	want := makeLogVectors(t)
	if *update {
		writeJSON(t, vectorFile, want)
	}
	var v logVectors
	readJSON(t, vectorFile, &v)
	a, _ := json.Marshal(v)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got\n%s\nthe file has\n%s", b, a)
	}
	for _, x := range v.Vectors {
		got, err := chunk.ParseVector(x.Bytes)
		if err != nil || len(got) != len(x.Positions) {
			t.Errorf("parse: %v", err)
		}
		for _, p := range x.Positions {
			if got[chunk.LogID(p.Log)] != chunk.At(p.Counter, chunk.ID(p.ID)) {
				t.Error("a position differs")
			}
		}
	}
}

func makeLogVectors(t *testing.T) logVectors {
	v := logVectors{Comment: "Log IDs, version vectors 1 and set hashes 1."}
	for i := range byte(3) {
		device, nonce := trust.DeviceID(bytes.Repeat([]byte{i + 1}, 32)), [16]byte(bytes.Repeat([]byte{0x10 * i}, 16))
		log := chunk.LogOf(device, nonce)
		v.Logs = append(v.Logs, logVector{device[:], nonce[:], log[:]})
	}
	for n := range len(v.Logs) + 1 {
		x := stateVector{Positions: []vectorPosition{}}
		vec := chunk.Vector{}
		for i, l := range v.Logs[:n] {
			id := chunk.ID(sha256.Sum256([]byte{byte(i)}))
			counter := uint64(1) << (7 * i)
			vec[chunk.LogID(l.Log)] = chunk.At(counter, id)
			x.Positions = append(x.Positions, vectorPosition{l.Log, counter, id[:]})
		}
		hash := vec.Hash()
		x.Bytes, x.Hash = encode(t, vec), hash[:]
		v.Vectors = append(v.Vectors, x)
	}
	for n := range 3 {
		x := setVector{Elements: []hexBytes{}}
		var s chunk.SetHash
		for i := range n {
			e := sha256.Sum256([]byte{byte(i)})
			s.Add(e)
			x.Elements = append(x.Elements, e[:])
		}
		sum := s.Sum()
		x.State, x.Sum = s[:], sum[:]
		v.Sets = append(v.Sets, x)
	}
	return v
}
