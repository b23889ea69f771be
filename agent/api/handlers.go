package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

func (h *handler) status(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "peer", "wait", "timeout")
	if err != nil {
		return err
	}
	peer, err := short(q, "peer")
	if err != nil {
		return err
	}
	switch q.Get("wait") {
	case "":
		if q.Has("timeout") {
			return invalid("timeout goes with wait", "")
		}
		status, err := h.agent.Status(r.Context(), peer)
		return writeJSON(w, status, err)
	case "in-sync":
	default:
		return invalid("wait is in-sync", "")
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	if q.Has("timeout") {
		limit, err := time.ParseDuration(q.Get("timeout"))
		if err != nil || limit < 0 {
			return invalid("timeout is a duration", "for example 60s")
		}
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, limit)
		defer stop()
	}
	status, err := h.agent.WaitInSync(ctx, peer)
	return writeJSON(w, status, err)
}

// MetricsType is the content type of metrics.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

func (h *handler) metrics(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var text bytes.Buffer // so that an error is answered as one
	if err := h.agent.Metrics(r.Context(), &text); err != nil {
		return err
	}
	w.Header().Set("Content-Type", MetricsType)
	if _, err := text.WriteTo(w); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

func (h *handler) diagnosis(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	d, err := h.agent.Diagnose(r.Context())
	return writeJSON(w, d, err)
}

// Network is the body of PUT /v1/network and its answer.
type Network struct {
	Online *bool `json:"online"`
}

func (h *handler) network(w http.ResponseWriter, r *http.Request) error {
	req, err := small[Network](w, r)
	if err != nil {
		return err
	}
	if req.Online == nil {
		return invalid("online is true or false", "")
	}
	return writeJSON(w, req, h.agent.SetOnline(r.Context(), *req.Online))
}

func (h *handler) compact(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	done, err := h.agent.Compact(r.Context())
	return writeJSON(w, done, err)
}

func (h *handler) put(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "force")
	if err != nil {
		return err
	}
	force, err := boolean(q, "force")
	if err != nil {
		return err
	}
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	data, err := body(w, r, MaxResource)
	if err != nil {
		return err
	}
	written, err := h.agent.Put(r.Context(), user, data, force)
	return writeJSON(w, written, err)
}

// get answers with the resource's own bytes: no digit of them passes through an encoder.
func (h *handler) get(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "version")
	if err != nil {
		return err
	}
	version, err := short(q, "version")
	if err != nil {
		return err
	}
	ref, err := pathRef(r)
	if err != nil {
		return err
	}
	res, err := h.agent.Get(r.Context(), ref, version)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", "application/fhir+json")
	head.Set("Content-Length", strconv.Itoa(len(res.JSON)))
	head.Set("ETag", `W/"`+res.Version+`"`)
	head.Set(HeaderVersion, res.Version)
	head.Set(HeaderUpdated, res.Updated.Format(time.RFC3339Nano))
	head.Set(HeaderConflicts, strconv.Itoa(res.Conflicts))
	if res.Deleted {
		head.Set(HeaderDeleted, "true")
	}
	if res.Newer != "" {
		head.Set(HeaderNewer, url.PathEscape(res.Newer))
	}
	if res.Uncommitted {
		head.Set(HeaderUncommitted, "true")
	}
	if _, err := w.Write(res.JSON); err != nil {
		return fmt.Errorf("write the resource: %w", err)
	}
	return nil
}

func (h *handler) delete(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	ref, err := pathRef(r)
	if err != nil {
		return err
	}
	written, err := h.agent.Delete(r.Context(), user, ref)
	return writeJSON(w, written, err)
}

func (h *handler) history(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	ref, err := pathRef(r)
	if err != nil {
		return err
	}
	revisions, err := h.agent.History(r.Context(), ref)
	return writeJSON(w, list(revisions), err)
}

func (h *handler) stored(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	ref, err := pathRef(r)
	if err != nil {
		return err
	}
	stored, err := h.agent.Stored(r.Context(), ref)
	return writeJSON(w, stored, err)
}

// Search is the body of POST /v1/find.
type Search struct {
	Text  string `json:"text"`
	Limit int    `json:"limit,omitempty"` // 0: 50
}

func (h *handler) find(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	data, err := body(w, r, maxSmall)
	if err != nil {
		return err
	}
	var req Search
	if err := decode(data, &req); err != nil {
		return err
	}
	if req.Limit == 0 {
		req.Limit = 50
	}
	if req.Text == "" || len(req.Text) > MaxText || req.Limit < 0 || req.Limit > MaxMatches {
		return invalid("a search needs a text of at most 1,000 bytes and a limit of at most 1,000", "")
	}
	matches, err := h.agent.Find(r.Context(), req.Text, req.Limit)
	return writeJSON(w, list(matches), err)
}

