// Command dictionary makes chunk/dictionary1.bin, the compression dictionary that package chunk embeds.
//
//	go run ./internal/dictionary -out chunk/dictionary1.bin
//
// Nouns: a group, what one author could have written (one patient's record, or the same forms filled in once); a sample,
// one raw Automerge change of a group, made in the way of an import or an edit; the dictionary, strings that many groups
// have in common.
//
// Guarantees: the same sources make the same dictionary, byte for byte. It is made of the synthetic patients of this
// project and of forms written by hand in templates.jsonl, and of nothing else. Whatever names or numbers a person, a
// document or a device is replaced by other letters and digits in every group before it is written, and what is not in
// at least five groups stays out, so that no such string gets into it.
//
// Dictionary 1 is sealed into chunks and never changes. When the sources change, what this makes is no longer that
// dictionary: it may become another one, under another number (docs/decisions/0015-compression-dictionary.md).
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
)

// What dictionary 1 was made with.
const (
	least = 5        // groups in which every eight bytes must occur
	size  = 64 << 10 // bytes at most; what there is in common ends before
)

func main() {
	out := flag.String("out", "", "`file` to be written")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "dictionary:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	groups, err := samples(context.Background())
	if err != nil {
		return err
	}
	dict := train(groups, least, size)
	if err := os.WriteFile(out, dict, 0o644); err != nil {
		return err
	}
	fmt.Printf("%d groups, samples %x\n%d bytes, SHA-256 %x\n", len(groups), digest(groups), len(dict), sha256.Sum256(dict))
	return nil
}
