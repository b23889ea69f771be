// Package demo tells the story of two sites of one practice on one machine, with the real agents, and checks it.
//
// Nouns: a site is an agent process with its own folder; a step is one thing that a person would do or look at.
//
// Guarantees: every figure is measured in this run; a step that does not hold says so, and with Once the run fails.
//
// The agents are the `chartmesh agent` of the same program; the patients are made by package fhir/synthetic.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

// Options of the demo.
type Options struct {
	Dir      string // where the agents keep their data; empty: a temporary folder that is removed at the end
	Patients int    // how many patients are made
	Seed     uint64 // of the patients; the same seed makes the same ones
	Once     bool   // check every step and end, instead of leaving the agents running
	JSON     bool   // one JSON object a step instead of text
	Version  string // of this build
	Stdout   io.Writer
	Stderr   io.Writer
	Logger   *slog.Logger
}

// The practice of the story.
const (
	practice = "Praxis am Markt"
	surgery  = "Surgery"
	branch   = "Branch"
	drA      = "Dr. Adler"
	drB      = "Dr. Brandt"
)

// waitLimit bounds every wait of the story.
const waitLimit = 60 * time.Second

// Run tells the story until it is told (Once) or ctx ends. With Once it fails when a step did not hold.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Patients <= 0 {
		opts.Patients = 40
	}
	dir := opts.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chartmesh-demo-"); err != nil {
			return fmt.Errorf("make a folder for the demo: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	// The devices end with the demo, and so does what is kept of them outside their folders.
	if err := os.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state")); err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	s := &story{opts: opts, dirA: filepath.Join(dir, "surgery"), dirB: filepath.Join(dir, "branch")}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.tell(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if opts.Once {
		return nil
	}
	s.say("running", fmt.Sprintf(`Both agents keep running. In another terminal:
  chartmesh --data %s find %s
  chartmesh --data %s status
  chartmesh --data %s events --since 0
Press Ctrl-C to end; the demo's folder is removed then.`, s.dirA, s.family, s.dirB, s.dirB), nil)
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.ended():
		return err
	}
}

// tell is the story. Each step returns an error if what a person would see is not there.
func (s *story) tell(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.found, s.importPatients, s.join, s.firstSync, s.editAppears, s.workApart, s.heal, s.decide, s.compare,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) found(ctx context.Context) error {
	f, err := agent.Init(s.dirA, agent.InitOptions{Practice: practice, Site: surgery, Device: "reception"})
	if err != nil {
		return fmt.Errorf("found the practice: %w", err)
	}
	if s.a, err = s.start(ctx, s.dirA); err != nil {
		return err
	}
	s.say("founded", fmt.Sprintf("1. %q is founded. Its surgery's agent runs: %s", practice, first(s.a.addresses)),
		map[string]any{"peer_id": f.PeerID})
	return nil
}

func (s *story) importPatients(ctx context.Context) error {
	began := time.Now()
	for bundle := range synthetic.Patients(s.opts.Seed, s.opts.Patients) {
		batch := api.ImportBatch{}
		if err := fhir.ReadFile("patient", bytes.NewReader(fhir.Canonical(bundle)), func(it fhir.Item) error {
			if it.Err != nil {
				return it.Err
			}
			batch.Resources = append(batch.Resources, it.Raw)
			s.note(it.Resource)
			return nil
		}); err != nil {
			return fmt.Errorf("read a made patient: %w", err)
		}
		res, err := s.a.client.Import(ctx, drA, batch)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		if len(res.Refused) > 0 {
			return fmt.Errorf("import refused %d resources: %s", len(res.Refused), res.Refused[0].Reason)
		}
		s.imported += res.Created
	}
	took := time.Since(began)
	s.say("imported", fmt.Sprintf("2. %d patients with %d resources are imported there in %.1f s (%.0f resources/s).",
		s.opts.Patients, s.imported, took.Seconds(), float64(s.imported)/took.Seconds()),
		map[string]any{"patients": s.opts.Patients, "resources": s.imported, "seconds": took.Seconds()})
	return nil
}

