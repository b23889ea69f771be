package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options of a handler; the zero value serves a Unix socket.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	Hosts  []string     // Host names that are answered besides "chartmesh" and loopback ones
}

// Headers that carry what stands beside a resource's own JSON.
const (
	HeaderUser      = "Chartmesh-User"      // request: the author of a write, percent-encoded UTF-8
	HeaderVersion   = "Chartmesh-Version"   // the resource's version
	HeaderUpdated   = "Chartmesh-Updated"   // RFC 3339
	HeaderConflicts = "Chartmesh-Conflicts" // open conflicts of the resource
	HeaderDeleted   = "Chartmesh-Deleted"   // "true" if that version is a deletion
	HeaderNewer     = "Chartmesh-Newer"     // the device, percent-encoded, that changed it with a newer version: it is read-only here
	// HeaderUncommitted is "true" if something in it was written here under a lease and is not committed yet.
	HeaderUncommitted = "Chartmesh-Uncommitted"
	TrailerResult     = "Chartmesh-Result" // of an export: "ok", or the error that cut it short, as JSON
)

type handler struct {
	agent Agent
	log   *slog.Logger
}

// route is one line of the API.
type route struct {
	method, path string
	serve        func(*handler, http.ResponseWriter, *http.Request) error
}

// routes is the whole API. What carries patient data to look for travels in a body, since URLs end up in logs.
var routes = []route{
	{"GET", "/v1/status", (*handler).status},
	{"GET", "/v1/metrics", (*handler).metrics},
	{"GET", "/v1/diagnosis", (*handler).diagnosis},
	{"POST", "/v1/invites", (*handler).invite},
	{"GET", "/v1/invites", (*handler).invites},
	{"GET", "/v1/invites/{name}", (*handler).waitInvite},
	{"DELETE", "/v1/invites/{name}", (*handler).revokeInvite},
	{"POST", "/v1/invites/{name}/decision", (*handler).confirmInvite},
	{"GET", "/v1/membership", (*handler).membership},
	{"POST", "/v1/membership/names", (*handler).rename},
	{"POST", "/v1/membership/checkpoints", (*handler).agree},
	{"POST", "/v1/membership/anchors", (*handler).addAnchor},
	{"POST", "/v1/membership/removals", (*handler).remove},
	{"POST", "/v1/membership/roles", (*handler).setRole},
	{"POST", "/v1/recovery/check", (*handler).checkRecovery},
	{"POST", "/v1/recovery/promotion", (*handler).promote},
	{"POST", "/v1/recovery/replacement", (*handler).replaceRecovery},
	{"GET", "/v1/keyring", (*handler).keyring},
	{"PUT", "/v1/keyring/protection", (*handler).protectKeyring},
	{"PUT", "/v1/network", (*handler).network},
	{"POST", "/v1/compaction", (*handler).compact},
	{"PUT", "/v1/resources", (*handler).put},
	{"GET", "/v1/resources/{type}/{id}", (*handler).get},
	{"DELETE", "/v1/resources/{type}/{id}", (*handler).delete},
	{"GET", "/v1/resources/{type}/{id}/history", (*handler).history},
	{"GET", "/v1/resources/{type}/{id}/stored", (*handler).stored},
	{"POST", "/v1/find", (*handler).find},
	{"POST", "/v1/verify", (*handler).verify},
	{"POST", "/v1/import", (*handler).importBatch},
	{"GET", "/v1/export", (*handler).export},
	{"GET", "/v1/conflicts", (*handler).conflicts},
	{"GET", "/v1/conflicts/{id}", (*handler).conflict},
	{"POST", "/v1/conflicts/{id}/decision", (*handler).resolve},
	{"GET", "/v1/quarantine", (*handler).held},
	{"GET", "/v1/quarantine/{id}", (*handler).heldChunk},
	{"POST", "/v1/quarantine/{id}/retry", (*handler).retryHeld},
	{"POST", "/v1/quarantine/{id}/decision", (*handler).decideHeld},
	{"GET", "/v1/erasures", (*handler).erasures},
	{"POST", "/v1/erasures", (*handler).orderErasure},
	{"POST", "/v1/erasures/plan", (*handler).planErasure},
	{"POST", "/v1/erasures/{id}/agreement", (*handler).agreeErasure},
	{"GET", "/v1/quorum", (*handler).quorum},
	{"POST", "/v1/quorum", (*handler).changeQuorum},
	{"POST", "/v1/quorum/reseed", (*handler).reseedQuorum},
	{"GET", "/v1/leases", (*handler).leases},
	{"POST", "/v1/leases", (*handler).acquireLease},
	{"POST", "/v1/leases/hold", (*handler).holdLease},
	{"POST", "/v1/leases/wait", (*handler).waitLease},
	{"POST", "/v1/leases/release", (*handler).releaseLease},
	{"POST", "/v1/leases/break", (*handler).breakLease},
	{"GET", "/v1/circles", (*handler).circles},
	{"POST", "/v1/circles", (*handler).openCircle},
	{"POST", "/v1/circles/close", (*handler).closeCircle},
	{"POST", "/v1/numbers", (*handler).assignNumber},
	{"POST", "/v1/numbers/resolve", (*handler).resolveNumber},
	{"POST", "/v1/numbers/list", (*handler).numbers},
	{"GET", "/v1/ranges", (*handler).ranges},
	{"POST", "/v1/ranges", (*handler).setRange},
	{"POST", "/v1/ranges/grant", (*handler).grantRange},
	{"POST", "/v1/ranges/void", (*handler).voidRange},
	{"POST", "/v1/ranges/next", (*handler).nextInRange},
	{"POST", "/v1/ranges/report", (*handler).rangeReport},
	{"GET", "/v1/events", (*handler).events},
}

