package storage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/y"
)

// The engine's logs (.mem) hold what is not in tables yet:
//
//	key ID 8 | IV 12 | entries, each: meta 1 | user meta 1 | uvarint length of key, of value, expiry | key and value, encrypted | CRC-32C 4
//
// A file is made at its whole length, of zeros, and cut to its content when it is replayed. A transaction is entries of
// one version and, last, a mark with that version. Each is synced before the next begins, so that what a crash leaves
// torn is one transaction at the end; the engine drops it. It drops everything from the first damage on in the same way,
// which is how inspectLog tells them apart: after damage, the log goes on, or the last transaction has its end and all of
// its sectors.
const (
	logHead      = 20
	logFileBytes = 2 * memTableSize
	logSector    = 512 // the least that a disk writes
	extLog       = ".mem"

	metaDelete = 1 << 0
	metaTxn    = 1 << 6
	metaFin    = 1 << 7
	maxLogKey  = MaxKey + 64
	maxLogVal  = segmentLen + MaxKey
)

// logEntry is an entry as it stands in the file; data is key and value, encrypted.
type logEntry struct {
	at   int
	meta byte
	klen int
	data []byte
	next int
}

// parseLogEntry reads the entry at an offset. An entry whose sum is wrong is none.
func parseLogEntry(b []byte, at int) (e logEntry, ok bool) {
	rest := b[at:]
	if len(rest) < 2+3+4 || rest[1] != 0 || rest[0]&^(metaDelete|metaTxn|metaFin) != 0 {
		return e, false
	}
	n := 2
	var sizes [3]uint64
	for i := range sizes {
		v, used := binary.Uvarint(rest[n:])
		if used <= 0 {
			return e, false
		}
		sizes[i], n = v, n+used
	}
	if sizes[0] == 0 || sizes[0] > maxLogKey || sizes[1] > maxLogVal || sizes[2] != 0 {
		return e, false
	}
	end := n + int(sizes[0]+sizes[1])
	if end+4 > len(rest) || crc32.Checksum(rest[:end], y.CastagnoliCrcTable) != binary.BigEndian.Uint32(rest[end:]) {
		return e, false
	}
	return logEntry{at: at, meta: rest[0], klen: int(sizes[0]), data: rest[n:end], next: at + end + 4}, true
}

// logFile is a log's content, and what opens it.
type logContent struct {
	b   []byte
	key []byte
	iv  []byte
}

func openLog(name string, registry *badger.KeyRegistry) (l logContent, err error) {
	if l.b, err = os.ReadFile(name); err != nil || len(l.b) < logHead {
		return l, err
	}
	if id := binary.BigEndian.Uint64(l.b); id != 0 || !empty(l.b) {
		dataKey, err := registry.DataKey(id)
		if err != nil {
			return l, damageBy(err)
		}
		if dataKey == nil {
			return l, fmt.Errorf("%w: it names no key", ErrDamaged)
		}
		l.key, l.iv = dataKey.Data, l.b[8:logHead]
	}
	return l, nil
}

