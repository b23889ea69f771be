package storage

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chartmesh/wire"
)

// HEADS is the store's sentinel beside the engine: the serial of a commit that is known to be durable, and every value
// of the mirrored kinds with the serial that wrote it. An engine that has lost its newest commits, or went back to older
// tables, holds a lower serial, or lacks one of these values or has an older one in its place.
//
//	"cmh" 1 | nonce 12 | AES-256-GCM( serial 8 | uvarint count | count × ( serial 8 | blob key | blob value ) )
//
// It is encrypted since keys and values are, and so that it gives no count away.
type heads struct {
	serial   uint64
	mirrored map[string]headValue
}

// headValue is a mirrored value and the serial of the commit that put it.
type headValue struct {
	serial uint64
	value  []byte
}

// mirrored reports whether the values of a kind stand in HEADS. They are small and few, each is only ever replaced, and
// none is removed: a value that is missing is damage.
func mirrored(kind byte) bool { return kind == LogHead.Number() }

var headsMagic = []byte{'c', 'm', 'h', 1}

const (
	maxMirrored  = 1 << 20 // values in HEADS
	maxHeadValue = 1 << 10
	nonceLen     = 12
)

func (s secrets) headsCipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.heads[:])
	if err != nil {
		return nil, fmt.Errorf("make the cipher of %s: %w", fileHeads, err)
	}
	return cipher.NewGCM(block)
}

func (h heads) seal(aead cipher.AEAD, nonce []byte) []byte {
	out := append(slices.Clone(headsMagic), nonce...)
	return aead.Seal(out, nonce, h.append(), headsMagic)
}

func (h heads) append() []byte {
	var w wire.Writer
	w.Uint64(h.serial)
	w.Uvarint(uint64(len(h.mirrored)))
	for _, key := range slices.Sorted(maps.Keys(h.mirrored)) {
		v := h.mirrored[key]
		w.Uint64(v.serial)
		w.Blob([]byte(key))
		w.Blob(v.value)
	}
	return w.Bytes()
}

func parseHeads(b []byte, aead cipher.AEAD) (h heads, err error) {
	bad := func(what string) (heads, error) {
		return heads{}, fmt.Errorf("%s: %w: %s", fileHeads, ErrDamaged, what)
	}
	if len(b) < len(headsMagic)+nonceLen || string(b[:len(headsMagic)]) != string(headsMagic) {
		return bad("it does not begin as one")
	}
	nonce := b[len(headsMagic):][:nonceLen]
	plain, err := aead.Open(nil, nonce, b[len(headsMagic)+nonceLen:], headsMagic)
	if err != nil {
		return bad("it does not open")
	}
	if h, err = parseHeadsBody(plain); err != nil {
		return bad("it is malformed")
	}
	return h, nil
}

func parseHeadsBody(plain []byte) (heads, error) {
	r := wire.NewReader(plain)
	h := heads{serial: r.Uint64(), mirrored: map[string]headValue{}}
	last := ""
	for i := range r.Uvarint(maxMirrored) {
		v := headValue{serial: r.Uint64()}
		key := string(r.Blob(MaxKey))
		v.value = slices.Clone(r.Blob(maxHeadValue))
		if i > 0 && key <= last {
			r.Fail("order of heads")
		}
		if r.Err() != nil {
			break
		}
		h.mirrored[key], last = v, key
	}
	return h, r.Close()
}

// Head is a mirrored value as HEADS has it.
type Head struct{ Key, Value []byte }

// ReadHeads returns what HEADS in dir says, without opening the store: what was durable before it was damaged.
func ReadHeads(dir string, key [32]byte) (serial uint64, list []Head, err error) {
	secrets, err := deriveSecrets(key)
	if err != nil {
		return 0, nil, err
	}
	aead, err := secrets.headsCipher()
	if err != nil {
		return 0, nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, fileHeads))
	if err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", fileHeads, err)
	}
	h, err := parseHeads(b, aead)
	for _, k := range slices.Sorted(maps.Keys(h.mirrored)) {
		list = append(list, Head{[]byte(k), h.mirrored[k].value})
	}
	return h.serial, list, err
}

// headsEvery is how often HEADS is written at most while commits go on. What a damaged engine loses of the time since is
// noticed by its logs (inspectLog) or by nothing.
const headsEvery = time.Second

