package p2p

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
