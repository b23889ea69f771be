package client

import (
	"io"
	"net/http"
	"sync"
)

// direct is an http.RoundTripper that calls a handler: the same path as over a socket, without one.
type direct struct {
	handler http.Handler
}

func (d *direct) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	r.RequestURI = req.URL.RequestURI()
	r.Host = req.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	body, out := io.Pipe()
	w := &directWriter{header: http.Header{}, out: out, begun: make(chan struct{})}
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Trailer: http.Header{}, Body: body,
		ContentLength: -1, Request: req}
	go func() {
		defer func() {
			p := recover() // the handler aborts by a panic
			_ = r.Body.Close()
			w.WriteHeader(http.StatusOK)
			for _, name := range w.sent["Trailer"] {
				resp.Trailer[name] = w.header[name]
			}
			if p != nil {
				_ = out.CloseWithError(io.ErrUnexpectedEOF)
			} else {
				_ = out.Close()
			}
		}()
		d.handler.ServeHTTP(w, r)
	}()
	select {
	case <-w.begun:
	case <-req.Context().Done():
		_ = body.Close()
		return nil, req.Context().Err()
	}
	resp.StatusCode, resp.Header = w.status, w.sent
	return resp, nil
}

// directWriter is the handler's side. The handler alone uses it until begun is closed.
type directWriter struct {
	header http.Header
	out    *io.PipeWriter
	once   sync.Once
	begun  chan struct{}
	status int
	sent   http.Header // as it was when the answer began
}

func (w *directWriter) Header() http.Header { return w.header }

func (w *directWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.begun)
	})
}

func (w *directWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(p)
}

// Flush satisfies http.Flusher: the pipe holds nothing back.
func (w *directWriter) Flush() { w.WriteHeader(http.StatusOK) }
