package chunk

import (
	_ "embed"
	"fmt"
)

// Dictionary1 is the first dictionary: byte strings that many patients' records have in common (names of elements, code
// systems, frequent codes), taken from the raw changes of synthetic records and of FHIR's own examples. It may be put into
// Params.Dictionary; what was sealed under it opens wherever this version runs. It never changes: a better one gets
// another number. dictionary_test.go says how it was made.
const Dictionary1 = 1

//go:embed dictionary1.bin
var dictionary1 []byte

func init() {
	if err := RegisterDictionary(Dictionary1, dictionary1); err != nil {
		panic(fmt.Sprintf("chunk: %v", err)) // the file is part of the program, and a test compares its hash
	}
}