// importBatch takes one resource a line, so that neither side has to parse a large array to find where each ends.
func (h *handler) importBatch(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	data, err := body(w, r, MaxImportBytes+MaxImportResources)
	if err != nil {
		return err
	}
	batch := ImportBatch{Resources: make([]json.RawMessage, 0, bytes.Count(data, []byte{'\n'})+1)}
	for line := range bytes.SplitSeq(data, []byte{'\n'}) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if len(batch.Resources) == MaxImportResources {
			return invalid(fmt.Sprintf("a batch has at most %d resources", MaxImportResources), "send several batches")
		}
		batch.Resources = append(batch.Resources, line)
	}
	result, err := h.agent.Import(r.Context(), user, batch)
	return writeJSON(w, result, err)
}

func (h *handler) export(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "patient", "format", "meta")
	if err != nil {
		return err
	}
	opts := ExportOptions{Patient: q.Get("patient"), Format: q.Get("format")}
	if opts.Meta, err = boolean(q, "meta"); err != nil {
		return err
	}
	kind := "application/fhir+ndjson"
	switch opts.Format {
	case "", "ndjson":
	case "bundle":
		kind = "application/fhir+json"
	default:
		return invalid("format is ndjson or bundle", "")
	}
	if opts.Patient != "" && !(Ref{Type: "Patient", ID: opts.Patient}).Valid() {
		return invalid("patient is a Patient's id", "")
	}
	out := &lateWriter{w: w, kind: kind}
	err = h.agent.Export(r.Context(), out, opts)
	if err != nil && !out.begun {
		return err
	}
	out.begin()
	if err == nil {
		w.Header().Set(TrailerResult, "ok")
		return nil
	}
	e := AsError(err)
	h.log.Error("export cut short", "code", e.Code, "error", err)
	short, err := json.Marshal(e)
	if err != nil {
		return nil // without its trailer the answer counts as cut short, which it is
	}
	w.Header().Set(TrailerResult, string(short))
	return nil
}

// lateWriter sends the header with the first byte, so that what fails before it is an ordinary error.
type lateWriter struct {
	w     http.ResponseWriter
	kind  string
	begun bool
}

func (l *lateWriter) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", l.kind)
		l.w.Header().Set("Trailer", TrailerResult)
		l.w.WriteHeader(http.StatusOK)
	}
}

func (l *lateWriter) Write(p []byte) (int, error) {
	l.begin()
	return l.w.Write(p)
}

func (h *handler) conflicts(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	conflicts, err := h.agent.Conflicts(r.Context())
	return writeJSON(w, list(conflicts), err)
}

func pathConflict(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if len(id) > maxVersion {
		return "", invalid("the conflict's id is too long", "")
	}
	return id, nil
}

func (h *handler) conflict(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := pathConflict(r)
	if err != nil {
		return err
	}
	conflict, err := h.agent.Conflict(r.Context(), id)
	return writeJSON(w, conflict, err)
}

func (h *handler) resolve(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	user, err := requestUser(r)
	if err != nil {
		return err
	}
	id, err := pathConflict(r)
	if err != nil {
		return err
	}
	data, err := body(w, r, MaxResource)
	if err != nil {
		return err
	}
	var decision Decision
	if err := decode(data, &decision); err != nil {
		return err
	}
	if err := decision.Check(); err != nil {
		return err
	}
	written, err := h.agent.Resolve(r.Context(), user, id, decision)
	return writeJSON(w, written, err)
}

// Check says whether d decides by exactly one of its two ways.
func (d Decision) Check() error {
	if (d.Choose == nil) == (d.Value == nil) {
		return invalid("a decision is either one of the values or a value of its own", "")
	}
	if d.Choose != nil && *d.Choose < 0 {
		return invalid("values count from 0", "")
	}
	return nil
}

// list makes an empty list [] in JSON, never null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// untilShutdown ends ctx also when the server begins to shut down: for requests that would wait for something, as
// against those that are about to finish and should.
func untilShutdown(ctx context.Context) (context.Context, context.CancelFunc) {
	stop, ok := ctx.Value(shutdownKey{}).(context.Context)
	if !ok {
		return context.WithCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(stop, func() { cancel(errShutdown) })
	return ctx, func() { detach(); cancel(context.Canceled) }
}

type shutdownKey struct{}

var errShutdown = errors.New("the agent is shutting down")
