package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"chartmesh/p2p"
)

// wordList is where the words stand that a guess is made of.
var wordList = func() []string {
	data, err := os.ReadFile(filepath.Join("..", "..", "p2p", "words.txt"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}()

// scriptGuess makes guesses as somebody would who heard the first two words of an invitation: the rest is wrong, and the
// checksum fits, or the guesser's own program would keep it from being sent.
func scriptGuess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: guess FILE")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	right := strings.Fields(lines[len(lines)-1])
	if len(right) != 5 {
		ts.Fatalf("%s does not end with five words", args[0])
	}
	made := 0
	for _, fourth := range wordList {
		for _, last := range wordList {
			guess := strings.Join(append(right[:3:3], fourth, last), " ")
			if _, err := p2p.ParseWords(guess); err != nil || fourth == right[3] {
				continue
			}
			if made++; made > 5 {
				return
			}
			ts.Check(os.WriteFile(ts.MkAbs(fmt.Sprintf("guess%d", made)), []byte(guess+"\n"), 0o600))
		}
	}
}
