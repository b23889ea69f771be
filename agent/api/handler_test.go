package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
	"chartmesh/internal/fuzzing"
)

const berg = `{"resourceType":"Patient","id":"p1","name":[{"family":"Bérg <&>"}],"x":1.50}`

func serve(agent api.Agent, method, target, body string, header ...string) *http.Response {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	req.Host = api.Host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	api.NewHandler(agent, api.Options{}).ServeHTTP(rec, req)
	return rec.Result()
}

// TestRequests holds what each route answers to requests that are good, wrong and hostile.
func TestRequests(t *testing.T) {
	user := []string{api.HeaderUser, "Dr.%20B%C3%A9rg"}
	for _, test := range []struct {
		name, method, target, body string
		header                     []string
		status                     int
		code                       api.Code
	}{
		{name: "put", method: "PUT", target: "/v1/resources", body: berg, header: user, status: 200},
		{name: "put existing", method: "PUT", target: "/v1/resources", body: `{"resourceType":"Patient","id":"old","n":2}`, header: user,
			status: 409, code: api.CodeConflict},
		{name: "put forced", method: "PUT", target: "/v1/resources?force=true", body: `{"resourceType":"Patient","id":"old","n":2}`,
			header: user, status: 200},
		{name: "put without a user", method: "PUT", target: "/v1/resources", body: berg, status: 400, code: api.CodeInvalid},
		{name: "put by a control character", method: "PUT", target: "/v1/resources", body: berg, header: []string{api.HeaderUser, "a%0Ab"},
			status: 400, code: api.CodeInvalid},
		{name: "put by too long a name", method: "PUT", target: "/v1/resources", body: berg,
			header: []string{api.HeaderUser, strings.Repeat("a", 257)}, status: 400, code: api.CodeInvalid},
		{name: "put with a misspelt parameter", method: "PUT", target: "/v1/resources?forse=true", body: berg, header: user,
			status: 400, code: api.CodeInvalid},
		{name: "put with a parameter twice", method: "PUT", target: "/v1/resources?force=true&force=false", body: berg, header: user,
			status: 400, code: api.CodeInvalid},
		{name: "put XML", method: "PUT", target: "/v1/resources", body: "<Patient/>", header: append(slices.Clone(user), "Content-Type",
			"application/fhir+xml"), status: 400, code: api.CodeInvalid},
		{name: "put too much", method: "PUT", target: "/v1/resources", body: strings.Repeat(" ", api.MaxResource+1), header: user,
			status: 413, code: api.CodeInvalid},
		{name: "put from a foreign page", method: "PUT", target: "/v1/resources", body: berg,
			header: append(slices.Clone(user), "Sec-Fetch-Site", "cross-site"), status: 403, code: api.CodeForbidden},
		{name: "get", method: "GET", target: "/v1/resources/Patient/old", status: 200},
		{name: "get what is not", method: "GET", target: "/v1/resources/Patient/none", status: 404, code: api.CodeNotFound},
		{name: "get what was deleted", method: "GET", target: "/v1/resources/Patient/gone", status: 410, code: api.CodeDeleted},
		{name: "get a strange type", method: "GET", target: "/v1/resources/patient/1", status: 400, code: api.CodeInvalid},
		{name: "get a strange id", method: "GET", target: "/v1/resources/Patient/a_b", status: 400, code: api.CodeInvalid},
		{name: "get a long version", method: "GET", target: "/v1/resources/Patient/old?version=" + strings.Repeat("0", 200), status: 400,
			code: api.CodeInvalid},
		{name: "delete", method: "DELETE", target: "/v1/resources/Patient/old", header: user, status: 200},
		{name: "history", method: "GET", target: "/v1/resources/Patient/old/history", status: 200},
		{name: "find", method: "POST", target: "/v1/find", body: `{"text":"a"}`, status: 200},
		{name: "find nothing", method: "POST", target: "/v1/find", body: `{"text":""}`, status: 400, code: api.CodeInvalid},
		{name: "find with an unknown field", method: "POST", target: "/v1/find", body: `{"text":"a","x":1}`, status: 400, code: api.CodeInvalid},
		{name: "find with more behind", method: "POST", target: "/v1/find", body: `{"text":"a"} {}`, status: 400, code: api.CodeInvalid},
		{name: "invite", method: "POST", target: "/v1/invites", body: `{"role":"member"}`, status: 200},
		{name: "invite for years", method: "POST", target: "/v1/invites", body: `{"expires_ns":9000000000000000000}`, status: 400,
			code: api.CodeInvalid},
		{name: "network", method: "PUT", target: "/v1/network", body: `{"online":false}`, status: 200},
		{name: "network unsaid", method: "PUT", target: "/v1/network", body: `{}`, status: 400, code: api.CodeInvalid},
		{name: "compact", method: "POST", target: "/v1/compaction", status: 200},
		{name: "compact something", method: "POST", target: "/v1/compaction?document=x", status: 400, code: api.CodeInvalid},
		{name: "status", method: "GET", target: "/v1/status", status: 200},
		{name: "status of a stranger", method: "GET", target: "/v1/status?peer=x", status: 404, code: api.CodeNotFound},
		{name: "wait that ends", method: "GET", target: "/v1/status?wait=in-sync&timeout=1ms", status: 504, code: api.CodeTimeout},
		{name: "wait for something else", method: "GET", target: "/v1/status?wait=easter", status: 400, code: api.CodeInvalid},
		{name: "import", method: "POST", target: "/v1/import", body: berg + "\n\n" + berg + "\n", header: user, status: 200},
		{name: "import too many", method: "POST", target: "/v1/import", body: strings.Repeat("1\n", api.MaxImportResources+1), header: user,
			status: 400, code: api.CodeInvalid},
		{name: "export", method: "GET", target: "/v1/export", status: 200},
		{name: "export a strange format", method: "GET", target: "/v1/export?format=xml", status: 400, code: api.CodeInvalid},
		{name: "conflicts", method: "GET", target: "/v1/conflicts", status: 200},
		{name: "no such conflict", method: "GET", target: "/v1/conflicts/x", status: 404, code: api.CodeNotFound},
		{name: "decide both ways", method: "POST", target: "/v1/conflicts/x/decision", body: `{"choose":0,"value":1}`, header: user,
			status: 400, code: api.CodeInvalid},
		{name: "decide nothing", method: "POST", target: "/v1/conflicts/x/decision", body: `{}`, header: user, status: 400,
			code: api.CodeInvalid},
		{name: "held", method: "GET", target: "/v1/quarantine?state=parked&limit=1000&discarded=true", status: 200},
		{name: "held in no state", method: "GET", target: "/v1/quarantine?state=lost", status: 400, code: api.CodeInvalid},
		{name: "held without end", method: "GET", target: "/v1/quarantine?limit=1001", status: 400, code: api.CodeInvalid},
		{name: "held none", method: "GET", target: "/v1/quarantine?limit=0", status: 400, code: api.CodeInvalid},
		{name: "no such chunk", method: "GET", target: "/v1/quarantine/abcd", status: 404, code: api.CodeNotFound},
		{name: "decide on a chunk without a user", method: "POST", target: "/v1/quarantine/abcd/decision", body: `{"verdict":"discard"}`,
			status: 400, code: api.CodeInvalid},
		{name: "decide on a chunk otherwise", method: "POST", target: "/v1/quarantine/abcd/decision", body: `{"verdict":"burn"}`, header: user,
			status: 400, code: api.CodeInvalid},
		{name: "decide with a long reason", method: "POST", target: "/v1/quarantine/abcd/decision", header: user,
			body: `{"verdict":"discard","reason":"` + strings.Repeat("a", api.MaxReason+1) + `"}`, status: 400, code: api.CodeInvalid},
		{name: "decide with lines for a reason", method: "POST", target: "/v1/quarantine/abcd/decision", header: user,
			body: `{"verdict":"discard","reason":"a
b"}`, status: 400, code: api.CodeInvalid},
		{name: "decide on no chunk", method: "POST", target: "/v1/quarantine/abcd/decision", body: `{"verdict":"discard"}`, header: user,
			status: 404, code: api.CodeNotFound},
		{name: "retry all", method: "POST", target: "/v1/quarantine/all/retry", status: 200},
		{name: "events", method: "GET", target: "/v1/events", status: 200},
		{name: "events since a word", method: "GET", target: "/v1/events?since=x", status: 400, code: api.CodeInvalid},
		{name: "another method", method: "PATCH", target: "/v1/resources/Patient/old", status: 405, code: api.CodeInvalid},
		{name: "another path", method: "GET", target: "/v2/status", status: 404, code: api.CodeNotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			agent := apitest.New()
			for _, id := range []string{"old", "gone"} {
				if _, err := agent.Put(t.Context(), "a", json.RawMessage(`{"resourceType":"Patient","id":"`+id+`"}`), false); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := agent.Delete(t.Context(), "a", api.Ref{Type: "Patient", ID: "gone"}); err != nil {
				t.Fatal(err)
			}
			resp := serve(agent, test.method, test.target, test.body, test.header...)
			data, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, test.status, data)
			}
			if test.status == 200 {
				return
			}
			var answer struct{ Error *api.Error }
			if err := json.Unmarshal(data, &answer); err != nil || answer.Error == nil {
				t.Fatalf("the answer is no error: %s", data)
			}
			if answer.Error.Code != test.code || answer.Error.Message == "" {
				t.Errorf("error %+v, want code %s", answer.Error, test.code)
			}
		})
	}
}

