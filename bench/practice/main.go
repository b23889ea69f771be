// Command practice writes the records of a made practice as NDJSON, a Bundle a line, for `chartmesh import -`. The same
// seed, kind and number make the same bytes.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"

	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

func main() {
	seed := flag.Uint64("seed", 1, "what the practice is drawn from")
	patients := flag.Int("patients", 10_000, "how many patients")
	lifelong := flag.Bool("lifelong", false, "records over decades, some fifty documents each, instead of uneven ones")
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, "usage: practice [--seed N] [--patients N] [--lifelong] > FILE.ndjson\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || *patients < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(os.Stdout, *seed, *patients, *lifelong); err != nil {
		fmt.Fprintln(os.Stderr, "practice:", err)
		os.Exit(1)
	}
}

func write(to io.Writer, seed uint64, patients int, lifelong bool) error {
	records := synthetic.Practice
	if lifelong {
		records = synthetic.Lifelong
	}
	out := bufio.NewWriter(to)
	for bundle := range records(seed, patients) {
		out.Write(fhir.Canonical(bundle))
		out.WriteByte('\n')
	}
	return out.Flush()
}