func (s *story) join(ctx context.Context) error {
	invite, err := s.a.client.Invite(ctx, api.InviteRequest{Yes: true})
	if err != nil {
		return fmt.Errorf("invite: %w", err)
	}
	if _, err := agent.Join(ctx, s.dirB, agent.JoinOptions{Code: invite.Code, Site: branch, Device: "consulting room"}); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if s.b, err = s.start(ctx, s.dirB); err != nil {
		return err
	}
	s.say("joined", fmt.Sprintf("3. The branch joins by a one-time code and starts, empty: %s", first(s.b.addresses)), nil)
	return nil
}

func (s *story) firstSync(ctx context.Context) error {
	began := time.Now()
	status, err := s.inSync(ctx, s.b)
	if err != nil {
		return fmt.Errorf("first sync: %w", err)
	}
	took := time.Since(began)
	if status.Resources != s.imported {
		return fmt.Errorf("first sync: the branch has %d of %d resources", status.Resources, s.imported)
	}
	received := uint64(0)
	for _, p := range status.Sync {
		received += p.BytesReceived
	}
	s.say("synced", fmt.Sprintf("   In sync after %.1f s: %d resources in %d documents, %.1f KB over the wire, all of it sealed.",
		took.Seconds(), status.Resources, status.Documents, float64(received)/1e3),
		map[string]any{"seconds": took.Seconds(), "bytes_received": received})
	matches, err := s.b.client.Find(ctx, s.family, 10)
	if err != nil {
		return fmt.Errorf("find at the branch: %w", err)
	}
	if len(matches) == 0 {
		return errors.New("the branch does not find a patient that the surgery imported")
	}
	return nil
}

func (s *story) editAppears(ctx context.Context) error {
	began := time.Now()
	written, err := s.edit(ctx, s.a, drA, func(p fhir.Object) {
		p["telecom"] = append(items(p, "telecom"), fhir.Object{"system": "phone", "use": "mobile", "value": "+49 171 5550142"})
	})
	if err != nil {
		return err
	}
	for {
		got, err := s.b.client.Get(ctx, s.patient, "")
		if err != nil {
			return fmt.Errorf("read at the branch: %w", err)
		}
		if got.Version == written.Version {
			break
		}
		if time.Since(began) > waitLimit {
			return errors.New("an edit at the surgery did not appear at the branch")
		}
	}
	took := time.Since(began)
	s.say("edited", fmt.Sprintf("4. %s adds a phone number to %s at the surgery. It is on disk at both sites and readable at the\n   branch after %.1f ms.",
		drA, s.who, float64(took.Microseconds())/1e3), map[string]any{"milliseconds": float64(took.Microseconds()) / 1e3})
	return nil
}

func (s *story) workApart(ctx context.Context) error {
	if err := s.b.client.SetOnline(ctx, false); err != nil {
		return fmt.Errorf("cut the link: %w", err)
	}
	if _, err := s.edit(ctx, s.a, drA, func(p fhir.Object) { p["birthDate"] = "1961-04-17" }); err != nil {
		return err
	}
	if _, err := s.edit(ctx, s.b, drB, func(p fhir.Object) { p["birthDate"] = "1961-07-14" }); err != nil {
		return err
	}
	if _, err := s.edit(ctx, s.b, drB, func(p fhir.Object) {
		p["telecom"] = append(items(p, "telecom"), fhir.Object{"system": "email", "value": "patient@example.org"})
	}); err != nil {
		return err
	}
	status, err := s.b.client.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("status of the branch: %w", err)
	}
	if status.State != "offline" || status.NotElsewhere != 2 {
		return fmt.Errorf("the branch says %s with %d changes not elsewhere, and should say offline with 2", status.State, status.NotElsewhere)
	}
	s.say("apart", fmt.Sprintf("5. The link is cut. %s corrects the birth date to 1961-04-17 at the surgery, %s to 1961-07-14 at the branch,\n   and adds an e-mail address. The branch shows: %s, %d changes not yet elsewhere.",
		drA, drB, status.State, status.NotElsewhere), nil)
	return nil
}

