package rotation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/encryption"
	"p11-kms.test/client/internal/process"
)

// What every value in etcd has to begin with.
var prefix = encryption.Provider{Name: providerName}.Prefix()

// rotation is the ordinary one, made with the config of one node.
func rotation(by int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		return r.rotate(ctx, r.nodes[by:by+1], nil)
	}
}

// nodeIsKilled kills a daemon between its first sight of the KEK and the end of the
// delay, and starts it again.
func nodeIsKilled(ctx context.Context, r *run) error {
	n, other := r.nodes[1], r.nodes[0]
	known, err := n.found()
	if err != nil {
		return err
	}
	return r.rotate(ctx, []*node{other}, func(ctx context.Context) error {
		err := n.until(ctx, activeLimit, "the new KEK in its log", func() (bool, error) {
			count, err := n.found()
			return count > known, err
		})
		if err != nil {
			return err
		}
		n.leaves()
		if err := n.kill(); err != nil {
			return err
		}
		if r.options.ActivationDelay >= shortestDelay && n.recorder.last() != r.keyID {
			return fmt.Errorf("%s had the KEK active before it was killed", n.name)
		}
		if err := n.startDaemon(ctx); err != nil {
			return err
		}
		return r.isBack(ctx, n, other)
	})
}

func allRotate(ctx context.Context, r *run) error { return r.rotate(ctx, r.nodes, nil) }

// rotate makes a KEK on each of the nodes, all at once, and waits until it is active
// everywhere.
func (r *run) rotate(ctx context.Context, by []*node, meanwhile func(context.Context) error) error {
	old, start := r.keyID, time.Now()
	if err := r.makeKEKs(ctx, by); err != nil {
		return err
	}
	if meanwhile != nil {
		if err := meanwhile(ctx); err != nil {
			return err
		}
	}
	if err := r.becomesActive(ctx, old, start); err != nil {
		return err
	}
	if err := r.allReport(ctx, old); err != nil {
		return err
	}
	for _, n := range r.nodes {
		active, err := n.activeKEKs(ctx, r)
		if err != nil {
			return err
		}
		if !slices.Equal(active, []string{r.keyID}) {
			return fmt.Errorf("%s has %q active, all report %q", n.name, active, r.keyID)
		}
	}
	if r.options.Follow {
		return apiserversFollow(ctx, r)
	}
	return nil
}

func (r *run) makeKEKs(ctx context.Context, by []*node) error {
	said, errs := make([][]byte, len(by)), make([]error, len(by))
	start := time.Now()
	var made sync.WaitGroup
	for number, n := range by {
		made.Go(func() { said[number], errs[number] = r.p11kms(ctx, n, "key", r.options.KeyCommand) })
	}
	made.Wait()
	for number, n := range by {
		first, _, _ := bytes.Cut(said[number], []byte("\n"))
		r.say("%s: key %s: %s", n.name, r.options.KeyCommand, first)
	}
	r.say("%d at once took %s", len(by), since(start))
	return errors.Join(errs...)
}

// becomesActive waits until every node reports another key_id than the old one. As
// soon as one does, something is written with it, and all have to read that.
func (r *run) becomesActive(ctx context.Context, old string, start time.Time) error {
	waiting := slices.Clone(r.nodes)
	for len(waiting) > 0 {
		var next *node
		err := waiting[0].until(ctx, r.options.ActivationDelay+activeLimit, "another key_id", func() (bool, error) {
			turned := slices.IndexFunc(waiting, func(n *node) bool { return n.recorder.last() != old })
			if turned >= 0 {
				next = waiting[turned]
				waiting = slices.Delete(waiting, turned, turned+1)
			}
			return turned >= 0, nil
		})
		if err != nil {
			return err
		}
		// A KEK is seen after it was made, so this holds however slow the machine is.
		took := next.recorder.firstChangeAfter(start).Sub(start)
		if took < r.options.ActivationDelay {
			return fmt.Errorf("%s uses the KEK %s after it was asked for, the activation delay is %s",
				next.name, took, r.options.ActivationDelay)
		}
		r.say("%s has another key_id after %s", next.name, took.Round(10*time.Millisecond))
		o, err := r.neighbourWrites(ctx, next)
		if err != nil {
			return err
		}
		r.everyNodeReads(ctx, o)
		r.traffic.book.giveBack(o)
	}
	return nil
}

// allReport waits until all nodes report one key_id that is not the old one, and have
// done so for as long as a further KEK of the same moment would need.
func (r *run) allReport(ctx context.Context, old string) error {
	settled := r.options.ActivationDelay + 2*scanInterval
	err := r.nodes[0].until(ctx, settled+activeLimit, "one key_id on all nodes", func() (bool, error) {
		for _, n := range r.nodes {
			keyID := n.recorder.last()
			if keyID == "" || keyID == old || keyID != r.nodes[0].recorder.last() {
				return false, nil
			}
			if old != "" && time.Since(n.recorder.lastChange()) < settled {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		var found []string
		for _, n := range r.nodes {
			found = append(found, n.recorder.last())
		}
		return fmt.Errorf("%w\nthe nodes report %q", err, found)
	}
	r.keyID = r.nodes[0].recorder.last()
	return nil
}

// follows writes through the node's kube-apiserver until that takes the seed of the
// active KEK for it.
func (r *run) follows(ctx context.Context, n *node) error {
	start := time.Now()
	o := r.traffic.book.fresh("follow")
	defer r.traffic.book.giveBack(o)
	err := process.Until(ctx, apiserverLimit, "waiting for the kube-apiserver of "+n.name+" to write with the new KEK", func(ctx context.Context) error {
		pause(ctx, askEvery)
		s, number, replaces := o.next()
		version, err := put(ctx, n, s, replaces, false)
		if err != nil {
			return err
		}
		o.acknowledge(number, version)
		values, err := r.etcd.List(ctx, s.StorageKey())
		if err != nil || len(values) != 1 {
			return fmt.Errorf("etcd has %d values for %s: %w", len(values), s.Name, err)
		}
		keyID, err := values[0].KeyID(prefix, []controlplane.Secret{s})
		if err == nil && keyID != r.keyID {
			err = fmt.Errorf("it writes with key_id %q, not %q", keyID, r.keyID)
		}
		return err
	}, n.apiserver.Process, n.daemon)
	if err == nil {
		r.say("%s: after %s", n.name, since(start))
	}
	return err
}

func since(start time.Time) time.Duration { return time.Since(start).Round(100 * time.Millisecond) }
