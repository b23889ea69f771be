package keyring

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// secretService is org.freedesktop.secrets with one collection, as far as it is spoken to.
type secretService struct {
	conn *dbus.Conn
	mu   sync.Mutex
	made int
	held map[dbus.ObjectPath]secretItem
}

type secretItem struct {
	service    *secretService
	path       dbus.ObjectPath
	attributes map[string]string
	secret     secretValue
}

type secretValue struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

func (s *secretService) OpenSession(string, dbus.Variant) (dbus.Variant, dbus.ObjectPath, *dbus.Error) {
	return dbus.MakeVariant(""), "/org/freedesktop/secrets/session/1", nil
}

func (s *secretService) Unlock(paths []dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	return paths, "/", nil
}

func (s *secretService) Close() *dbus.Error { return nil }

func (s *secretService) CreateItem(properties map[string]dbus.Variant, secret secretValue, _ bool) (dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	i := secretItem{service: s, path: dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/secrets/collection/login/%d", s.made)), secret: secret}
	i.attributes, _ = properties["org.freedesktop.Secret.Item.Attributes"].Value().(map[string]string)
	s.held[i.path] = i
	if err := s.conn.Export(i, i.path, "org.freedesktop.Secret.Item"); err != nil {
		return "/", "/", dbus.MakeFailedError(err)
	}
	return i.path, "/", nil
}

func (s *secretService) SearchItems(search map[string]string) ([]dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []dbus.ObjectPath{}
	for path, i := range s.held {
		if maps.Equal(i.attributes, search) {
			found = append(found, path)
		}
	}
	return found, nil
}

func (i secretItem) GetSecret(session dbus.ObjectPath) (secretValue, *dbus.Error) {
	i.secret.Session = session
	return i.secret, nil
}

func (i secretItem) Delete() (dbus.ObjectPath, *dbus.Error) {
	i.service.mu.Lock()
	defer i.service.mu.Unlock()
	delete(i.service.held, i.path)
	return "/", nil
}

func (s *secretService) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// TestSecretService: the file opens by what the Secret Service of a session keeps, which the protocol of D-Bus has carried.
func TestSecretService(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	if err := (systemKeychain{}).Set("name", []byte("secret")); !errors.Is(err, ErrNoKeychain) {
		t.Errorf("without a session: %v", err)
	}
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("there is no dbus-daemon")
	}
	bus := exec.Command(program, "--session", "--nofork", "--print-address=1", "--address=unix:dir="+t.TempDir())
	out, err := bus.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bus.Process.Kill()
		_ = bus.Wait()
	}()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", strings.TrimSpace(address))

	conn, err := dbus.Connect(strings.TrimSpace(address))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s := &secretService{conn: conn, held: map[dbus.ObjectPath]secretItem{}}
	for path, as := range map[dbus.ObjectPath]string{
		"/org/freedesktop/secrets":                 "org.freedesktop.Secret.Service",
		"/org/freedesktop/secrets/session/1":       "org.freedesktop.Secret.Session",
		"/org/freedesktop/secrets/aliases/default": "org.freedesktop.Secret.Collection",
	} {
		if err := conn.Export(s, path, as); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName("org.freedesktop.secrets", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}

	dir := filepath.Join(t.TempDir(), "data")
	k, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.ProtectByKeychain(); err != nil || s.count() != 1 {
		t.Fatalf("%v, %d entries", err, s.count())
	}
	again, err := Open(dir, nil)
	if err != nil || again.StoreKey() != k.StoreKey() {
		t.Fatal(err)
	}
	if err := again.Protect(nil); err != nil || s.count() != 0 {
		t.Errorf("%v, %d entries left", err, s.count())
	}
	if err := again.ProtectByKeychain(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	clear(s.held)
	s.mu.Unlock()
	if _, err := Open(dir, nil); !errors.Is(err, ErrKeychainEntry) {
		t.Errorf("after the keychain was reset: %v", err)
	}
}
