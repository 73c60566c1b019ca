// Package rotation tests a control plane of three nodes while its KEK is rotated:
// three daemons on one token, three real kube-apiservers on one etcd, writers and
// readers on all of them, and nodes that are replaced or killed meanwhile.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/token"
)

const nodes = 3

// Options say what to run.
type Options struct {
	P11KMS          string // path of the program
	Module          string // the SoftHSM module
	KubeAPIServer   string
	Etcd            string
	KeyCommand      string // of `p11-kms key`, which makes the next KEK
	Rotations       int    // at least FewestRotations
	ActivationDelay time.Duration
	Follow          bool // wait after each rotation until every kube-apiserver writes with its KEK
	Log             io.Writer
}

// run is what the steps work on.
type run struct {
	options Options
	dir     string
	token   *token.Token
	etcd    *controlplane.Etcd
	nodes   []*node
	traffic traffic

	recording sync.WaitGroup
	stop      context.CancelFunc // of the recorders

	keyID  string         // the active one, on all nodes
	usedBy map[string]int // how many objects in etcd need each key_id
}

// Run takes the steps in order and stops at the first that fails. The report says
// what was counted so far. Whatever the outcome, nothing that it started is left.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	dir, err := os.MkdirTemp("", "kms-client-rotation-")
	if err != nil {
		return nil, err
	}
	r := &run{options: o, dir: dir}
	defer func() { err = errors.Join(err, r.tearDown()) }()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	start := time.Now()
	steps := stepsOf(o)
	for number, step := range steps {
		fmt.Fprintf(o.Log, "%2d/%d after %3.0f s: %s\n", number+1, len(steps), time.Since(start).Seconds(), step.name)
		if err := step.run(ctx, r); err != nil {
			return r.report(start), errors.Join(fmt.Errorf("step %d, %s: %w", number+1, step.name, err), r.problems())
		}
	}
	return r.report(start), r.problems()
}

// say adds a line to the log of the step that runs.
func (r *run) say(format string, values ...any) {
	fmt.Fprintf(r.options.Log, "      "+format+"\n", values...)
}

// prepare makes the token with its first KEK, and all files.
func (r *run) prepare(ctx context.Context) (err error) {
	if err := controlplane.WriteKeys(r.dir); err != nil {
		return err
	}
	if r.token, err = token.Make(ctx, r.dir, r.options.Module); err != nil {
		return fmt.Errorf("making a token: %w", err)
	}
	for number := range nodes {
		n, err := newNode(r.options, r.token, r.dir, number+1)
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, n)
	}
	r.traffic.nodes = r.nodes
	_, err = r.p11kms(ctx, r.nodes[0], "key", "generate")
	return err
}

// p11kms runs a command with the node's config, and returns what it prints.
func (r *run) p11kms(ctx context.Context, n *node, args ...string) ([]byte, error) {
	output, err := r.token.Output(ctx, commandLimit, r.options.P11KMS, append([]string{"--config", n.config}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	return output, nil
}

func (r *run) startRecording(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	for _, n := range r.nodes {
		r.recording.Go(func() { n.recorder.run(ctx) })
	}
}

func (r *run) stopRecording() {
	if r.stop != nil {
		r.stop()
	}
	r.recording.Wait()
}

// problems is everything that was wrong beside the steps.
func (r *run) problems() error {
	_, err := r.traffic.look()
	errs := []error{err}
	for _, n := range r.nodes {
		errs = append(errs, n.recorder.wrong())
	}
	return errors.Join(errs...)
}

// tearDown kills: what the steps wanted to see of an orderly end they have seen.
func (r *run) tearDown() error {
	r.stopRecording()
	if r.traffic.stop != nil {
		r.traffic.stop()
	}
	var errs []error
	for _, n := range r.nodes {
		if n.apiserver != nil {
			errs = append(errs, n.apiserver.Process.Kill())
		}
		if n.daemon != nil {
			errs = append(errs, n.daemon.Kill())
		}
	}
	if r.etcd != nil {
		errs = append(errs, r.etcd.Process.Kill())
	}
	r.traffic.end()
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}
