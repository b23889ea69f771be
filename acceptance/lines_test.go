package acceptance

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
)

// eachLine calls fn for every line of r, which may be gzipped.
func eachLine(r io.Reader, fn func([]byte)) error {
	b := bufio.NewReaderSize(r, 1<<20)
	if magic, _ := b.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		b = bufio.NewReaderSize(z, 1<<20)
	}
	for {
		line, err := b.ReadBytes('\n')
		if len(line) > 1 {
			fn(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
