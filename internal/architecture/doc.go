// Package architecture holds the shape of the module: which packages there are, which may import which, and what every
// file keeps to.
//
// Nouns: a rule names a package, what it may import of this module, and what of other modules. The tables stand in
// rules.go; the test reads the import lines of the source, runs nothing and loads nothing.
//
// Guarantees: the test fails when a package imports what its rule does not name, when a listed package is gone, when one
// is not listed, when a package of the data path can reach cgo, when a package has no comment, when a file has grown too
// long, and when a test sleeps instead of waiting for what it waits for.
//
// Style within a file is the linter's, formatting gofmt's.
package architecture
