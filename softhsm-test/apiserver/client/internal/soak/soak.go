// Package soak keeps p11-kms busy for long and watches what its processes hold:
// memory, threads and descriptors.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/process"
	"p11-kms.test/client/internal/procfs"
	"p11-kms.test/client/internal/token"
)

const (
	// The front's buffers and threads come with the first calls.
	warmUpOperations = 5000
	// What is in flight comes to its end before the front is looked at.
	rest = 2 * time.Second

	startLimit = 30 * time.Second
	stopLimit  = 15 * time.Second
)

// Options say what to run.
type Options struct {
	P11KMS     string // path of the program
	Module     string // the SoftHSM module
	Operations int
	Callers    int
	Log        io.Writer
}

// Run makes a token in a temporary directory and removes it at the end. A call
// that fails is an error. A report with problems in it is none: it was measured.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	dir, err := os.MkdirTemp("", "kms-client-soak-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	t, err := token.Make(ctx, dir, o.Module)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	config, endpoint := filepath.Join(dir, "config.toml"), "unix://"+filepath.Join(dir, "kms.sock")
	if err := t.WriteConfig(config, t.Module, endpoint); err != nil {
		return nil, err
	}
	if err := t.Run(ctx, o.P11KMS, "--config", config, "key", "generate"); err != nil {
		return nil, err
	}
	client, hangUp, err := kms.BareClient(endpoint)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	daemon, err := process.Start(process.Command{
		Name: "p11-kms",
		// Without the line for each call, which would fill the disk. The logins
		// are needed.
		Argv:    []string{o.P11KMS, "--config", config, "--log", "warn,p11_kms::token=info", "--log-format", "json", "serve"},
		Env:     t.Env,
		LogFile: filepath.Join(dir, "log"),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, daemon.Stop(stopLimit)); err != nil || report.Failed() != nil {
			fmt.Fprintf(o.Log, "--- the end of the log of p11-kms\n%s\n", daemon.Tail())
		}
	}()
	err = process.Until(ctx, startLimit, "waiting for p11-kms to be well", func(ctx context.Context) error {
		_, err := kms.Healthy(ctx, client)
		return err
	}, daemon)
	if err != nil {
		return nil, err
	}
	return measure(ctx, o, client, daemon.PID(), filepath.Join(dir, "log"))
}

// measure counts one connection as the client's own: the one that it calls on.
func measure(ctx context.Context, o Options, client kmsapi.KeyManagementServiceClient, front int, log string) (*Report, error) {
	w := startWatching(front, log)
	defer w.stop()

	fmt.Fprintf(o.Log, "%d calls to warm up\n", warmUpOperations)
	if err := drive(ctx, client, warmUpOperations, o.Callers); err != nil {
		return nil, fmt.Errorf("warming up: %w", err)
	}
	if err := pause(ctx); err != nil {
		return nil, err
	}
	w.begin()
	before, err := procfs.CPUTime(front)
	if err != nil {
		return nil, err
	}

	fmt.Fprintf(o.Log, "%d calls, %d at once\n", o.Operations, o.Callers)
	start := time.Now()
	if err := drive(ctx, client, o.Operations, o.Callers); err != nil {
		return nil, err
	}
	took := time.Since(start)
	if err := pause(ctx); err != nil {
		return nil, err
	}
	after, err := procfs.CPUTime(front)
	if err != nil {
		return nil, err
	}

	report, err := w.report()
	if err != nil {
		return nil, err
	}
	report.Operations = o.Operations
	report.Seconds = took.Seconds()
	report.CPUPerCall = float64(after-before) / float64(time.Microsecond) / float64(o.Operations)
	report.Problems = judge(report)
	return report, nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rest):
		return nil
	}
}
