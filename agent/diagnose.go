package agent

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"chartmesh/agent/api"
)

// shortest is how long a name must be to be looked for in texts; a shorter one would tear words apart.
const shortest = 3

// Diagnose gathers what may leave the practice: figures, where goroutines are, the end of the log, all without names.
func (a *Agent) Diagnose(ctx context.Context) (api.Diagnosis, error) {
	status, err := a.Status(ctx, "")
	if err != nil {
		return api.Diagnosis{}, err
	}
	var metrics, goroutines bytes.Buffer
	if err := a.Metrics(ctx, &metrics); err != nil {
		return api.Diagnosis{}, err
	}
	// Form 1 names functions and lines, and holds no argument and no value.
	if err := pprof.Lookup("goroutine").WriteTo(&goroutines, 1); err != nil {
		return api.Diagnosis{}, fmt.Errorf("list goroutines: %w", err)
	}
	d := api.Diagnosis{
		Time: time.Now().UTC(), Version: a.cfg.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), Checks: a.lastChecks(), Metrics: metrics.String(), Goroutines: goroutines.String(),
		Settings: map[string]string{
			"listen": strings.Join(a.cfg.Listen, " "), "mdns": onOff(!a.cfg.NoMDNS), "port_mapping": onOff(!a.cfg.NoPorts), "network": onOff(a.online.Load()),
			"log_kept": onOff(a.cfg.RecentLog != nil), "started": a.metrics.begun.UTC().Format(time.RFC3339),
		},
	}
	if d.Store, err = storeFiles(storeIn(a.cfg.Dir)); err != nil {
		return api.Diagnosis{}, err
	}
	names := a.names(status)
	d.Status = anonymous(status, names)
	if a.cfg.RecentLog != nil {
		d.Log = names.Replace(string(a.cfg.RecentLog()))
	}
	return d, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// names replaces every name that this device knows of, in any text, by one that tells nothing.
func (a *Agent) names(s api.Status) *strings.Replacer {
	known := map[string]string{s.Practice: "practice"}
	sites := map[string]string{}
	add := func(device, site, peerID string) {
		known[device] = "device-" + shortID(peerID)
		if _, ok := sites[site]; !ok {
			sites[site] = fmt.Sprintf("site-%d", len(sites)+1)
			known[site] = sites[site]
		}
	}
	add(s.Device, s.Site, s.PeerID)
	for _, p := range s.Peers {
		add(p.Name, p.Site, p.PeerID)
	}
	known[a.cfg.Dir] = "DATA"
	if home, err := os.UserHomeDir(); err == nil {
		known[home] = "HOME"
	}
	if host, err := os.Hostname(); err == nil {
		known[host] = "host"
	}
	var long []string
	for name := range known {
		if len(name) >= shortest && name != "/root" {
			long = append(long, name)
		}
	}
	// Of two names that begin alike the longer one is tried first.
	slices.SortFunc(long, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, name := range long {
		pairs = append(pairs, name, known[name])
		// A log quotes what it is given, and the text of an error in it may have been quoted before.
		once := quote(name)
		pairs = append(pairs, once, known[name], quote(once), known[name])
	}
	return strings.NewReplacer(pairs...)
}

// quote is strconv.Quote without the quotes around.
func quote(s string) string {
	s = strconv.Quote(s)
	return s[1 : len(s)-1]
}

// shortID is the part of a peer ID by which devices are told apart.
func shortID(peerID string) string { return peerID[max(len(peerID)-8, 0):] }

// anonymous returns a status whose names are replaced, short ones too.
func anonymous(s api.Status, names *strings.Replacer) api.Status {
	sites := map[string]string{s.Site: "site-1"}
	devices := map[string]string{s.Device: "device-" + shortID(s.PeerID)}
	site := func(name string) string {
		if sites[name] == "" {
			sites[name] = fmt.Sprintf("site-%d", len(sites)+1)
		}
		return sites[name]
	}
	s.Practice, s.Device, s.Site = "practice", devices[s.Device], site(s.Site)
	s.Reason = names.Replace(s.Reason)
	s.Peers, s.Sync, s.Held = slices.Clone(s.Peers), slices.Clone(s.Sync), slices.Clone(s.Held)
	for i := range s.Peers {
		p := &s.Peers[i]
		id := "device-" + shortID(p.PeerID)
		devices[p.Name] = id
		p.Name, p.Site, p.Reason = id, site(p.Site), names.Replace(p.Reason)
	}
	for i := range s.Sync {
		s.Sync[i].Peer = devices[s.Sync[i].Peer]
	}
	if s.Store.Repair != nil {
		repair := *s.Store.Repair
		repair.Reason, repair.From = names.Replace(repair.Reason), slices.Clone(repair.From)
		for i, name := range repair.From {
			repair.From[i] = devices[name]
		}
		s.Store.Repair = &repair
	}
	s.Store.SetAside = slices.Clone(s.Store.SetAside)
	for i := range s.Store.SetAside {
		name := filepath.Base(s.Store.SetAside[i].Path)
		if !asideName.MatchString(name) {
			name = fmt.Sprintf("other-%d", i+1)
		}
		s.Store.SetAside[i].Path = name
	}
	s.Reason = storeReason(s) // which may name devices, however short their names are
	for i := range s.Held {
		s.Held[i].Device, s.Held[i].Reason = devices[s.Held[i].Device], names.Replace(s.Held[i].Reason)
	}
	return s
}

// What a person has put beside the store, or named, may have any name.
var (
	asideName = regexp.MustCompile(`^records\.damaged-\d{8}T\d{6}Z(-\d+)?$`)
	storeName = regexp.MustCompile(`^(FORMAT|LOCK|HEADS|KEYS|MARK|store/(LOCK|MANIFEST|MANIFEST-REWRITE|KEYREGISTRY|REWRITE-KEYREGISTRY|DISCARD|\d+\.(sst|vlog|mem)))(\.new)?$`)
)

// storeFiles lists the store's files with their sizes; the name of one that is not the store's own is left out.
func storeFiles(dir string) (files []api.StoreFile, err error) {
	others := 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		name, err := filepath.Rel(dir, path)
		if name = filepath.ToSlash(name); !storeName.MatchString(name) {
			others++
			name = fmt.Sprintf("other-%d", others)
		}
		files = append(files, api.StoreFile{Name: name, Bytes: info.Size(), Modified: info.ModTime().UTC()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the store's files: %w", err)
	}
	return files, nil
}

// ignoreGone: the store's engine removes files at any time.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
