package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
	"chartmesh/fhir"
)

// story is the state of one telling.
type story struct {
	opts       Options
	dirA, dirB string
	a, b       *site
	imported   int
	patient    api.Ref // whom the story is about
	who        string
	family     string
	telecom    int // ways of contact before the story
	conflict   api.Conflict
}

// site is a running agent.
type site struct {
	cmd       *exec.Cmd
	client    *client.Client
	addresses []string
	gone      chan error
	stderr    *bytes.Buffer
}

// start runs `chartmesh agent` for a folder and waits until it answers.
func (s *story) start(ctx context.Context, dir string) (*site, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	side := &site{gone: make(chan error, 1), stderr: new(bytes.Buffer)}
	side.cmd = exec.Command(exe, "--data", dir, "agent", "--log-level", "warn",
		"--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--listen", "/ip4/127.0.0.1/tcp/0")
	side.cmd.Stderr = side.stderr
	ready, err := side.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := side.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	line := make(chan error, 1)
	go func() {
		r := bufio.NewReader(ready)
		_, err := r.ReadString('\n')
		line <- err
		_, _ = r.WriteTo(discard{})
		side.gone <- side.cmd.Wait()
	}()
	select {
	case err = <-line:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(waitLimit):
		err = errors.New("it did not get ready in time")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start agent: %w: %s", err, bytes.TrimSpace(side.stderr.Bytes())), side.end())
	}
	if side.client, err = client.Dial(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("reach agent: %w", err), side.end())
	}
	status, err := side.client.Status(ctx, "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reach agent: %w", err), side.end())
	}
	side.addresses = status.Addresses
	return side, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// end asks the agent to stop and waits for it.
func (s *site) end() error {
	if s.client != nil {
		_ = s.client.Close()
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return nil // it is gone already
	}
	select {
	case err := <-s.gone:
		return err
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		return errors.Join(errors.New("an agent of the demo did not stop when asked"), <-s.gone)
	}
}

func (s *story) stop() error {
	var err error
	for _, side := range []*site{s.b, s.a} {
		if side != nil {
			err = errors.Join(err, side.end())
		}
	}
	return err
}

// ended tells when an agent ends by itself.
func (s *story) ended() <-chan error {
	out := make(chan error, 2)
	for _, side := range []*site{s.a, s.b} {
		go func() {
			err := <-side.gone
			side.gone <- err
			out <- fmt.Errorf("an agent of the demo ended: %w: %s", err, bytes.TrimSpace(side.stderr.Bytes()))
		}()
	}
	return out
}

// say prints one step.
func (s *story) say(step, text string, figures map[string]any) {
	if s.opts.JSON {
		line := map[string]any{"step": step}
		for k, v := range figures {
			line[k] = v
		}
		_ = json.NewEncoder(s.opts.Stdout).Encode(line)
		return
	}
	fmt.Fprintln(s.opts.Stdout, text)
}

// note picks the patient of the story: the first one.
func (s *story) note(obj fhir.Object) {
	if s.patient.ID != "" || obj.Type() != "Patient" {
		return
	}
	s.patient = api.Ref{Type: "Patient", ID: obj.ID()}
	s.who, _, _ = fhir.Summary(obj)
	for _, name := range items(obj, "name") {
		if n, ok := name.(fhir.Object); ok && s.family == "" {
			s.family, _ = n["family"].(string)
		}
	}
	s.telecom = len(items(obj, "telecom"))
}

func items(obj fhir.Object, key string) []any {
	list, _ := obj[key].([]any)
	return list
}

// edit does what a form does: read, change, write back naming the version that was read.
func (s *story) edit(ctx context.Context, at *site, user string, change func(fhir.Object)) (api.Written, error) {
	got, err := at.client.Get(ctx, s.patient, "")
	if err != nil {
		return api.Written{}, fmt.Errorf("read the patient: %w", err)
	}
	obj, err := fhir.Parse(got.JSON)
	if err != nil {
		return api.Written{}, fmt.Errorf("read the patient: %w", err)
	}
	change(obj)
	w, err := at.client.Put(ctx, user, fhir.AppendCanonical(nil, obj), false)
	if err != nil {
		return api.Written{}, fmt.Errorf("write the patient: %w", err)
	}
	return w, nil
}

func (s *story) inSync(ctx context.Context, at *site) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return at.client.WaitInSync(ctx, "")
}

// until polls for what must come about by itself.
func (s *story) until(ctx context.Context, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return "(no address)"
	}
	return list[0]
}