func (s *story) heal(ctx context.Context) error {
	if err := s.b.client.SetOnline(ctx, true); err != nil {
		return fmt.Errorf("heal the link: %w", err)
	}
	for _, side := range []*site{s.a, s.b} {
		if _, err := s.inSync(ctx, side); err != nil {
			return fmt.Errorf("sync after healing: %w", err)
		}
	}
	at, err := s.a.client.Conflicts(ctx)
	if err != nil {
		return fmt.Errorf("list conflicts: %w", err)
	}
	atB, err := s.b.client.Conflicts(ctx)
	if err != nil {
		return fmt.Errorf("list conflicts: %w", err)
	}
	if len(at) != 1 || !sameConflicts(at, atB) {
		return fmt.Errorf("the sites list %d and %d conflicts, and should list the same one", len(at), len(atB))
	}
	s.conflict = at[0]
	got, err := s.a.client.Get(ctx, s.patient, "")
	if err != nil {
		return err
	}
	obj, err := fhir.Parse(got.JSON)
	if err != nil {
		return err
	}
	if n := len(items(obj, "telecom")); n != s.telecom+2 {
		return fmt.Errorf("the patient has %d ways of contact, and should have %d: additions at both sites merge", n, s.telecom+2)
	}
	text := "6. The link is healed. The phone number and the e-mail address merged; the birth date is a conflict, listed at both\n   sites alike, and nothing is lost:"
	for i, v := range s.conflict.Values {
		text += fmt.Sprintf("\n     [%d] %s  by %s, %s, %s", i+1, v.Value, v.Author, v.Site, v.Time.Local().Format("15:04:05"))
	}
	s.say("healed", text, map[string]any{"conflict": s.conflict})
	return nil
}

func (s *story) decide(ctx context.Context) error {
	choice := -1
	for i, v := range s.conflict.Values {
		if string(v.Value) == `"1961-07-14"` {
			choice = i
		}
	}
	if choice < 0 {
		return errors.New("the conflict does not list the branch's value")
	}
	if _, err := s.b.client.Resolve(ctx, drB, s.conflict.ID, api.Decision{Choose: &choice}); err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	for _, side := range []*site{s.b, s.a} {
		if err := s.until(ctx, func() (bool, error) {
			list, err := side.client.Conflicts(ctx)
			return len(list) == 0, err
		}); err != nil {
			return fmt.Errorf("the decision did not reach both sites: %w", err)
		}
	}
	revisions, err := s.a.client.History(ctx, s.patient)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	kept := false
	for _, r := range revisions {
		kept = kept || bytes.Contains(r.JSON, []byte(`"1961-04-17"`))
	}
	if !kept {
		return errors.New("the history does not hold the value that was decided against")
	}
	s.say("decided", fmt.Sprintf("7. %s decides for 1961-07-14 at the branch; the surgery follows. The other value stays in the history (%d revisions).",
		drB, len(revisions)), nil)
	return nil
}

func (s *story) compare(ctx context.Context) error {
	for _, side := range []*site{s.a, s.b} {
		if _, err := s.inSync(ctx, side); err != nil {
			return fmt.Errorf("last sync: %w", err)
		}
	}
	var exports [2]bytes.Buffer
	for i, side := range []*site{s.a, s.b} {
		if err := side.client.Export(ctx, &exports[i], api.ExportOptions{}); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	if exports[0].Len() == 0 || !bytes.Equal(exports[0].Bytes(), exports[1].Bytes()) {
		return errors.New("the exports of the two sites differ")
	}
	s.say("equal", fmt.Sprintf("8. The exports of both sites are equal, byte for byte: %d resources, %.1f KB.",
		bytes.Count(exports[0].Bytes(), []byte("\n")), float64(exports[0].Len())/1e3), nil)
	return nil
}

func sameConflicts(a, b []api.Conflict) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
