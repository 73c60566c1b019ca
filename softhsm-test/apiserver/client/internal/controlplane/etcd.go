package controlplane

import (
	"context"
	"errors"
	"net"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"p11-kms.test/client/internal/process"
)

// Etcd is one member that is a cluster of its own.
type Etcd struct {
	Process  *process.Process
	endpoint string
}

// StartEtcd keeps its data and its log in the directory.
func StartEtcd(ctx context.Context, program, dir string) (*Etcd, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	clients, peers := "http://"+ports[0], "http://"+ports[1]
	p, err := process.Start(process.Command{
		Name:    "etcd",
		LogFile: filepath.Join(dir, "etcd.log"),
		Argv: []string{
			program,
			"--name=default",
			"--data-dir=" + filepath.Join(dir, "etcd"),
			"--listen-client-urls=" + clients,
			"--advertise-client-urls=" + clients,
			"--listen-peer-urls=" + peers,
			"--initial-advertise-peer-urls=" + peers,
			"--initial-cluster=default=" + peers,
		},
	})
	if err != nil {
		return nil, err
	}
	e := &Etcd{Process: p, endpoint: clients}
	err = process.Until(ctx, etcdLimit, "waiting for etcd", func(ctx context.Context) error {
		_, err := e.List(ctx, "health")
		return err
	}, p)
	if err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return e, nil
}

// Stored is one value as etcd has it.
type Stored struct {
	Key   string
	Value []byte
}

// List is everything below the prefix.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Stored, error) {
	var found []Stored
	err := e.call(ctx, func(ctx context.Context, client *clientv3.Client) error {
		answer, err := client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, pair := range answer.Kvs {
			found = append(found, Stored{string(pair.Key), pair.Value})
		}
		return nil
	})
	return found, err
}

// Put writes past every kube-apiserver, and returns the revision.
func (e *Etcd) Put(ctx context.Context, s Stored) (int64, error) {
	var revision int64
	err := e.call(ctx, func(ctx context.Context, client *clientv3.Client) error {
		answer, err := client.Put(ctx, s.Key, string(s.Value))
		if err != nil {
			return err
		}
		revision = answer.Header.Revision
		return nil
	})
	return revision, err
}

func (e *Etcd) call(ctx context.Context, with func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, Context: ctx})
	if err != nil {
		return err
	}
	defer client.Close()
	return with(ctx, client)
}

// freePorts finds loopback addresses that nobody uses.
func freePorts(count int) ([]string, error) {
	var addresses []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// Held until all are found, so that they differ.
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}
