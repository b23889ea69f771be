//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	ChildMain()
	os.Exit(m.Run())
}
