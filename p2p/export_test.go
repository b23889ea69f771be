package p2p

// EncodeRequest is for tests that speak the join protocol by hand.
func EncodeRequest(r Request) []byte { return r.encode() }

// ParseRequest and ParseAnswer are for fuzzing.
func ReencodeRequest(b []byte) ([]byte, error) {
	q, err := parseRequest(b, [32]byte{})
	return q.encode(), err
}

func ReencodeAnswer(b []byte) ([]byte, error) {
	a, err := parseAnswer(b)
	return a.encode(), err
}

func EncodeAnswer(entries ...[]byte) []byte { return answer{entries: entries}.encode() }
