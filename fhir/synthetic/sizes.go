package synthetic

import (
	"iter"
	"math"
	"time"

	"chartmesh/fhir"
)

// Largest is how many resources the largest record of a practice has, or a few more.
const Largest = 1500

// Practice returns n patients of a seed with records as uneven as those of a practice: about thirty resources on
// average, most of them fewer, one in a hundred over a hundred, and the first patient's at least Largest.
func Practice(seed uint64, n int) iter.Seq[fhir.Object] {
	return records(seed, n, func(g *generator, i int) {
		s := g.lasting(i)
		if i == 0 {
			for len(g.entries) < Largest {
				g.visit(s, g.within(10), false)
			}
			return
		}
		// The tail of a Pareto distribution, cut where the largest record has its place to itself.
		const shape, scale, most = 1.6, 1.2, 100
		visits := min(int(scale*math.Pow(1-g.Float64(), -1/shape)), most)
		for n := range visits {
			g.visit(s, g.within(1+min(visits/4, 9)), n == 0)
		}
	})
}

// Lifelong returns n patients of a seed whose records go back for decades, with a visit in each of lifelong years: few
// resources in very many documents, as exports of simulated lives have them.
func Lifelong(seed uint64, n int) iter.Seq[fhir.Object] {
	return records(seed, n, func(g *generator, i int) {
		s := g.lasting(i)
		for n := range lifelong {
			g.visit(s, today.AddDate(-n, -g.IntN(10), -g.IntN(28)).Add(9*time.Hour), g.IntN(2) == 0)
		}
	})
}

const lifelong = 25

// within draws a moment of the last years at which the practice is open.
func (g *generator) within(years int) time.Time {
	return today.AddDate(0, 0, -g.IntN(365*years)).Add(time.Duration(7*60+g.IntN(540)) * time.Minute)
}
