package command

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"chartmesh/anchor"
)

const none = "none"

// units are what a size may be given in, the longest names first.
var units = []struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40}, {"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1}, {"", 1},
}

// parseSize reads bytes as people write them: 50GB, 1.5 TB, 4MiB, 1000; none is 0.
func parseSize(text string) (uint64, error) {
	number := strings.ToLower(strings.TrimSpace(text))
	if number == none {
		return 0, nil
	}
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if n *= u.bytes; err == nil && n >= 1 && n < 1<<62 && n == math.Trunc(n) {
				return uint64(n), nil
			}
			break
		}
	}
	return 0, errors.New("give it like 50GB or 4MB, or none")
}

// parseCount reads a number; none is 0.
func parseCount(text string) (uint64, error) {
	if strings.EqualFold(text, none) {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil || n == 0 {
		return 0, errors.New("give a number above 0, or none")
	}
	return n, nil
}

// parseLimit reads a limit of a practice: as parse does, or default.
func parseLimit(text string, parse func(string) (uint64, error)) (*anchor.Limit, error) {
	if strings.EqualFold(text, "default") {
		return &anchor.Limit{Default: true}, nil
	}
	n, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w, or default", err)
	}
	return &anchor.Limit{Value: n}, nil
}

// size writes bytes for people.
func size(n uint64) string {
	for _, u := range []struct {
		name  string
		bytes uint64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.bytes {
			return strconv.FormatFloat(math.Floor(float64(n)/float64(u.bytes)*10)/10, 'f', -1, 64) + " " + u.name
		}
	}
	return strconv.FormatUint(n, 10) + " B"
}

// sizeValue and countValue are flags; 0 is none.
type (
	sizeValue  struct{ n *uint64 }
	countValue struct{ n *uint64 }
)

func (v sizeValue) Type() string  { return "size" }
func (v countValue) Type() string { return "count" }

func (v sizeValue) String() string {
	if v.n == nil || *v.n == 0 {
		return none
	}
	return strings.ReplaceAll(size(*v.n), " ", "")
}

func (v countValue) String() string {
	if v.n == nil || *v.n == 0 {
		return none
	}
	return strconv.FormatUint(*v.n, 10)
}

func (v sizeValue) Set(text string) (err error) {
	*v.n, err = parseSize(text)
	return err
}

func (v countValue) Set(text string) (err error) {
	*v.n, err = parseCount(text)
	return err
}