// headKeeper holds what HEADS shall say and writes it in the background, so that no commit waits for it.
type headKeeper struct {
	name string
	aead cipher.AEAD
	warn func(error)

	file sync.Mutex // held while the file is written
	mu   struct {
		sync.Mutex
		now     heads
		written uint64 // the serial in the file
		timer   *time.Timer
		ended   bool
	}
}

// note takes what a commit made durable. The batches are those of the commit.
func (k *headKeeper) note(serial uint64, group []*request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.now.serial = serial
	for _, r := range group {
		for _, op := range r.batch.ops {
			if mirrored(op.key[0]) {
				k.mu.now.mirrored[string(op.key)] = headValue{serial, slices.Clone(op.value)}
			}
		}
	}
	if k.mu.timer == nil && !k.mu.ended {
		k.mu.timer = time.AfterFunc(headsEvery, k.flush)
	}
}

// flush writes the file in the background. A failure only makes damage harder to notice; the next try comes with the next
// second.
func (k *headKeeper) flush() {
	if err := k.write(); err != nil {
		k.warn(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.timer = nil
	if k.mu.written < k.mu.now.serial && !k.mu.ended {
		k.mu.timer = time.AfterFunc(headsEvery, k.flush)
	}
}

// write makes the file say what is durable now.
func (k *headKeeper) write() error {
	k.file.Lock()
	defer k.file.Unlock()
	k.mu.Lock()
	now := heads{k.mu.now.serial, maps.Clone(k.mu.now.mirrored)}
	written := k.mu.written
	k.mu.Unlock()
	if now.serial == written {
		return nil
	}
	nonce := make([]byte, nonceLen)
	if _, err := rand.Read(nonce); err != nil {
		return fmt.Errorf("write %s: %w", fileHeads, err)
	}
	if err := replaceFile(k.name, now.seal(k.aead, nonce)); err != nil {
		return fmt.Errorf("write %s: %w", fileHeads, err)
	}
	k.mu.Lock()
	k.mu.written = now.serial
	k.mu.Unlock()
	return nil
}

// stop ends the writing in the background.
func (k *headKeeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.ended = true
	if k.mu.timer != nil {
		k.mu.timer.Stop()
	}
}

// end writes the file a last time and stops writing it.
func (k *headKeeper) end() error {
	k.stop()
	return k.write()
}

// readHeads reads the sentinel: HEADS, or MARK of a folder of version 1. A zero serial says that there is none.
func (d *disk) readHeads() (heads, error) {
	b, err := os.ReadFile(d.heads.name)
	if err == nil {
		return parseHeads(b, d.heads.aead)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return heads{}, err
	}
	b, err = os.ReadFile(filepath.Join(d.dir, fileMark))
	if errors.Is(err, fs.ErrNotExist) {
		return heads{}, nil
	}
	if err != nil {
		return heads{}, err
	}
	serial, err := parseMark(b, d.tags)
	return heads{serial: serial}, err
}

// compareHeads holds the engine against the sentinel, and takes over what it holds of the mirrored kinds.
func (d *disk) compareHeads(h heads) error {
	switch have := d.serial.Load(); {
	case have < h.serial:
		return fmt.Errorf("%w: it holds commits up to %d, but %d was durable", ErrDamaged, have, h.serial)
	case have > 1 && h.serial == 0: // it is written right after the first commit
		return fmt.Errorf("%s is missing: %w", fileHeads, ErrDamaged)
	}
	held := map[string]headValue{}
	err := d.View(func(r Reader) error {
		for _, k := range kinds {
			if !mirrored(k.number) {
				continue
			}
			if err := r.(*diskReader).eachVersion(k.All(), func(key, value []byte, serial uint64) {
				held[string(key)] = headValue{serial, value}
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, want := range h.mirrored {
		switch have, ok := held[key]; {
		case !ok:
			return fmt.Errorf("%w: a %s that was durable is missing", ErrDamaged, kindOf([]byte(key)))
		case have.serial < want.serial:
			return fmt.Errorf("%w: a %s lies behind what was durable", ErrDamaged, kindOf([]byte(key)))
		case have.serial == want.serial && string(have.value) != string(want.value):
			return fmt.Errorf("%w: a %s is not what was durable", ErrDamaged, kindOf([]byte(key)))
		}
	}
	d.heads.mu.Lock()
	defer d.heads.mu.Unlock()
	d.heads.mu.now = heads{d.serial.Load(), held}
	d.heads.mu.written = h.serial
	return nil
}
