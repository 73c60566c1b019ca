package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"p11-kms.test/client/internal/process"
)

type etcd struct {
	process  *process.Process
	endpoint string
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	clients, peers := "http://"+ports[0], "http://"+ports[1]
	p, err := process.Start(process.Command{
		Name:    "etcd",
		LogFile: c.path("etcd.log"),
		Argv: []string{
			c.options.Etcd,
			"--name=default",
			"--data-dir=" + c.path("etcd"),
			"--listen-client-urls=" + clients,
			"--advertise-client-urls=" + clients,
			"--listen-peer-urls=" + peers,
			"--initial-advertise-peer-urls=" + peers,
			"--initial-cluster=default=" + peers,
		},
	})
	if err != nil {
		return err
	}
	c.etcd = &etcd{process: p, endpoint: clients}
	return process.Until(ctx, etcdLimit, "waiting for etcd", func(ctx context.Context) error {
		_, err := c.etcd.list(ctx, "health")
		return err
	}, p)
}

// stored is one value as etcd has it.
type stored struct {
	key   string
	value []byte
}

func (e *etcd) list(ctx context.Context, prefix string) ([]stored, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, Context: ctx})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	answer, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	var found []stored
	for _, pair := range answer.Kvs {
		found = append(found, stored{string(pair.Key), pair.Value})
	}
	return found, nil
}

func etcdHoldsCiphertext(ctx context.Context, c *Cluster) error {
	keyID, err := c.keyID(ctx)
	if err != nil {
		return err
	}
	values, err := c.etcd.list(ctx, "/registry/secrets/")
	if err != nil {
		return err
	}
	if len(values) < len(c.secrets) {
		return fmt.Errorf("etcd holds %d Secrets of %d", len(values), len(c.secrets))
	}
	for _, v := range values {
		if err := c.isCiphertext(v, keyID); err != nil {
			return fmt.Errorf("%s: %w", v.key, err)
		}
	}
	c.say("%d values, all %s... under key_id %s", len(values), c.provider.Prefix(), keyID)
	return nil
}

func (c *Cluster) isCiphertext(v stored, keyID string) error {
	rest, encrypted := bytes.CutPrefix(v.value, []byte(c.provider.Prefix()))
	if !encrypted {
		return fmt.Errorf("it begins %q", v.value[:min(len(v.value), 32)])
	}
	for _, s := range c.secrets {
		text := []byte(base64.StdEncoding.EncodeToString([]byte(s.value)))
		if bytes.Contains(v.value, []byte(s.value)) || bytes.Contains(v.value, text) {
			return errors.New("it holds plaintext")
		}
	}
	var object kmstypes.EncryptedObject
	if err := proto.Unmarshal(rest, &object); err != nil {
		return err
	}
	if object.KeyID != keyID {
		return fmt.Errorf("it needs key_id %q, the plugin has %q", object.KeyID, keyID)
	}
	return nil
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