// NewHandler serves agent over HTTP and JSON. Who may call it is decided by whoever listens: see Listen.
func NewHandler(agent Agent, opts Options) http.Handler {
	h := &handler{agent: agent, log: opts.Logger}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+r.path, h.answer(r))
		methods[r.path] = append(methods[r.path], r.method)
	}
	for path, allowed := range methods {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeError(w, http.StatusMethodNotAllowed, invalid("this path does not know that method", ""))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, &Error{Code: CodeNotFound, Message: "no such path"})
	})
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusForbidden, &Error{Code: CodeForbidden, Message: "requests from other origins are refused"})
	}))
	hosts := append([]string{Host, "localhost", "127.0.0.1", "::1"}, opts.Hosts...)
	return checkHost(hosts, guard.Handler(mux))
}

// Host is the name under which clients address the agent on its socket.
const Host = "chartmesh"

// checkHost refuses names that are not ours, so that a web page whose name was rebound to a loopback address gets
// nothing, should the API ever listen there.
func checkHost(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if !slices.Contains(hosts, strings.Trim(host, "[]")) {
			writeError(w, http.StatusForbidden, &Error{Code: CodeForbidden, Message: "this host name is not served"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// answer turns what a route returns into an answer and a line of log. The line names the route and never the URL.
func (h *handler) answer(rt route) http.HandlerFunc {
	name := rt.method + " " + rt.path
	return func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				// The value of a panic may hold what was being worked on, and so may the arguments of functions.
				h.log.Error("request panicked", "route", name, "type", fmt.Sprintf("%T", p), "stack", stack())
				writeError(w, 0, AsError(errors.New("panic")))
			}
		}()
		err := rt.serve(h, w, r)
		if err == nil {
			h.log.Debug("request answered", "route", name, "took", time.Since(begun))
			return
		}
		e := AsError(err)
		if e.Code == CodeInternal || e.Code == CodeDamaged {
			h.log.Error("request failed", "route", name, "code", e.Code, "error", err)
		} else {
			h.log.Debug("request refused", "route", name, "code", e.Code, "took", time.Since(begun))
		}
		status := 0
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		writeError(w, status, e)
	}
}

// stack names the functions and lines that led to the panic that is being recovered, without arguments.
func stack() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])]) // behind Callers, this function and the recovering one
	var b strings.Builder
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		fmt.Fprintf(&b, "%s(...)\n\t%s:%d\n", f.Function, f.File, f.Line)
	}
	return b.String()
}

