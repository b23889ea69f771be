// Package compat packs the folders that builds write, for tests by which later builds open them.
package compat

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What stands in the folder of one build: what it wrote, and what that must still say.
const (
	folderName = "folder.tar.gz"
	stateName  = "state.json"
)

// Each runs fn for every folder that earlier builds wrote below at, each unpacked for this test alone, with what it must still say. The
// test fails if there is none.
func Each(t *testing.T, at string, fn func(t *testing.T, dir string, state []byte)) {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(at, "*", folderName))
	must(t, err)
	if len(archives) == 0 {
		t.Fatal("there is no folder of an earlier build")
	}
	for _, archive := range archives {
		build := filepath.Dir(archive)
		t.Run(filepath.Base(build), func(t *testing.T) {
			state, err := os.ReadFile(filepath.Join(build, stateName))
			must(t, err)
			dir := filepath.Join(t.TempDir(), "data")
			Open(t, build, dir)
			fn(t, dir, state)
		})
	}
}

// Open unpacks the folder of one build.
func Open(t testing.TB, build, dir string) {
	t.Helper()
	unpack(t, filepath.Join(build, folderName), dir)
}

// Keep packs a folder for later builds, with what it says.
func Keep(t testing.TB, dir string, state []byte, build string) {
	t.Helper()
	must(t, os.MkdirAll(build, 0o755))
	must(t, os.WriteFile(filepath.Join(build, stateName), state, 0o644))
	pack(t, dir, filepath.Join(build, folderName))
}

// pack writes a folder to an archive.
func pack(t testing.TB, dir, archive string) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	must(t, err)
	w := tar.NewWriter(z)
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		h := &tar.Header{Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm())}
		if e.IsDir() {
			h.Typeflag = tar.TypeDir
			return w.WriteHeader(h)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	}))
	must(t, w.Close())
	must(t, z.Close())
	must(t, os.WriteFile(archive, b.Bytes(), 0o644))
}

// unpack writes an archive's folder.
func unpack(t testing.TB, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	z, err := gzip.NewReader(f)
	must(t, err)
	must(t, os.MkdirAll(dir, 0o700))
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if !filepath.IsLocal(filepath.FromSlash(h.Name)) {
			t.Fatalf("%s leads out of the folder", h.Name)
		}
		if h.Typeflag == tar.TypeDir {
			must(t, os.MkdirAll(path, fs.FileMode(h.Mode)))
			continue
		}
		content, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(path, content, fs.FileMode(h.Mode)))
	}
}
