// Package bench measures the trips of a device as users feel them, each beside the physical limit that it cannot beat.
//
// Nouns: a desk is a store on disk, an engine process and the replica over both; a site is an agent in this process with
// its own folder, its own engine process and a real connection on loopback; a limit is the same bytes through the disk,
// the compressor, the cipher or the loopback device alone, measured right after what it limits.
//
// Guarantees: nothing is mocked; every benchmark checks that what it timed has happened. The patients are synthetic and
// the same every time.
//
// It holds no thresholds: a shared machine would fail them for reasons of its own. Aims stand in docs/GOALS.md, the
// benchmarks of single packages beside those packages. Command figures prints a table.
package bench
