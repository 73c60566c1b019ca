package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"p11-kms.test/client/internal/controlplane"
)

// step is one thing to do or to see.
type step struct {
	name string
	run  func(context.Context, *run) error
}

// FewestRotations are needed for everything that happens around them.
const FewestRotations = 5

func stepsOf(o Options) []step {
	steps := []step{
		{"etcd and three daemons start", daemonsStart},
		{"three kube-apiservers start", apiserversStart},
		{"from now on Secrets are written and read on all nodes", trafficStarts},
		{"rotation 1", rotation(0)},
		{"node 3 is replaced: its state is lost", nodeIsReplaced},
		{"rotation 2, made on the new node", rotation(2)},
		{"rotation 3, node 2 is killed before the KEK is active", nodeIsKilled},
		{"rotation 4, all nodes make a KEK in the same second", allRotate},
	}
	for number := FewestRotations; number <= o.Rotations; number++ {
		steps = append(steps, step{fmt.Sprintf("rotation %d", number), rotation(number % nodes)})
	}
	return append(steps, []step{
		{"every kube-apiserver writes with the last KEK", apiserversFollow},
		{"a kube-apiserver restarts", apiserverRestarts},
		{"every object reads back on every node", everythingReadsBack},
		{"etcd holds all of them encrypted", etcdHoldsCiphertext},
		{"the daemons end in order and leave nothing", daemonsEnd},
	}...)
}

func daemonsStart(ctx context.Context, r *run) (err error) {
	if r.etcd, err = controlplane.StartEtcd(ctx, r.options.Etcd, r.dir); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := n.startDaemon(ctx); err != nil {
			return err
		}
	}
	r.startRecording(ctx)
	return r.allReport(ctx, "")
}

// apiserversStart starts the first alone: it makes what all of them need in etcd.
func apiserversStart(ctx context.Context, r *run) error {
	start := func(number int, n *node) (err error) {
		n.apiserver, err = controlplane.StartAPIServer(ctx, controlplane.Options{
			Program: r.options.KubeAPIServer, Dir: r.dir, Number: number + 1,
			Etcd: r.etcd, EncryptionConfig: n.encryptionConfig,
		})
		return err
	}
	if err := start(0, r.nodes[0]); err != nil {
		return err
	}
	errs := make([]error, nodes)
	var started sync.WaitGroup
	for number, n := range r.nodes[1:] {
		started.Go(func() { errs[number] = start(number+1, n) })
	}
	started.Wait()
	return errors.Join(errs...)
}

func trafficStarts(ctx context.Context, r *run) error {
	if err := r.nodes[0].apiserver.CreateNamespace(ctx); err != nil {
		return err
	}
	for number := range firstCount {
		r.traffic.write(ctx, number%nodes)
	}
	if len(r.traffic.book.all()) == 0 {
		return errors.New("none of the first writes was done")
	}
	r.traffic.start(ctx)
	return nil
}

// nodeIsReplaced has nothing of the old one but its place.
func nodeIsReplaced(ctx context.Context, r *run) error {
	n := r.nodes[2]
	n.leaves()
	if err := errors.Join(n.apiserver.Stop(), n.stopDaemon(), n.forget()); err != nil {
		return err
	}
	if err := n.startDaemon(ctx); err != nil {
		return err
	}
	if err := n.apiserver.Start(ctx); err != nil {
		return err
	}
	if err := r.isBack(ctx, n, r.nodes[0]); err != nil {
		return err
	}
	return r.allReport(ctx, "")
}

func apiserversFollow(ctx context.Context, r *run) error {
	for _, n := range r.nodes {
		if err := r.follows(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// apiserverRestarts loses every seed that is cached: what follows needs Decrypt.
func apiserverRestarts(ctx context.Context, r *run) error {
	r.traffic.end()
	return r.nodes[0].apiserver.Restart(ctx)
}

func everythingReadsBack(ctx context.Context, r *run) error {
	all := r.traffic.book.all()
	for _, o := range all {
		r.everyNodeReads(ctx, o)
	}
	r.say("%d objects on %d nodes, from etcd and from the cache", len(all), nodes)
	return nil // what was wrong is counted
}

func etcdHoldsCiphertext(ctx context.Context, r *run) error {
	values, err := r.etcd.List(ctx, controlplane.SecretsPrefix)
	if err != nil {
		return err
	}
	all := r.traffic.book.all()
	if len(values) < len(all) {
		return fmt.Errorf("etcd holds %d Secrets of %d", len(values), len(all))
	}
	reported := map[string]bool{}
	for _, n := range r.nodes {
		for _, keyID := range n.recorder.keyIDs() {
			reported[keyID] = true
		}
	}
	var secrets []controlplane.Secret
	for _, o := range all {
		secrets = append(secrets, o.everySecret()...)
	}
	r.usedBy = map[string]int{}
	for _, v := range values {
		keyID, err := v.KeyID(prefix, secrets)
		if err == nil && !reported[keyID] {
			err = fmt.Errorf("it needs key_id %q, which no node has ever reported", keyID)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.Key, err)
		}
		r.usedBy[keyID]++
	}
	r.say("%d values, all %s..., under %d KEKs", len(values), prefix, len(r.usedBy))
	return nil
}

func daemonsEnd(_ context.Context, r *run) error {
	r.stopRecording()
	var errs []error
	for _, n := range r.nodes {
		errs = append(errs, n.stopDaemon())
	}
	return errors.Join(errs...)
}
