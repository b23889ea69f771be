package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
)

// A store that may be damaged is opened, and read, in a process of its own first: the storage engine can end the process
// on what its checks let pass, and print what it had decrypted. The child is this binary, run again:
//
//	stdin   key 32 | folder
//	stdout  of "open": nothing, or why it does not open
//	        of "salvage": pairs, each length of key 4 | length of value 4 | key | value, and at the end a key of no length
//
// Its stderr is dropped unread, since a panic may print keys.
const (
	childArgument = "store-child"
	childMark     = "CHARTMESH_STORE_CHILD"

	childDamaged = 10
	childFailed  = 11

	maxReason = 1024
)

// ChildMain runs the child of an agent, or of its engine, and ends the process if this process is one; else it returns at
// once. It must come first in main and in TestMain of every binary that opens an agent.
func ChildMain() {
	engine.ChildMain()
	if len(os.Args) != 3 || os.Args[1] != childArgument || os.Getenv(childMark) == "" {
		return
	}
	noCores()
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	err := runChild(os.Args[2], bufio.NewReader(os.Stdin), out)
	code := 0
	switch {
	case errors.Is(err, storage.ErrDamaged):
		code = childDamaged
	case err != nil:
		code = childFailed
	}
	if err != nil && os.Args[2] == "open" {
		_, _ = out.WriteString(err.Error())
	}
	if out.Flush() != nil && code == 0 {
		code = childFailed
	}
	os.Exit(code)
}

func runChild(what string, in io.Reader, out io.Writer) error {
	var key [32]byte
	if _, err := io.ReadFull(in, key[:]); err != nil {
		return err
	}
	dir, err := io.ReadAll(io.LimitReader(in, 1<<16))
	if err != nil {
		return err
	}
	switch what {
	case "open":
		store, err := storage.Open(string(dir), key, storage.Options{})
		if err != nil {
			return err
		}
		return store.Close()
	case "salvage":
		_, err := storage.Salvage(string(dir), key, replica.SalvagedKinds(), func(k, v []byte) error {
			return writePair(out, k, v)
		})
		return errors.Join(err, writePair(out, nil, nil))
	}
	return errors.New("unknown verb")
}

func writePair(out io.Writer, key, value []byte) error {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(key)))
	head = binary.BigEndian.AppendUint32(head, uint32(len(value)))
	for _, b := range [][]byte{head, key, value} {
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// readPairs calls fn for every pair of a stream, and reports whether it came to its end.
func readPairs(in io.Reader, fn func(key, value []byte) error) (whole bool, err error) {
	r := bufio.NewReaderSize(in, 1<<20)
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false, nil //nolint:nilerr // the child ended early: what it sent before counts
		}
		k, v := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
		if k == 0 {
			return true, nil
		}
		if k > storage.MaxKey || v > storage.MaxValue {
			return false, nil
		}
		b := make([]byte, k+v)
		if _, err := io.ReadFull(r, b); err != nil {
			return false, nil //nolint:nilerr // likewise
		}
		if err := fn(b[:k], b[k:]); err != nil {
			return false, err
		}
	}
}

// child makes the command of a child, with what it reads from stdin.
func child(ctx context.Context, what, dir string, key [32]byte) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, path, childArgument, what)
	cmd.Env = []string{childMark + "=1", "GOTRACEBACK=none"}
	for _, name := range []string{"TMPDIR", "TMP", "TEMP", "SystemRoot"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Stdin = bytes.NewReader(append(key[:], dir...))
	return cmd, nil
}

// errCrashed says that opening the store ended a process.
var errCrashed = errors.New("opening it ended the process that did")

// tryStore opens and closes a store in a process of its own. It returns what is wrong with the store, which is
// storage.ErrDamaged when that is damage; a process that ended without a word is asked a second time before that is held
// against the store.
func tryStore(ctx context.Context, dir string, key [32]byte) error {
	var last error
	for range 2 {
		cmd, err := child(ctx, "open", dir, key)
		if err != nil {
			return err
		}
		var out strings.Builder
		cmd.Stdout = &limited{to: &out, left: maxReason}
		err = cmd.Run()
		exit, ended := errors.AsType[*exec.ExitError](err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !ended:
			return fmt.Errorf("open the store in a process of its own: %w", err)
		case exit.ExitCode() == childDamaged:
			return fmt.Errorf("%w: %s", storage.ErrDamaged, strings.TrimPrefix(out.String(), storage.ErrDamaged.Error()+": "))
		case exit.ExitCode() == childFailed:
			return nil // this process will see it, too, and with its class
		}
		last = fmt.Errorf("%w: %w", storage.ErrDamaged, errCrashed)
	}
	return last
}

// limited writes no more than so many bytes on, and takes all.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// salvage reads a damaged store in a process of its own. It reports whether that came to its end.
func salvage(ctx context.Context, dir string, key [32]byte, fn func(key, value []byte) error) (whole bool, err error) {
	cmd, err := child(ctx, "salvage", dir, key)
	if err != nil {
		return false, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("read the damaged store in a process of its own: %w", err)
	}
	whole, err = readPairs(out, fn)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	ended := cmd.Wait()
	return whole && ended == nil, err
}
