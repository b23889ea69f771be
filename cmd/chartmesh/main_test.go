package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// asProgram makes the test binary be chartmesh itself, for processes that scripts start, under whatever name.
const asProgram = "CHARTMESH_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	childMain()
	if os.Getenv(asProgram) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"chartmesh": main})
}
