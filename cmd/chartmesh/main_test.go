package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"chartmesh/anchor/command"
)

// asProgram makes the test binary be chartmesh itself, for processes that scripts start, under whatever name.
const asProgram = "CHARTMESH_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	childMain()
	if filepath.Base(os.Args[0]) == "chartmesh-anchor" {
		command.Main()
	}
	if os.Getenv(asProgram) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"chartmesh": main, "chartmesh-anchor": command.Main})
}
