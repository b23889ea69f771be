package main

// How chartmesh prints:
//
//   - Results go to stdout; progress, hints and remarks to stderr. "chartmesh get … > file" holds a resource and nothing
//     else.
//   - An error is one line "chartmesh: error: …" that says what was attempted, a hint one line "chartmesh: hint: …" that
//     says what to do next. The exit code says the kind ("chartmesh help exit-codes").
//   - With --json the result is one JSON value, or one a line where it is a stream. Errors stay text on stderr.
//   - JSON is for scripts and keeps its fields. Text is for people and may change.
//   - Text has no colours, no boxes and no emoji, and reads well when it is piped or read aloud.
//   - Times are local in text and UTC in JSON. Numbers have thousands separators in text.
//   - What comes from records cannot steer the terminal: control characters are shown as \u009b.
//   - A secret is printed once, to stdout, and never comes from the command line where stdin will do.
//   - Nothing asks a question but what lets a device in, removes one or founds the quorum anew, and there --yes answers. What else cannot be
//     taken back needs a flag.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"chartmesh/agent/api"
)

// printer prints one command's output by the rules above.
type printer struct {
	out, err io.Writer
	failed   error // the first error of writing to out
}

func (c *cli) printer() *printer { return &printer{out: c.out, err: c.err} }

func (p *printer) write(b []byte) {
	if _, err := p.out.Write(b); err != nil && p.failed == nil {
		p.failed = fmt.Errorf("write the result: %w", err)
	}
}

// line prints a line of the result.
func (p *printer) line(format string, args ...any) { p.write(fmt.Appendf(nil, format+"\n", args...)) }

// remark prints a line for the person at the terminal. Nothing depends on it, so its errors are nobody's.
func (p *printer) remark(format string, args ...any) { _, _ = fmt.Fprintf(p.err, format+"\n", args...) }

func (p *printer) fail(message, hint string) {
	// Several errors joined are one line.
	p.remark("chartmesh: error: %s", visible(strings.ReplaceAll(message, "\n", "; ")))
	p.hint(hint)
}

func (p *printer) hint(hint string) {
	if hint != "" {
		p.remark("chartmesh: hint: %s", visible(hint))
	}
}

// json prints v indented, one value.
func (p *printer) json(v any) { p.encode(v, "  ") }

// jsonLine prints v as one line of a stream.
func (p *printer) jsonLine(v any) { p.encode(v, "") }

func (p *printer) encode(v any, indent string) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		if p.failed == nil {
			p.failed = fmt.Errorf("encode the result: %w", err)
		}
		return
	}
	p.write(buf.Bytes())
}

// table prints rows below a head, in columns.
func (p *printer) table(head []string, rows [][]string) {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', tabwriter.StripEscape)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if i > 0 {
				_, _ = io.WriteString(w, "\t")
			}
			_, _ = io.WriteString(w, visible(cell))
		}
		_, _ = io.WriteString(w, "\n")
	}
	_ = w.Flush() // a bytes.Buffer takes everything
	for line := range strings.Lines(buf.String()) {
		p.line("%s", strings.TrimRight(line, " \n"))
	}
}

// visible shows characters that could steer a terminal, or turn a line around, by their numbers.
func visible(s string) string {
	if !strings.ContainsFunc(s, steers) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteString(`\ufffd`)
		case steers(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func steers(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// prettyJSON indents a resource by its own bytes, so that every digit stays. What visible would show differently is
// escaped, which is the same JSON value.
func prettyJSON(raw []byte) (string, error) {
	var buf bytes.Buffer
	if err := json.Indent(&buf, raw, "", "  "); err != nil {
		return "", fmt.Errorf("indent the resource: %w", err)
	}
	var b strings.Builder
	for line := range strings.Lines(buf.String()) {
		text, end := strings.CutSuffix(line, "\n")
		b.WriteString(visible(text))
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}

// shorten cuts s to n characters.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	return string(runes[:n-1]) + "…"
}

// count writes n with separators: 18,108.
func count[T int | int64 | uint64](n T) string {
	s := strconv.FormatUint(uint64(max(n, 0)), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural writes "1 change", "2 changes".
func plural[T int | int64 | uint64](n T, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + one + "s"
}

// size writes a number of bytes for a person.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB"} {
		if v /= 1000; v < 999.5 {
			return fmt.Sprintf("%.3g %s", v, unit)
		}
	}
	return fmt.Sprintf("%.0f TB", v/1000)
}

// span writes a duration with as much precision as a person needs.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(math.Max(d.Seconds()*1000, 0), 'f', 1, 64) + " ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// when writes a time of day for a person.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// ago writes how long ago t was.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	d := now.Sub(*t)
	if d < time.Second {
		return "now"
	}
	return span(d) + " ago"
}

// written prints the outcome of a write.
func (p *printer) written(w api.Written, asJSON bool) error {
	if asJSON {
		p.json(w)
		return p.failed
	}
	p.line("%s", visible(w.Version))
	p.remark("%s %s", visible(w.Ref), visible(w.Outcome))
	if w.Conflicts > 0 {
		p.hint(plural(w.Conflicts, "conflict") + " of this resource to decide: chartmesh conflict list")
	}
	return p.failed
}

// terminal reports whether w is one.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
