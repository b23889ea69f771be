package acceptance

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust/keyring"
)

// What is planted, apart from what the made patients bring.
const (
	practiceName = "Praxis Dr. Quastenflößer"
	siteName     = "Zweigstelle Möwengrund"
	deviceName   = "Empfangstresen-Süd"
	otherSite    = "Hausbesuch Käferheide"
	otherDevice  = "Notarztkoffer-Nümbrecht"
	renamedTo    = "Labortisch-Grünspecht"
	userName     = "Dr. med. Übelhör-Vogelsang"
	familyName   = "Zwetschgenknödel"
	street       = "Schlüsselblumenweg 4711"
	insurance    = "X987654321"
	patientID    = "pat-quastenfloesser-0815"
	fileName     = "Arztbrief-Würfelqualle.json"
	lockName     = "Abrechnungslauf-Haselmaus"
	circleName   = "Rechnungskreis-Ochsenfrosch"
	itemName     = "Invoice/rechnung-zitronenfalter-77"
	reasonText   = "doppelt erfasst beim Siebenschläfer-Termin"
	breakText    = "Rechner-Blindschleiche ist abgestürzt"
)

// TestAnchorIsBlind lets a practice work over an anchor, and looks for what was planted in all that the anchor has, says and hears: its
// folder as it lies there and opened with its own key, its memory, its logs and answers, the traffic as it passes and as the anchor
// decrypts it. The same search finds all of it in a plain copy, in every form, and in the memory of an agent.
func TestAnchorIsBlind(t *testing.T) {
	patients := 1
	if os.Getenv("HEAVY") != "" {
		patients = 60
	}
	root := t.TempDir()
	temp := filepath.Join(root, "tmp")
	must(t, os.Mkdir(temp, 0o700))
	anchor := &running{t: t, name: "anker", dir: filepath.Join(root, "anker"), listen: []string{overTCP}, env: []string{"TMPDIR=" + temp, "GOTRACEBACK=all"}}
	anchor.start()
	t.Cleanup(func() {
		if anchor.cmd != nil {
			anchor.kill()
		}
	})
	m, err := multiaddr.NewMultiaddr(anchor.listen[0])
	must(t, err)
	na, err := manet.ToNetAddr(m)
	must(t, err)
	wire := newTap(t, na.String())
	tapped := anchor.at("tcp")
	tapped.Addrs = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/" + fmt.Sprint(portOf(wire)))}
	clear := newWiretap(t, anchor, tapped)

	// A practice begins, and works.
	a := newSite(t, root, "eins")
	recoveryCode := strings.TrimSpace(a.mustRun("init", "--practice", practiceName, "--site", siteName, "--device", deviceName))
	clear.knows(a)
	a.start()
	added, err := a.client.AddAnchor(t.Context(), api.AnchorRequest{Addresses: []string{clear.address()}, Name: "anker"})
	must(t, err)
	answers := anchor.admit(added.Token)
	a.syncsWith("anker")
	a.patients(11, patients)
	patient := fmt.Appendf(nil, `{"resourceType":"Patient","id":%q,"name":[{"family":%q}],"address":[{"line":[%q]}],"identifier":[{"system":"http://fhir.de/sid/gkv/kvid-10","value":%q}]}`,
		patientID, familyName, street, insurance)
	_, err = a.client.Put(t.Context(), userName, patient, false)
	must(t, err)
	file := filepath.Join(root, fileName)
	must(t, os.WriteFile(file, bytes.ReplaceAll(patient, []byte(patientID), []byte(patientID+"-2")), 0o600))
	a.mustRun("--user", userName, "import", file)

	// Another device joins by words, through the anchor.
	invite, err := a.client.Invite(t.Context(), api.InviteRequest{Yes: true})
	must(t, err)
	b := newSite(t, root, "zwei")
	until(t, 30*time.Second, "the anchor hears of the invitation", func() bool {
		_, err = b.run("join", invite.Words, "--site", otherSite, "--device", otherDevice, "--anchor", tapped.Addrs[0].String()+"/p2p/"+tapped.ID.String(), "--timeout", "5s")
		return err == nil
	})
	clear.knows(b)
	b.start()
	b.has("Patient/" + patientID)
	b.syncsWith("anker")
	must(t, a.client.SetOnline(t.Context(), false))
	o := b.get("Patient/" + patientID)
	o["birthDate"] = "1931-04-05"
	_, err = b.client.Put(t.Context(), userName, fhir.Canonical(o), false)
	must(t, err)
	b.syncsWith("anker")

	// The anchor keeps leases and numbers.
	must(t, a.client.SetOnline(t.Context(), true))
	a.syncsWith("anker")
	_, err = a.client.OpenCircle(t.Context(), api.CircleRequest{Name: circleName, First: 1, Last: 1000})
	must(t, err)
	if q, err := a.client.ChangeQuorum(t.Context(), api.QuorumChange{Add: []string{"anker"}}); err != nil || len(q.Voters) != 1 || !q.Voters[0].Anchor {
		t.Fatalf("the quorum is %+v (%v)", q, err)
	}
	_, err = a.client.AssignNumber(t.Context(), api.NumberRequest{Circle: circleName, Item: itemName})
	must(t, err)
	_, err = a.client.ResolveNumber(t.Context(), userName, api.ResolveRequest{Circle: circleName, Item: itemName, State: api.NumberVoid, Reason: reasonText})
	must(t, err)
	_, err = b.client.AcquireLease(t.Context(), userName, api.LeaseRequest{Name: lockName})
	must(t, err)
	_, err = a.client.BreakLease(t.Context(), userName, api.BreakRequest{Name: lockName, Reason: breakText})
	must(t, err)
	report, err := b.client.Numbers(t.Context(), circleName)
	if err != nil || len(report.Numbers) != 1 || report.Numbers[0].Reason != reasonText {
		t.Errorf("a device reads %+v (%v)", report, err)
	}
	must(t, a.client.SetOnline(t.Context(), false))
	dumps := [][]byte{memoryOf(t, anchor.cmd.Process.Pid)}
	must(t, a.client.SetOnline(t.Context(), true))
	must(t, a.client.Rename(t.Context(), api.RenameRequest{Device: otherDevice, Name: renamedTo}))
	_, err = a.client.Delete(t.Context(), userName, api.Ref{Type: "Patient", ID: patientID + "-2"})
	must(t, err)
	a.syncsWith("anker")
	dumps = append(dumps, memoryOf(t, anchor.cmd.Process.Pid))
	answers = append(answers, anchor.asks(http.MethodGet, "/v1/status", nil)...)
	held := anchor.chunks()
	agentMemory := memoryOf(t, a.cmd.Process.Pid)
	ofProcess := readFile(fmt.Sprintf("/proc/%d/cmdline", anchor.cmd.Process.Pid)) + readFile(fmt.Sprintf("/proc/%d/environ", anchor.cmd.Process.Pid))

	// All of it in plain.
	var plain bytes.Buffer
	plain.Write(a.export())
	plain.Write(patient)
	for _, text := range []string{practiceName, siteName, deviceName, otherSite, otherDevice, renamedTo, userName, fileName, lockName, circleName, itemName, reasonText, breakText, recoveryCode, invite.Words, invite.Code, invite.Link} {
		plain.WriteString(text + "\n")
	}
	var list []planted
	for what, text := range map[string]string{
		"the practice's name": practiceName, "a site's name": siteName, "the other site's name": otherSite, "a device's name": deviceName, "the other device's name": otherDevice,
		"a device's new name": renamedTo, "a user's name": userName, "a patient's name": familyName, "an address": street, "an insurance number": insurance,
		"a resource's ID": patientID, "a file's name": fileName, "a lock's name": lockName, "a circle's name": circleName, "an item's name": itemName,
		"why a number is void": reasonText, "why a lease was broken": breakText, "the recovery code": recoveryCode, "an invitation's words": invite.Words, "an invitation's code": invite.Code,
		"an invitation's link": invite.Link,
	} {
		list = append(list, planted{what, []byte(text), true})
	}
	ids := map[string]bool{}
	for line := range bytes.Lines(a.export()) {
		r, err := fhir.Parse(bytes.TrimSpace(line))
		must(t, err)
		if id := r.ID(); len(id) >= 10 && !strings.HasPrefix(id, patientID) && !ids[id] {
			ids[id] = true
			list = append(list, planted{fmt.Sprintf("the ID of resource %d", len(ids)), []byte(id), true})
		}
	}
	a.stop()
	b.stop()
	for i, id := range documentsOf(t, a) {
		list = append(list, planted{fmt.Sprintf("the ID of document %d", i), id, false})
		plain.Write(id)
	}
	n := newNeedles(t, list...)
	t.Logf("%d things were planted, in %d forms", len(list), len(n.forms))

	// What the anchor has.
	must(t, anchor.cmd.Process.Signal(syscall.SIGQUIT)) // it prints all of its stacks
	<-anchor.gone
	anchor.cmd = nil
	n.absent(t, "the anchor's log", anchor.log.Bytes())
	if !bytes.Contains(anchor.log.Bytes(), []byte("goroutine ")) {
		t.Error("the anchor's log has no stacks at its end")
	}
	n.absent(t, "the anchor's stdout", anchor.said.Bytes())
	n.absent(t, "the anchor's answers", answers)
	n.absent(t, "the anchor's command line and environment", []byte(ofProcess))
	size := n.absentBelow(t, "the anchor's folder", anchor.dir) + n.absentBelow(t, "its temporary files", temp)
	for i, dump := range dumps {
		n.absent(t, fmt.Sprintf("memory dump %d of the anchor", i), dump)
	}
	opened, pairs := openedStore(t, anchor)
	n.absent(t, "the anchor's store, opened with its key", opened)
	wire.mu.Lock()
	passed := bytes.Clone(wire.passed.Bytes())
	wire.mu.Unlock()
	n.absent(t, "the traffic", passed)
	said := clear.said()
	total := 0
	for proto, b := range said {
		n.absent(t, "what the anchor decrypts of "+string(proto), b)
		total += len(b)
	}
	t.Logf("searched: folder %d bytes, opened store %d bytes in %d pairs, memory %d and %d bytes, traffic %d bytes, decrypted %d bytes of %d protocols, log %d bytes",
		size, len(opened), pairs, len(dumps[0]), len(dumps[1]), len(passed), total, len(said), len(anchor.log.Bytes()))

	// The search was over what it says: what may be in clear is there.
	keys, err := keyring.Open(a.dir, nil)
	must(t, err)
	device := keys.Device()
	public := newNeedles(t, planted{"a device's key", device[:], false})
	for where, b := range map[string][]byte{"opened store": opened, "memory": dumps[0], "decrypted traffic": said["/chartmesh/sync/1.0.0"]} {
		if len(public.in(b)) == 0 {
			t.Errorf("the %s does not hold the device keys that it must: it was not what was searched", where)
		}
	}
	if held < 3 || pairs < int(held) {
		t.Errorf("the anchor holds %d chunks, and its store %d pairs", held, pairs)
	}
	for _, proto := range []string{"/chartmesh/sync/1.0.0", "/chartmesh/introduce/1.0.0", "/chartmesh/quorum/1", string(hopProtocol), string(stopProtocol)} {
		if !slices.Contains(slices.Collect(maps.Keys(said)), protocol.ID(proto)) {
			t.Errorf("nothing was said on %s", proto)
		}
	}
	if len(passed) < total {
		t.Errorf("%d bytes passed the wire, and %d were said", len(passed), total)
	}

	// The search can find it.
	seen := n.in(copies(plain.Bytes()))
	for form := range n.forms {
		if seen[form] == 0 {
			t.Errorf("the search does not find %s where it is", form)
		}
	}
	for _, want := range []string{"a patient's name", "the practice's name", "a resource's ID"} {
		if n.in(agentMemory)[want+" in UTF-8"] == 0 {
			t.Errorf("a dump of an agent's memory does not show %s: neither might one of the anchor's", want)
		}
	}
}

