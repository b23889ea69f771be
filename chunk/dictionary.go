package chunk

import (
	_ "embed"
	"fmt"
)

// Dictionary1 is the first dictionary: byte strings that many patients' records have in common (names of elements, code
// systems, codes of FHIR's own), taken from the raw changes of synthetic patients and of forms. It may be put into
// Params.Dictionary; what was sealed under it opens wherever this version runs. It never changes: a better one gets
// another number. internal/dictionary makes it, and docs/decisions/0015-compression-dictionary.md says of what.
const Dictionary1 = 1

//go:embed dictionary1.bin
var dictionary1 []byte

func init() {
	if err := RegisterDictionary(Dictionary1, dictionary1); err != nil {
		panic(fmt.Sprintf("chunk: %v", err)) // the file is part of the program, and a test compares its hash
	}
}
