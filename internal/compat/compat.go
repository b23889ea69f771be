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

// Pack writes a folder to an archive.
func Pack(t testing.TB, dir, archive string) {
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

// Unpack writes an archive's folder.
func Unpack(t testing.TB, archive, dir string) {
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