func portOf(w *tap) int {
	_, port, _ := strings.Cut(w.listener.Addr().String(), ":")
	var n int
	_, _ = fmt.Sscan(port, &n)
	return n
}

// copies writes a plain copy in every form in which things are looked for.
func copies(plain []byte) []byte {
	text := string(plain)
	folded := strings.NewReplacer("ä", "a", "ö", "o", "ü", "u", "ß", "ss").Replace(strings.ToLower(text))
	var b bytes.Buffer
	for _, as := range []string{text, strings.ToLower(text), strings.ToUpper(text), folded} {
		b.WriteString(as)
		units := utf16.Encode([]rune(as))
		for _, u := range units {
			b.Write([]byte{byte(u), byte(u >> 8)})
		}
		for _, u := range units {
			b.Write([]byte{byte(u >> 8), byte(u)})
		}
	}
	b.WriteString(escaped(text))
	b.WriteString(hex.EncodeToString(plain))
	b.WriteString(strings.ToUpper(hex.EncodeToString(plain)))
	for shift := range 3 {
		from := append(bytes.Repeat([]byte{' '}, shift), plain...)
		b.WriteString(base64.StdEncoding.EncodeToString(from) + "\n" + base64.URLEncoding.EncodeToString(from) + "\n")
	}
	return b.Bytes()
}

