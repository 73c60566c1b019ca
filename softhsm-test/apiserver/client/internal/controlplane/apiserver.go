// Package controlplane starts what a control plane is made of, etcd and any number
// of kube-apiservers on it, and talks to them as their clients do.
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"p11-kms.test/client/internal/process"
)

// Options say how to start a kube-apiserver. WriteKeys and StartEtcd come first.
type Options struct {
	Program          string
	Dir              string // of the control plane
	Number           int    // which of its kube-apiservers this is, from 1
	Etcd             *Etcd
	EncryptionConfig string // a file
}

// APIServer is one kube-apiserver and the way to talk to it.
type APIServer struct {
	Client
	Process *process.Process
	LogFile string
	command process.Command
}

// StartAPIServer waits until it is ready.
func StartAPIServer(ctx context.Context, o Options) (*APIServer, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	client, err := trusting(o.Dir, "https://"+ports[0])
	if err != nil {
		return nil, err
	}
	log := filepath.Join(o.Dir, fmt.Sprintf("kube-apiserver-%d.log", o.Number))
	a := &APIServer{Client: *client, LogFile: log, command: process.Command{
		Name:    fmt.Sprintf("kube-apiserver %d", o.Number),
		LogFile: log,
		Argv:    append([]string{o.Program}, flags(o, ports[0])...),
	}}
	if err := a.Start(ctx); err != nil {
		if a.Process != nil {
			err = errors.Join(err, a.Process.Kill())
		}
		return nil, err
	}
	return a, nil
}

func flags(o Options, address string) []string {
	host, port, _ := net.SplitHostPort(address)
	file := func(name string) string { return filepath.Join(o.Dir, name) }
	return []string{
		"--bind-address=" + host,
		"--secure-port=" + port,
		"--advertise-address=" + host,
		// Nobody looks for it, and a loopback address is no place to be found at.
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + file(fmt.Sprintf("certificates-%d", o.Number)),
		"--tls-cert-file=" + file(tlsCertFile),
		"--tls-private-key-file=" + file(tlsKeyFile),
		"--etcd-servers=" + o.Etcd.endpoint,
		"--encryption-provider-config=" + o.EncryptionConfig,
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kms-client.invalid",
		"--service-account-key-file=" + file(accountKeyFile),
		"--service-account-signing-key-file=" + file(accountKeyFile),
		// No controller makes service accounts here.
		"--disable-admission-plugins=ServiceAccount",
		// Whoever has the token may do everything, everybody else nothing.
		"--authorization-mode=AlwaysAllow",
		"--token-auth-file=" + file(tokenFile),
		"--anonymous-auth=false",
		"--profiling=false",
	}
}

// trusting makes a client for a server that shows our certificate.
func trusting(dir, base string) (*Client, error) {
	certificate, err := os.ReadFile(filepath.Join(dir, tlsCertFile))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		return nil, errors.New("our own certificate cannot be read")
	}
	tokens, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil {
		return nil, err
	}
	token, _, _ := strings.Cut(string(tokens), ",")
	return NewClient(base, token, &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			// A proxy that the environment names has no business here.
			Proxy: nil,
		},
	}), nil
}

// Start starts it, on its old port after a Stop, and waits until it is ready.
func (a *APIServer) Start(ctx context.Context) error {
	started, err := process.Start(a.command)
	if err != nil {
		return err
	}
	a.Process = started
	return process.Until(ctx, apiserverLimit, "waiting for kube-apiserver to be ready", func(ctx context.Context) error {
		return a.Get(ctx, "/readyz", nil)
	}, a.Process)
}

// Stop insists on an orderly end.
func (a *APIServer) Stop() error {
	if err := a.Process.Stop(apiserverGrace); err != nil {
		return fmt.Errorf("%w\n--- the end of its log\n%s", err, a.Process.Tail())
	}
	return nil
}

// Restart loses every seed that is cached.
func (a *APIServer) Restart(ctx context.Context) error {
	if err := a.Stop(); err != nil {
		return err
	}
	return a.Start(ctx)
}
