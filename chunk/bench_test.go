package chunk_test

import (
	"fmt"
	"testing"

	"chartmesh/chunk"
)

var benchSizes = []int{1 << 10, 16 << 10, 1 << 20}

func BenchmarkSeal(b *testing.B) {
	p := newPractice(b)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, params := p.changes(b, size), p.params(p.member)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := chunk.Seal(p.member, params, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	p := newPractice(b)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := chunk.Seal(p.member, p.params(p.member), p.changes(b, size))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := chunk.Open(p.admin, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseVerify(b *testing.B) {
	p := newPractice(b)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := chunk.Seal(p.member, p.params(p.member), p.changes(b, size))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				got, err := chunk.Parse(s.Bytes())
				if err != nil {
					b.Fatal(err)
				}
				if err := got.Verify(p.state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSetHashAdd(b *testing.B) {
	var s chunk.SetHash
	for b.Loop() {
		s.Add([32]byte{1})
	}
}

func BenchmarkSetHashRemove(b *testing.B) {
	var s chunk.SetHash
	for b.Loop() {
		s.Remove([32]byte{1})
	}
}

func BenchmarkSealDictionary(b *testing.B) {
	p := newPractice(b)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, params := p.changes(b, size), p.params(p.member)
			params.Dictionary = chunk.Dictionary1
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := chunk.Seal(p.member, params, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenDictionary(b *testing.B) {
	p := newPractice(b)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			params := p.params(p.member)
			params.Dictionary = chunk.Dictionary1
			s, err := chunk.Seal(p.member, params, p.changes(b, size))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := chunk.Open(p.admin, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