func TestHost(t *testing.T) {
	for host, want := range map[string]int{"chartmesh": 200, "localhost:80": 200, "[::1]:80": 200, "127.0.0.1": 200,
		"evil.example": 403, "": 403} {
		req := httptest.NewRequest("GET", "/v1/status", nil)
		req.Host = host
		rec := httptest.NewRecorder()
		api.NewHandler(apitest.New(), api.Options{}).ServeHTTP(rec, req)
		if rec.Code != want {
			t.Errorf("host %q: status %d, want %d", host, rec.Code, want)
		}
	}
}

// TestInternal holds that the text of an error which is not the API's own stays inside.
func TestInternal(t *testing.T) {
	agent := apitest.New()
	agent.Fail("Get", errors.New("read Sigrid Canary's chart"))
	resp := serve(agent, "GET", "/v1/resources/Patient/1", "")
	data, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 500 || strings.Contains(string(data), "Canary") {
		t.Errorf("status %d: %s", resp.StatusCode, data)
	}
	agent.Fail("Get", fmt.Errorf("outer: %w", &api.Error{Code: api.CodeDamaged, Message: "a value is damaged"}))
	if resp := serve(agent, "GET", "/v1/resources/Patient/1", ""); resp.StatusCode != 500 {
		t.Errorf("status %d, want 500", resp.StatusCode)
	}
}