// memoryOf reads all memory of a process that can be read.
func memoryOf(t *testing.T, pid int) []byte {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	defer func() { _ = maps.Close() }()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer func() { _ = mem.Close() }()
	var all bytes.Buffer
	unread := 0
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' {
			continue
		}
		if _, err := io.Copy(&all, io.NewSectionReader(mem, from, to-from)); err != nil {
			unread++ // [vvar] and the like, and what was freed meanwhile
		}
	}
	if all.Len() < 16<<20 || unread > 8 {
		t.Fatalf("%d bytes of the memory were read, %d regions not", all.Len(), unread)
	}
	return all.Bytes()
}

// openedStore returns all keys and values of a copy of the anchor's store, opened with the key that follows from its identity.
func openedStore(t *testing.T, a *running) (all []byte, pairs int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join(a.dir, "store"))))
	s, err := storage.Open(dir, a.keys().Derive("store 1"), storage.Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	must(t, s.View(func(v storage.Reader) error {
		for _, kind := range storage.Kinds() {
			if kind.Number() < 0x10 {
				continue // the store's own
			}
			if err := v.Scan(kind.All(), nil, func(key, value []byte) error {
				all = append(append(all, key...), value...)
				pairs++
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}))
	return all, pairs
}

// documentsOf returns the IDs of a site's documents. No agent has its folder open.
func documentsOf(t *testing.T, s *site) (ids [][]byte) {
	t.Helper()
	keys, err := keyring.Open(s.dir, nil)
	must(t, err)
	store, err := storage.Open(filepath.Join(s.dir, "records"), keys.StoreKey(), storage.Options{})
	must(t, err)
	defer func() { must(t, store.Close()) }()
	seen := map[[32]byte]bool{}
	must(t, store.View(func(v storage.Reader) error {
		return v.Keys(storage.DocumentsOf.All(), nil, func(key []byte) error {
			_, _, id, err := storage.DocumentsOf.Parse(key)
			if !seen[id] {
				seen[id] = true
				ids = append(ids, bytes.Clone(id[:]))
			}
			return err
		})
	}))
	if len(ids) == 0 {
		t.Fatal("there are no documents")
	}
	return ids
}
