package command

import "testing"

// TestAddCommands: what an administrator is told to type leads to the anchor from where he types it.
func TestAddCommands(t *testing.T) {
	const near, near6, far = "/ip4/127.0.0.1/tcp/4001", "/ip6/::1/udp/4001/quic-v1", "/dns4/anchor.example.org/tcp/4001"
	for _, c := range []struct {
		addresses []string
		want      string
	}{
		{[]string{near, far, near6}, "  chartmesh anchor add " + far + "\n"},
		{[]string{near, near6}, "  chartmesh anchor add " + near + "\n  chartmesh anchor add " + near6 + "\n"},
	} {
		if got := addCommands(c.addresses); got != c.want {
			t.Errorf("of %v:\n%swant\n%s", c.addresses, got, c.want)
		}
	}
}