type panicking struct{ api.Agent }

func (panicking) Conflicts(context.Context) ([]api.Conflict, error) {
	fall([8]byte{0xca, 0x4a, 0x17, 0xca, 0x4a, 0x17, 0xca, 0x4a})
	return nil, nil
}

//go:noinline
func fall([8]byte) { panic("Sigrid Canary") }

// TestPanic: neither the answer nor the log holds the value of a panic or arguments of functions; the log says where it was.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	h := api.NewHandler(panicking{apitest.New()}, api.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://"+api.Host+"/v1/conflicts", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "Canary") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	said := log.String()
	if strings.Contains(said, "Canary") || strings.Contains(said, "0x") {
		t.Errorf("the log holds data: %s", said)
	}
	if !strings.Contains(said, "api_test.fall(...)") || !strings.Contains(said, "handler_test.go:") {
		t.Errorf("the log does not say where it was: %s", said)
	}
}

// TestClasses holds that every code is in the table once, and that scripts can rely on the exit codes.
func TestClasses(t *testing.T) {
	want := map[api.Code]int{api.CodeInternal: 1, api.CodeInvalid: 2, api.CodeNotFound: 3, api.CodeDeleted: 3, api.CodeConflict: 4,
		api.CodeUnavailable: 5, api.CodeTimeout: 6, api.CodeForbidden: 8, api.CodeInUse: 9, api.CodeDamaged: 10, api.CodeIncompat: 11,
		api.CodeGone: 12, api.CodeFull: 13, api.CodeHeld: 14, api.CodeLease: 15}
	classes := api.Classes()
	for _, c := range classes {
		if exit, ok := want[c.Code]; !ok || exit != c.Exit {
			t.Errorf("%s exits with %d, want %d", c.Code, c.Exit, exit)
		}
		if c.Exit == api.ExitRefused || c.Exit == api.ExitOK || c.Status < 400 || c.Meaning == "" {
			t.Errorf("%+v is not a class of error", c)
		}
		delete(want, c.Code)
	}
	if len(want) != 0 {
		t.Errorf("not in the table: %v", want)
	}
	if !slices.IsSortedFunc(classes, func(a, b api.Class) int { return a.Exit - b.Exit }) {
		t.Error("the table is not ascending")
	}
	if api.Code("new").Class().Code != api.CodeInternal {
		t.Error("an unknown code is not internal")
	}
}

