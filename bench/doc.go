// Package bench measures the trips of a device as users feel them, each beside the physical limit that it cannot beat.
//
// Nouns: a site is an agent in this process with its own folder on disk, its own engine process and a real connection on
// loopback; a limit is the same bytes through the disk, the compressor or the loopback device alone.
//
// Guarantees: nothing is mocked; every benchmark checks that what it timed has happened. The patients are synthetic and
// the same every time.
//
// It holds no thresholds: a shared machine would fail them for reasons of its own. Aims stand in docs/GOALS.md, the
// benchmarks of single packages beside those packages.
package bench
