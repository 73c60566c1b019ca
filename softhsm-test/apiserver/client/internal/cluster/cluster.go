// Package cluster tests a plugin from end to end: a real etcd, a real
// kube-apiserver, Secrets, and the troubles of an ordinary day.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/encryption"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/process"
)

// Options say what to run.
type Options struct {
	Plugin           []string // the command that serves
	EncryptionConfig []byte   // what kube-apiserver is given
	KubeAPIServer    string
	Etcd             string
	Secrets          int
	FaultControl     string        // where the token is lost by; empty: it never is
	LostFor          time.Duration // how long
	Log              io.Writer
}

// StepResult says how long a step took.
type StepResult struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// Cluster is what the steps work on. One that is not running is nil.
type Cluster struct {
	options  Options
	dir      string
	provider encryption.Provider

	plugin     *process.Process
	etcd       *controlplane.Etcd
	apiservers []*controlplane.APIServer // in a list: a control plane may have several

	secrets []controlplane.Secret

	// While the token is lost.
	traffic      *traffic
	lostAt       time.Time
	countsBefore counts
}

// Run takes the steps in order and stops at the first that fails. Whatever the
// outcome, nothing that it started is left.
func Run(ctx context.Context, options Options) (results []StepResult, err error) {
	dir, err := os.MkdirTemp("", "kms-client-cluster-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: options, dir: dir}
	defer func() { err = errors.Join(err, c.tearDown()) }()
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	steps := ordinarySteps
	if options.FaultControl != "" {
		steps = lostSteps
	}
	for number, step := range steps {
		fmt.Fprintf(options.Log, "%2d/%d %s\n", number+1, len(steps), step.name)
		start := time.Now()
		if err := step.run(ctx, c); err != nil {
			return results, fmt.Errorf("step %d, %s: %w", number+1, step.name, err)
		}
		results = append(results, StepResult{step.name, time.Since(start)})
	}
	return results, nil
}

// encryptionFile is in the temporary directory.
const encryptionFile = "encryption.yaml"

// path names a file in the temporary directory.
func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// say adds a line to the log of the step that runs.
func (c *Cluster) say(format string, values ...any) {
	fmt.Fprintf(c.options.Log, "      "+format+"\n", values...)
}

func (c *Cluster) writeFiles() error {
	if err := os.WriteFile(c.path(encryptionFile), c.options.EncryptionConfig, 0o600); err != nil {
		return err
	}
	var err error
	if c.provider, err = encryption.Read(c.path(encryptionFile)); err != nil {
		return fmt.Errorf("the EncryptionConfiguration: %w", err)
	}
	return controlplane.WriteKeys(c.dir)
}

// tearDown kills: what the steps wanted to see of an orderly end they have seen.
func (c *Cluster) tearDown() error {
	var errs []error
	if c.traffic != nil {
		c.traffic.stop()
	}
	for _, server := range c.apiservers {
		errs = append(errs, server.Process.Kill())
	}
	if c.plugin != nil {
		errs = append(errs, c.plugin.Kill())
	}
	if c.etcd != nil {
		errs = append(errs, c.etcd.Process.Kill())
	}
	if c.traffic != nil {
		c.traffic.end()
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

func (c *Cluster) startPlugin(ctx context.Context) error {
	plugin, err := process.Start(process.Command{
		Name: "the plugin", Argv: c.options.Plugin, LogFile: c.path("plugin.log"),
	})
	if err != nil {
		return err
	}
	c.plugin = plugin
	client, hangUp, err := kms.BareClient(c.provider.Endpoint)
	if err != nil {
		return err
	}
	defer hangUp()
	return process.Until(ctx, pluginLimit, "waiting for the plugin to be well", func(ctx context.Context) error {
		_, err := kms.Healthy(ctx, client)
		return err
	}, plugin)
}

// stopPlugin insists on an orderly end that leaves nothing.
func (c *Cluster) stopPlugin() error {
	plugin := c.plugin
	c.plugin = nil
	if err := plugin.Stop(pluginLimit); err != nil {
		return fmt.Errorf("%w\n--- the end of its log\n%s", err, plugin.Tail())
	}
	return nil
}

func (c *Cluster) startEtcd(ctx context.Context) (err error) {
	c.etcd, err = controlplane.StartEtcd(ctx, c.options.Etcd, c.dir)
	return err
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	server, err := controlplane.StartAPIServer(ctx, controlplane.Options{
		Program: c.options.KubeAPIServer, Dir: c.dir, Number: len(c.apiservers) + 1,
		Etcd: c.etcd, EncryptionConfig: c.path(encryptionFile),
	})
	if err != nil {
		return err
	}
	c.apiservers = append(c.apiservers, server)
	return nil
}

// keyID asks the plugin itself, beside the apiserver.
func (c *Cluster) keyID(ctx context.Context) (string, error) {
	client, hangUp, err := kms.BareClient(c.provider.Endpoint)
	if err != nil {
		return "", err
	}
	defer hangUp()
	status, err := kms.Healthy(ctx, client)
	if err != nil {
		return "", err
	}
	return status.KeyId, nil
}
