package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"p11-kms.test/client/internal/process"
)

// apiserver is one kube-apiserver and the way to talk to it.
type apiserver struct {
	command process.Command
	process *process.Process
	base    string
	token   string
	http    *http.Client
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	server := &apiserver{base: "https://" + ports[0]}
	if err := server.trust(c); err != nil {
		return err
	}
	number := len(c.apiservers) + 1
	server.command = process.Command{
		Name:    fmt.Sprintf("kube-apiserver %d", number),
		LogFile: c.path(fmt.Sprintf("kube-apiserver-%d.log", number)),
		Argv:    append([]string{c.options.KubeAPIServer}, c.apiserverFlags(ports[0], number)...),
	}
	if server.process, err = process.Start(server.command); err != nil {
		return err
	}
	c.apiservers = append(c.apiservers, server)
	return server.becomesReady(ctx)
}

func (c *Cluster) apiserverFlags(address string, number int) []string {
	host, port, _ := net.SplitHostPort(address)
	return []string{
		"--bind-address=" + host,
		"--secure-port=" + port,
		"--advertise-address=" + host,
		// Nobody looks for it, and a loopback address is no place to be found at.
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + c.path(fmt.Sprintf("certificates-%d", number)),
		"--tls-cert-file=" + c.path(tlsCertFile),
		"--tls-private-key-file=" + c.path(tlsKeyFile),
		"--etcd-servers=" + c.etcd.endpoint,
		"--encryption-provider-config=" + c.path(encryptionFile),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kms-client.invalid",
		"--service-account-key-file=" + c.path(accountKeyFile),
		"--service-account-signing-key-file=" + c.path(accountKeyFile),
		// No controller makes service accounts here.
		"--disable-admission-plugins=ServiceAccount",
		// Whoever has the token may do everything, everybody else nothing.
		"--authorization-mode=AlwaysAllow",
		"--token-auth-file=" + c.path(tokenFile),
		"--anonymous-auth=false",
		"--profiling=false",
	}
}

func (a *apiserver) trust(c *Cluster) error {
	certificate, err := os.ReadFile(c.path(tlsCertFile))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		return errors.New("our own certificate cannot be read")
	}
	tokens, err := os.ReadFile(c.path(tokenFile))
	if err != nil {
		return err
	}
	a.token, _, _ = strings.Cut(string(tokens), ",")
	a.http = &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			// A proxy that the environment names has no business here.
			Proxy: nil,
		},
	}
	return nil
}

func (a *apiserver) becomesReady(ctx context.Context) error {
	return process.Until(ctx, apiserverLimit, "waiting for kube-apiserver to be ready", func(ctx context.Context) error {
		return a.get(ctx, "/readyz", nil)
	}, a.process)
}

func (a *apiserver) restart(ctx context.Context) error {
	if err := a.process.Stop(apiserverGrace); err != nil {
		return fmt.Errorf("%w\n--- the end of its log\n%s", err, a.process.Tail())
	}
	started, err := process.Start(a.command)
	if err != nil {
		return err
	}
	a.process = started
	return a.becomesReady(ctx)
}

// kmsHealth is what a load balancer or a monitor would ask.
func (a *apiserver) kmsHealth(ctx context.Context) error {
	return a.get(ctx, "/healthz/kms-providers", nil)
}