type errorBody struct {
	Error *Error `json:"error"`
}

// writeError answers with e; status 0 takes the one of e's class.
func writeError(w http.ResponseWriter, status int, e *Error) {
	if status == 0 {
		status = e.Code.Class().Status
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = encode(w, errorBody{e}) // the caller is gone if this fails
}

// encode writes v as JSON without escaping < > &, which would change the bytes of a resource inside it.
func encode(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func writeJSON(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if err := encode(w, v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// body reads a request's body whole, at most limit bytes.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		media, _, err := mime.ParseMediaType(kind)
		if err != nil || !slices.Contains(mediaTypes, media) {
			return nil, invalid("only JSON is taken", "send it with Content-Type: application/json")
		}
	}
	reader := http.MaxBytesReader(w, r.Body, limit)
	if size := r.ContentLength; size > 0 && size <= limit {
		data := make([]byte, size)
		if _, err := io.ReadFull(reader, data); err != nil {
			return nil, readError(err, limit)
		}
		return data, nil
	}
	data, err := io.ReadAll(reader)
	if err != nil {
		return nil, readError(err, limit)
	}
	return data, nil
}

// mediaTypes are the bodies that are taken; x-ndjson is what some tools call lines of JSON.
var mediaTypes = []string{"application/json", "application/fhir+json", "application/fhir+ndjson", "application/x-ndjson"}

func readError(err error, limit int64) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Code: CodeInvalid, Message: fmt.Sprintf("the request is larger than %d bytes", limit), Err: err}
	}
	return &Error{Code: CodeInvalid, Message: "the request ended early", Err: err}
}

// decode reads a small JSON object of ours into v: no unknown fields, nothing after it.
func decode(data []byte, v any) error {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, after := dec.Token(); after != io.EOF {
			err = errors.New("data after the end")
		}
	}
	if err != nil {
		// The text of a JSON error may quote a field's name from the input, so it stays out of the answer.
		return &Error{Code: CodeInvalid, Message: "the request is not the JSON object that this path takes", Err: err}
	}
	return nil
}

// query returns the parameters of r; one that is not known is refused, since "?forse=true" must not mean false.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query is not well formed", "")
	}
	for name, given := range values {
		if !slices.Contains(known, name) || len(given) != 1 {
			return nil, invalid("a parameter is unknown or given twice", "this path takes: "+strings.Join(known, ", "))
		}
	}
	return values, nil
}

func boolean(values url.Values, name string) (bool, error) {
	if !values.Has(name) {
		return false, nil
	}
	v, err := strconv.ParseBool(values.Get(name))
	if err != nil {
		return false, invalid(name+" is true or false", "")
	}
	return v, nil
}

func short(values url.Values, name string) (string, error) {
	v := values.Get(name)
	if len(v) > maxVersion {
		return "", invalid(name+" is too long", "")
	}
	return v, nil
}

func pathRef(r *http.Request) (Ref, error) {
	ref := Ref{Type: r.PathValue("type"), ID: r.PathValue("id")}
	if !ref.Valid() {
		return Ref{}, invalid("a resource is named Type/id", "for example Patient/1234")
	}
	return ref, nil
}

func requestUser(r *http.Request) (string, error) {
	user, err := url.PathUnescape(r.Header.Get(HeaderUser))
	if err != nil {
		return "", invalid("the header "+HeaderUser+" is not percent-encoded", "")
	}
	return user, CheckUser(user)
}
