package p2p

import (
	"crypto/sha256"
	"strings"
)

// EncodeRequest is for tests that speak the join protocol by hand.
func EncodeRequest(r Request) []byte { return r.encode() }

// ReencodeRequest reads a request and writes it again.
func ReencodeRequest(b []byte) ([]byte, error) {
	q, err := parseRequest(b, [32]byte{})
	return q.encode(), err
}

// ReencodeAnswer reads an answer and writes it again.
func ReencodeAnswer(b []byte) ([]byte, error) {
	a, err := parseAnswer(b)
	return a.encode(), err
}

// EncodeAnswer writes an answer with a MAC of zeros.
func EncodeAnswer(entries ...[]byte) []byte { return answer{entries: entries}.encode() }

// WithChecksum gives a code that was written by hand the checksum that fits, in place of its own.
func WithChecksum(text string) string {
	body, ok := strings.CutPrefix(text, codePrefix)
	b, err := codeEncoding.DecodeString(body)
	if !ok || err != nil || len(b) < codeChecksum {
		return text
	}
	b = b[:len(b)-codeChecksum]
	sum := sha256.Sum256(b)
	return codePrefix + codeEncoding.EncodeToString(append(b, sum[:codeChecksum]...))
}

// Bare returns addresses without the device's name.
func Bare(addrs []string) (list []string) {
	for _, a := range parseAddrs(addrs) {
		list = append(list, a.String())
	}
	return list
}

// EncodeRecoverRequest and the others are for tests of the messages of recovery.
func EncodeRecoverRequest(entries [][]byte) []byte { return recoverRequest(entries).encode() }

func EncodeRecoverAnswer(entries [][]byte) []byte { return recoverAnswer(entries).encode() }

func ReencodeRecoverRequest(b []byte) ([]byte, error) {
	q, err := parseRecoverRequest(b)
	return q.encode(), err
}

func ReencodeRecoverAnswer(b []byte) ([]byte, error) {
	a, err := parseRecoverAnswer(b)
	return a.encode(), err
}