func empty(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// open decrypts an entry. The key has the engine's version at its end.
func (l logContent) open(e logEntry) (key, value []byte, version uint64, err error) {
	iv := make([]byte, 16)
	copy(iv, l.iv)
	binary.BigEndian.PutUint32(iv[12:], uint32(e.at))
	plain, err := y.XORBlockAllocate(e.data, l.key, iv)
	if err != nil {
		return nil, nil, 0, damageBy(err)
	}
	key, value = plain[:e.klen], plain[e.klen:]
	if e.meta&metaFin != 0 {
		if version, err = strconv.ParseUint(string(value), 10, 64); err != nil {
			return nil, nil, 0, fmt.Errorf("%w: a transaction's end is malformed", ErrDamaged)
		}
		return key, value, version, nil
	}
	if len(key) <= 8 {
		return nil, nil, 0, fmt.Errorf("%w: a key is too short", ErrDamaged)
	}
	return y.ParseKey(key), value, y.ParseTs(key), nil
}

// walk calls fn for the entries of every whole transaction up to the first that is torn or damaged, and returns where
// that begins and the last version before it.
func (l logContent) walk(fn func(e logEntry, key, value []byte, version uint64)) (end int, last uint64, err error) {
	if len(l.b) < logHead || l.key == nil {
		return len(l.b), 0, nil
	}
	type opened struct {
		e          logEntry
		key, value []byte
	}
	var txn []opened
	var version uint64
	end = logHead
	for at := logHead; at < len(l.b); {
		e, ok := parseLogEntry(l.b, at)
		if !ok {
			break
		}
		key, value, v, err := l.open(e)
		switch {
		case err != nil:
			return end, last, err
		case version != 0 && v != version:
			return end, last, fmt.Errorf("%w: a transaction has two versions", ErrDamaged)
		}
		version, at = v, e.next
		if e.meta&metaFin == 0 {
			if fn != nil {
				txn = append(txn, opened{e, key, value})
			}
			continue
		}
		for _, o := range txn {
			fn(o.e, o.key, o.value, v)
		}
		txn, version, last, end = txn[:0], 0, v, at
	}
	return end, last, nil
}

// goesOn reports whether what a log holds behind an offset at which it cannot be read shows that it is damaged there, and
// not torn by a crash: a transaction's end and something after it, or the end of a transaction that was written in full.
func (l logContent) goesOn(from int) bool {
	content := len(bytes.TrimRight(l.b, "\x00"))
	over := 0
	for at := from; at < content; {
		e, ok := parseLogEntry(l.b, at)
		if !ok {
			at++
			continue
		}
		if over > 0 {
			return true
		}
		if at = e.next; e.meta&metaFin != 0 {
			over = e.next
		}
	}
	return over > 0 && written(l.b[from:over], from)
}

// written reports whether nothing of what stands at an offset of a log is missing. Where a crash kept something from the
// disk there are still the zeros of which the file was made, up to the end of a sector; entries have no such runs.
func written(b []byte, at int) bool {
	if bytes.Contains(b, make([]byte, 4)) {
		return false
	}
	for end := (at/logSector + 1) * logSector; end <= at+len(b); end += logSector {
		if b[end-at-1] == 0 {
			return false
		}
	}
	return true
}

// inspectLog reads a log and returns the first and the last version of the whole transactions in it, 0 if it has none.
func inspectLog(name string, registry *badger.KeyRegistry) (first, last uint64, err error) {
	l, err := openLog(name, registry)
	if err != nil {
		return 0, 0, err
	}
	end, last, err := l.walk(func(_ logEntry, _, _ []byte, version uint64) {
		if first == 0 {
			first = version
		}
	})
	switch {
	case err != nil:
		return first, last, err
	case len(l.b) < logFileBytes && end < len(l.b) && len(l.b) >= logHead:
		return first, last, fmt.Errorf("%w: it was cut short", ErrDamaged)
	case l.goesOn(end):
		return first, last, fmt.Errorf("%w: it goes on behind what cannot be read", ErrDamaged)
	}
	return first, last, nil
}

// fullLogs returns the logs that hold something, in the order in which the engine wrote them.
func fullLogs(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+extLog))
	if err != nil {
		return nil, err
	}
	number := map[string]uint64{}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.Size() == 0 {
			continue
		}
		if number[name], err = strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), extLog), 10, 32); err != nil {
			return nil, fmt.Errorf("%w: a log has the name %q", ErrDamaged, filepath.Base(name))
		}
	}
	return slices.SortedFunc(maps.Keys(number), func(a, b string) int { return cmp.Compare(number[a], number[b]) }), nil
}

// removeEmpty removes logs and value logs of no length, over which the engine would not open. A process that is ended
// leaves one behind: the engine makes each file before it gives it a length, and takes the length before it removes it. By
// then what was in it is in tables. That one emptied by damage takes commits along is for inspect to notice, before; value
// logs hold nothing (engineOptions).
func removeEmpty(dir string) error {
	for _, ext := range []string{extLog, ".vlog"} {
		names, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		if err != nil {
			return err
		}
		for _, name := range names {
			info, err := os.Stat(name)
			if err == nil && info.Size() == 0 {
				err = os.Remove(name)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
