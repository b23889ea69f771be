package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

// canned answers every request alike.
type canned struct {
	status  int
	header  http.Header
	body    []byte
	trailer string
	length  int64
}

func (c canned) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: c.status, Header: c.header, Body: io.NopCloser(bytes.NewReader(c.body)),
		ContentLength: c.length, Trailer: http.Header{api.TrailerResult: {c.trailer}}}, nil
}

// FuzzAnswers has an agent of another version answer, or something else that listens on its socket: the client returns
// what it understood or an Error, and no more events than came.
func FuzzAnswers(f *testing.F) {
	// ask asks for everything that is read in a way of its own.
	ask := func(c canned) (events int, errs []error) {
		client := &Client{http: &http.Client{Transport: c}}
		ctx := context.Background()
		_, err := client.Status(ctx, "")
		errs = append(errs, err)
		_, err = client.Conflicts(ctx)
		errs = append(errs, err)
		_, err = client.Get(ctx, api.Ref{Type: "Patient", ID: "1"}, "")
		errs = append(errs, err)
		errs = append(errs, client.Export(ctx, io.Discard, api.ExportOptions{}))
		errs = append(errs, client.HoldLease(ctx, "", api.LeaseRequest{Name: "billing"}, func(api.Lease) error { return nil }))
		errs = append(errs, client.Events(ctx, 0, false, func(api.Event) error { events++; return nil }))
		return events, errs
	}
	// What a real agent answers is understood.
	agent := apitest.New()
	for i, path := range []string{"/v1/status", "/v1/conflicts", "/v1/events?since=0", "/v1/nothing"} {
		rec := httptest.NewRecorder()
		api.NewHandler(agent, api.Options{}).ServeHTTP(rec, httptest.NewRequest("GET", "http://"+api.Host+path, nil))
		_, errs := ask(canned{status: rec.Code, header: rec.Header(), body: rec.Body.Bytes(), length: -1})
		if understood := []int{0, 1, 5}; i < len(understood) && errs[understood[i]] != nil {
			f.Fatalf("%s: %v", path, errs[understood[i]])
		}
		f.Add(rec.Code, rec.Body.Bytes(), "0", "ok", int64(-1))
	}
	f.Add(200, []byte("event: conflict\ndata: {\"cursor\":1}\n\nevent: error\ndata: {\"code\":\"gone\"}\n\n"), "1", `{"code":"internal"}`, int64(-1))
	f.Add(200, []byte("data: x"), "x", "", int64(1<<20))
	f.Add(500, []byte(`{"error":{}}`), "", "", int64(-5))
	f.Fuzz(func(t *testing.T, status int, body []byte, conflicts, trailer string, length int64) {
		if length > 1<<20 {
			length = 1 << 20 // a real transport would read as much before it failed
		}
		head := http.Header{}
		head.Set(api.HeaderConflicts, conflicts)
		head.Set(api.HeaderUpdated, "2026-11-25T00:00:00Z")
		events, errs := ask(canned{status: status, header: head, body: body, trailer: trailer, length: length})
		if events > bytes.Count(body, []byte("\n"))+1 {
			t.Errorf("%d events in %q", events, body)
		}
		for i, err := range errs {
			if err != nil && api.CodeOf(err) == "" {
				t.Errorf("request %d: an error without a code: %v", i, err)
			}
			if status/100 != 2 && err == nil {
				t.Errorf("request %d was answered %d, and that is no error", i, status)
			}
		}
	})
}
