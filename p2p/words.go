package p2p

import (
	"crypto/hmac"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"chartmesh/p2p/lan"
)

// Words are a code that can be read over the telephone: five words, of which the first two say which invitation it is and
// are no secret, and the last three hold a secret of 25 bits and a checksum of 8. Guessing is made hopeless by the exchange,
// which takes a try for each guess, and not by the secret's length.
type Words struct {
	Locator lan.Locator
	secret  uint32
}

// String shows what is public.
func (w Words) String() string { return "invitation " + LocatorWords(w.Locator) }

// GoString hides the secret.
func (w Words) GoString() string { return w.String() }

// ErrWords says that a text is not a code of words: a word is unknown, misheard or missing.
var ErrWords = errors.New("these are not the words of an invitation")

const (
	wordBits     = 11
	wordCount    = 5
	locatorWords = 2
	secretBits   = 25
	checkBits    = 8
)

// wordList is that of BIP 39, in English: 2,048 words, no two of which begin with the same four letters. Ascending.
//
//go:embed words.txt
var wordText string

var wordList = strings.Fields(wordText)

// NewWords draws words from random.
func NewWords(random io.Reader) (Words, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Words{}, fmt.Errorf("make invitation: %w", err)
	}
	return Words{
		Locator: lan.Locator(binary.BigEndian.Uint32(b[:4]) & (1<<(locatorWords*wordBits) - 1)),
		secret:  binary.BigEndian.Uint32(b[4:]) & (1<<secretBits - 1),
	}, nil
}

// check makes a misheard or exchanged word be noticed before it costs a try, but for one in 256.
func (w Words) check() uint64 {
	b := binary.BigEndian.AppendUint32([]byte("chartmesh join check 2"), uint32(w.Locator))
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(b, w.secret))
	return uint64(sum[0])
}

// Text returns the words. They contain the secret, so it is not String.
func (w Words) Text() string {
	v := uint64(w.Locator)<<(secretBits+checkBits) | uint64(w.secret)<<checkBits | w.check()
	return strings.Join(wordsOf(v, wordCount), " ")
}

// LocatorWords returns the words that are no secret, by which people name an invitation.
func LocatorWords(l lan.Locator) string {
	return strings.Join(wordsOf(uint64(l), locatorWords), "-")
}

func wordsOf(v uint64, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = wordList[v>>(wordBits*(n-1-i))&(1<<wordBits-1)]
	}
	return list
}

// ParseWords reads words as people type them: in either case, with anything but letters between them, each cut short to
// what no other word begins with.
func ParseWords(text string) (Words, error) {
	if len(text) > MaxCodeText {
		return Words{}, ErrWords
	}
	fields := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) })
	if len(fields) != wordCount {
		return Words{}, fmt.Errorf("%w: it has %d words, not %d", ErrWords, len(fields), wordCount)
	}
	var v uint64
	for i, f := range fields {
		at, ok := findWord(f)
		if !ok {
			return Words{}, fmt.Errorf("%w: no word of the list, or more than one, is meant by number %d", ErrWords, i+1)
		}
		v = v<<wordBits | uint64(at)
	}
	w := Words{Locator: lan.Locator(v >> (secretBits + checkBits)), secret: uint32(v >> checkBits & (1<<secretBits - 1))}
	if v&(1<<checkBits-1) != w.check() {
		return Words{}, fmt.Errorf("%w: one of them is wrong, or they are in another order; nothing was sent", ErrWords)
	}
	return w, nil
}

// findWord returns the place of the one word that text is, or begins.
func findWord(text string) (int, bool) {
	at, exact := slices.BinarySearch(wordList, text)
	if exact {
		return at, true
	}
	begins := func(i int) bool { return i < len(wordList) && strings.HasPrefix(wordList[i], text) }
	return at, begins(at) && !begins(at+1)
}

// Invitation returns what the words are good for.
func (w Words) Invitation() Invitation {
	h := hmac.New(sha256.New, binary.BigEndian.AppendUint32(nil, w.secret))
	h.Write(binary.BigEndian.AppendUint32([]byte("chartmesh join words 2"), uint32(w.Locator)))
	return Invitation{ID: locatorInvite(w.Locator), Key: JoinKey(h.Sum(nil)), Locator: w.Locator, Spoken: true}
}

func locatorInvite(l lan.Locator) InviteID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte("chartmesh join locator 2"), uint32(l)))
	return InviteID(sum[:16])
}