func TestAsError(t *testing.T) {
	for _, test := range []struct {
		err  error
		want api.Code
	}{
		{nil, ""},
		{context.DeadlineExceeded, api.CodeTimeout},
		{fmt.Errorf("wait: %w", context.Canceled), api.CodeUnavailable},
		{errors.New("x"), api.CodeInternal},
		{fmt.Errorf("read: %w", &api.Error{Code: api.CodeGone}), api.CodeGone},
	} {
		if got := api.CodeOf(test.err); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"Patient/1", "P/a.b-C"} {
		if ref, err := api.ParseRef(s); err != nil || ref.String() != s {
			f.Fatalf("seed %s is read as %v: %v", s, ref, err)
		}
		f.Add(s)
	}
	for _, s := range []string{"Patient/", "/1", "patient/1", "Patient/1/2", "Ünit/1", "Patient/" + fuzzing.Canary + "!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var ref api.Ref
		var err error
		fuzzing.Allocates(t, len(s), 2, 4<<10, func() { ref, err = api.ParseRef(s) })
		fuzzing.Quiet(t, err)
		if err == nil && (ref.String() != s || !ref.Valid()) {
			t.Errorf("%q became %q", s, ref)
		}
	})
}

// FuzzHandler holds that whatever is asked is answered, that each refusal is an Error, and that no refusal repeats what
// was sent.
func FuzzHandler(f *testing.F) {
	answer := func(t testing.TB, method, target, body, user, kind, last string) (*httptest.ResponseRecorder, bool) {
		req, err := http.NewRequest(method, "http://chartmesh"+target, strings.NewReader(body))
		if err != nil || req.Host != api.Host {
			return nil, false // no request, or one for another host
		}
		if strings.Contains(target, "wait") || strings.Contains(target, "follow") {
			// One that may wait, of somebody who has hung up.
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			req = req.WithContext(ctx)
		}
		req.Header.Set(api.HeaderUser, user)
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Last-Event-ID", last)
		agent := apitest.New()
		agent.AddConflict(api.Conflict{ID: "c", Values: make([]api.ConflictValue, 2)})
		rec := httptest.NewRecorder()
		api.NewHandler(agent, api.Options{}).ServeHTTP(rec, req)
		return rec, true
	}
	const js = "application/json"
	for _, seed := range [][5]string{{"GET", "/v1/status"}, {"PUT", "/v1/resources?force=true", berg, "application/fhir+json"},
		{"POST", "/v1/find", `{"text":"a"}`, js}, {"POST", "/v1/import", berg + "\n", "application/x-ndjson; charset=utf-8"},
		{"POST", "/v1/conflicts/c/decision", `{"choose":1}`, js}, {"GET", "/v1/events?since=0", "", "", "7"},
		{"POST", "/v1/invites", `{"role":"admin","expires_ns":60000000000}`, js}, {"PUT", "/v1/network", `{"online":false}`, js},
		{"GET", "/v1/conflicts/c"}, {"GET", "/v1/quarantine?state=parked&limit=5&discarded=1&after=00"}, {"GET", "/v1/export?format=bundle&meta=1"}} {
		if rec, ok := answer(f, seed[0], seed[1], seed[2], "a%20b", seed[3], seed[4]); !ok || rec.Code != 200 {
			f.Fatalf("seed %v is refused: %s", seed, rec.Body)
		}
		f.Add(seed[0], seed[1], seed[2], "a%20b", seed[3], seed[4])
	}
	f.Add("GET", "/v1/quarantine?state=quarantined&limit=5&after=x", "", "", "", "")
	f.Add("GET", "/v1/status?wait=in-sync&timeout=1h", "", "", "", "")
	f.Add("GET", "/v1/events?follow=true", "", "", "", "3")
	f.Add("PATCH", "/v1/network", "{}", "a", js, "")
	f.Add("GET", "/v1/resources/Patient/"+fuzzing.Canary+"/history", "", "%zz", "", "x")
	f.Add("POST", "/v1/find", `{"`+fuzzing.Canary+`":1}`, fuzzing.Canary, js, fuzzing.Canary)
	f.Add("POST", "/v1/conflicts/c/decision", `{"value":"`+fuzzing.Canary+`"`, "a", js, "")
	f.Fuzz(func(t *testing.T, method, target, body, user, kind, last string) {
		rec, ok := answer(t, method, target, body, user, kind, last)
		if !ok || rec.Code/100 == 2 || rec.Code/100 == 3 {
			return // 3: the path was cleaned
		}
		var refusal struct{ Error *api.Error }
		if err := json.Unmarshal(rec.Body.Bytes(), &refusal); err != nil || refusal.Error == nil || refusal.Error.Code == "" {
			t.Fatalf("%s %s: %d %q", method, target, rec.Code, rec.Body)
		}
		if refusal.Error.Code == api.CodeInvalid { // that there is no such resource says which one
			fuzzing.Quiet(t, refusal.Error)
		}
		if rec.Code >= 500 && refusal.Error.Code != api.CodeUnavailable {
			t.Errorf("%s %s: %d", method, target, rec.Code)
		}
	})
}
