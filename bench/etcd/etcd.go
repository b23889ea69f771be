package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcdEngine is etcd as it comes: its defaults, with TLS, on loopback.
type etcdEngine struct{}

func (etcdEngine) name() string { return "etcd" }

func etcdURL(port int) url.URL {
	return url.URL{Scheme: "https", Host: "127.0.0.1:" + strconv.Itoa(port)}
}

// ports: of node i 2i for clients and 2i+1 for peers.
func (etcdEngine) node(ctx context.Context, p plan, i int, ready func()) error {
	cfg := embed.NewConfig()
	cfg.Name = fmt.Sprintf("node%d", i)
	cfg.Dir = filepath.Join(p.Dir, cfg.Name)
	cfg.Logger, cfg.LogLevel, cfg.LogOutputs = "zap", "fatal", []string{"stderr"}
	client, peer := etcdURL(p.Ports[2*i]), etcdURL(p.Ports[2*i+1])
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	var all []string
	for j := range p.Voters {
		u := etcdURL(p.Ports[2*j+1])
		all = append(all, fmt.Sprintf("node%d=%s", j, u.String()))
	}
	cfg.InitialCluster = strings.Join(all, ",")
	info := transport.TLSInfo{CertFile: p.Certs.Cert, KeyFile: p.Certs.Key, TrustedCAFile: p.Certs.CA, ClientCertAuth: true}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = info, info
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
		ready()
	case err := <-e.Err():
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return err
	}
}

type etcdClient struct{ c *clientv3.Client }

func (etcdEngine) connect(ctx context.Context, p plan) (connection, error) {
	var ends []string
	for i := range p.Voters {
		u := etcdURL(p.Ports[2*i])
		ends = append(ends, u.String())
	}
	info := transport.TLSInfo{CertFile: p.Certs.Cert, KeyFile: p.Certs.Key, TrustedCAFile: p.Certs.CA}
	tls, err := info.ClientConfig()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: ends, TLS: tls, DialTimeout: 10 * time.Second, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	return etcdClient{c}, nil
}

type etcdWorker struct {
	c       *clientv3.Client
	session *concurrency.Session
	mutex   *concurrency.Mutex
	name    string
	counter string
}

func (e etcdClient) worker(_ context.Context, name, circle string) (worker, error) {
	s, err := concurrency.NewSession(e.c, concurrency.WithTTL(int(ttl.Seconds())))
	if err != nil {
		return nil, err
	}
	return &etcdWorker{c: e.c, session: s, mutex: concurrency.NewMutex(s, "/lock/"+name), name: name, counter: "/circle/" + circle}, nil
}

func (e etcdClient) close() error { return e.c.Close() }

func (w *etcdWorker) lock(ctx context.Context) error {
	if err := w.mutex.Lock(ctx); err != nil {
		return err
	}
	return w.mutex.Unlock(ctx)
}

// assign gives an item the next number of a circle, as one would with etcd's own means: a software transaction over the item and the counter.
func (w *etcdWorker) assign(ctx context.Context, item string) (n uint64, err error) {
	_, err = concurrency.NewSTM(w.c, func(s concurrency.STM) error {
		key := w.counter + "/item/" + item
		if got := s.Get(key); got != "" {
			n, err = strconv.ParseUint(got, 10, 64)
			return err
		}
		n = 0
		if last := s.Get(w.counter); last != "" {
			if n, err = strconv.ParseUint(last, 10, 64); err != nil {
				return err
			}
		}
		n++
		s.Put(w.counter, strconv.FormatUint(n, 10))
		s.Put(key, strconv.FormatUint(n, 10))
		return nil
	}, concurrency.WithAbortContext(ctx), concurrency.WithIsolation(concurrency.RepeatableReads))
	return n, err
}

func (w *etcdWorker) close(context.Context) error { return w.session.Close() }
