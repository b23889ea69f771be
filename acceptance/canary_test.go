package acceptance

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/p2p"
)

const canary = "Zwetschgenknödel-Canary"

// forms returns every form in which a name is looked for.
func forms(name string) map[string][]byte {
	var le, be []byte
	for _, u := range utf16.Encode([]rune(name)) {
		le = append(le, byte(u), byte(u>>8))
		be = append(be, byte(u>>8), byte(u))
	}
	out := map[string][]byte{
		"UTF-8": []byte(name), "UTF-16LE": le, "UTF-16BE": be,
		"hex": []byte(hex.EncodeToString([]byte(name))), "HEX": []byte(strings.ToUpper(hex.EncodeToString([]byte(name)))),
		"escaped": []byte(strings.ReplaceAll(name, "ö", `\u00f6`)), "lower": []byte(strings.ToLower(name)),
		"folded": []byte("zwetschgenknodel"),
	}
	for shift := range 3 { // base64 of a text that stands anywhere in another
		padded := append(bytes.Repeat([]byte{'x'}, shift), name...)
		enc := base64.StdEncoding.EncodeToString(padded)
		out[fmt.Sprintf("base64+%d", shift)] = []byte(enc[4 : len(enc)-4])
	}
	return out
}

// search looks through every file below a folder and returns where a form was found.
func search(t *testing.T, root string) (found []string, files int) {
	t.Helper()
	looked := forms(canary)
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for form, look := range looked {
			if bytes.Contains(b, look) || strings.Contains(path, string(look)) {
				found = append(found, form+" in "+path)
			}
		}
		return nil
	}))
	return found, files
}

// tap is a TCP relay that keeps what passes.
type tap struct {
	listener net.Listener
	mu       sync.Mutex
	passed   bytes.Buffer
}

func (w *tap) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed.Write(p)
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &tap{listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(io.MultiWriter(out, w), in); _ = out.Close() }()
			go func() { _, _ = io.Copy(io.MultiWriter(in, w), out); _ = in.Close() }()
		}
	}()
	return w
}

// TestCanary plants a name in the records, lets two sites work with it, kills one, and looks for it in their folders,
// logs, temporary files and on the wire.
func TestCanary(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	temp := filepath.Join(root, "tmp")
	must(t, os.Mkdir(temp, 0o700))
	env := []string{"TMPDIR=" + temp, "GOTRACEBACK=all"}
	a := newSite(t, root, "surgery")
	a.tcp, a.env = true, env
	a.mustRun("init", "--practice", "Praxis", "--site", "surgery", "--device", "surgery")
	a.start()
	st, err := a.client.Status(t.Context(), "")
	must(t, err)
	m, err := multiaddr.NewMultiaddr(st.Addresses[0])
	must(t, err)
	bare, _ := multiaddr.SplitLast(m)
	na, err := manet.ToNetAddr(bare)
	must(t, err)
	w := newTap(t, na.String())
	port := w.listener.Addr().(*net.TCPAddr).Port

	code, err := p2p.ParseCode(a.invite())
	must(t, err)
	code.Addrs = []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)}
	text, err := code.Text()
	must(t, err)
	b := newSite(t, root, "branch")
	b.tcp, b.env = true, env
	b.mustRun("join", text, "--site", "branch", "--device", "branch")
	b.start()
	b.inSync()

	patient := fmt.Sprintf(`{"resourceType":"Patient","id":"canary","name":[{"family":%q}],"identifier":[{"system":"urn:x","value":%q}]}`, canary, canary)
	for _, s := range []*site{a, b} {
		_, err := s.put([]byte(strings.ReplaceAll(patient, `"canary"`, `"canary-`+s.name+`"`)), false)
		must(t, err)
	}
	file := filepath.Join(t.TempDir(), "in.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"resourceType":"Bundle","type":"collection","entry":[{"resource":%s},{"resource":{"id":"bad","name":%q}}]}`, patient, canary), 0o600))
	_, err = b.run("import", file) // with an entry that is refused
	if err == nil {
		t.Error("a bad entry was not refused")
	} else if strings.Contains(err.Error(), canary) {
		t.Errorf("the refusal quotes the record: %v", err)
	}
	if _, err := a.put([]byte(`{"resourceType":"Patient","id":"canary-surgery","name":"`+canary+`"`), false); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("a broken file: %v", err)
	}
	for _, s := range []*site{a, b} {
		m, err := s.client.Find(t.Context(), canary, 10)
		must(t, err)
		if len(m) == 0 {
			t.Fatalf("%s does not find its own canary", s.name)
		}
	}
	b.inSync()
	must(t, a.client.SetOnline(t.Context(), false))
	b.kill()
	b.start()
	must(t, a.client.SetOnline(t.Context(), true))
	b.inSync()

	for _, dir := range []string{a.dir, b.dir, temp} {
		found, files := search(t, dir)
		if len(found) > 0 {
			t.Errorf("the name is readable: %v", found)
		}
		t.Logf("%d files searched", files)
	}
	a.stop()
	b.stop()
	found, _ := search(t, root)
	if len(found) > 0 {
		t.Errorf("the name is readable after the agents stopped: %v", found)
	}
	logs, wire := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "wire")
	must(t, os.WriteFile(logs, append(a.log.Bytes(), b.log.Bytes()...), 0o600))
	w.mu.Lock()
	must(t, os.WriteFile(wire, w.passed.Bytes(), 0o600))
	passed := w.passed.Len()
	w.mu.Unlock()
	if passed < 5_000 {
		t.Errorf("only %d bytes went over the tapped wire", passed)
	}
	for _, f := range []string{logs, wire} {
		if found, _ := search(t, f); len(found) > 0 {
			t.Errorf("the name is readable: %v", found)
		}
	}
	t.Logf("%d bytes of log and %d bytes of the wire searched", a.log.Len()+b.log.Len(), passed)

	// The same search finds the name where it is meant to be readable.
	plain := t.TempDir()
	a.start()
	must(t, os.WriteFile(filepath.Join(plain, "export"), a.export(), 0o600))
	var le bytes.Buffer
	for form, look := range forms(canary) {
		if strings.HasPrefix(form, "base64") || form == "escaped" {
			continue
		}
		le.Write(look)
	}
	le.WriteString(base64.StdEncoding.EncodeToString([]byte(patient)))
	le.WriteString(strings.ReplaceAll(patient, "ö", `\u00f6`))
	must(t, os.WriteFile(filepath.Join(plain, "all"), le.Bytes(), 0o600))
	inPlain, _ := search(t, plain)
	kinds := map[string]bool{}
	for _, f := range inPlain {
		kinds[strings.SplitN(strings.Fields(f)[0], "+", 2)[0]] = true
	}
	for _, want := range []string{"UTF-8", "UTF-16LE", "UTF-16BE", "hex", "HEX", "escaped", "folded", "base64"} {
		if !kinds[want] {
			t.Errorf("the search is blind to %s", want)
		}
	}
}
