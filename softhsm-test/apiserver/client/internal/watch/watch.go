// Package watch calls a plugin without end, as kube-apiserver does, while
// somebody else breaks things. It tells what failed, and proves that what came
// back was right.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/kms/pkg/service"
	"p11-kms.test/client/internal/kms"
)

const (
	providerName = "kms-client-watch"
	uid          = "kms-client-watch"

	beatEvery   = 100 * time.Millisecond
	statusEvery = 100 * time.Millisecond

	// A plugin that fails at once is not to be flooded.
	restAfterFailure = 10 * time.Millisecond

	waitEvery = 20 * time.Millisecond
)

// Options say what to call.
type Options struct {
	Endpoint string
	Callers  int
	Timeout  time.Duration // of each call
	Wait     time.Duration // for the first good round trip
	Events   io.Writer     // gets a line of JSON for each event
}

// ErrWrong says that an answer was wrong, which no trouble excuses.
var ErrWrong = errors.New("there were wrong answers")

// watch is what all callers share.
type watch struct {
	plugin service.Service
	stop   context.Context // no new calls after its end
	alive  context.Context // those in flight live longer
	record *record
	keyIDs *keyIDs
}

// Run calls until stop ends. What is in flight then comes to its own end.
func Run(stop context.Context, o Options) error {
	alive, hangUp := context.WithCancel(context.WithoutCancel(stop))
	defer hangUp()
	plugin, keyID, err := firstRoundTrip(stop, alive, o)
	if err != nil {
		return err
	}
	w := &watch{
		plugin: plugin, stop: stop, alive: alive,
		record: newRecord(o.Events, time.Now()), keyIDs: newKeyIDs(keyID),
	}
	w.record.ready()
	var done sync.WaitGroup
	for range o.Callers {
		done.Go(newCaller(w, max(oldPairs/o.Callers, 1)).run)
	}
	done.Go(w.askStatus)
	done.Go(func() {
		for w.sleeps(beatEvery) {
			w.record.beat(time.Now())
		}
		w.record.stopped(time.Now())
	})
	done.Wait()
	return w.record.summary()
}

// sleeps says whether to go on afterwards.
func (w *watch) sleeps(pause time.Duration) bool {
	select {
	case <-w.stop.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// firstRoundTrip waits for a plugin that answers as it should, and returns the
// client and the key_id.
func firstRoundTrip(stop, alive context.Context, o Options) (service.Service, string, error) {
	ctx, cancel := context.WithTimeoutCause(stop, o.Wait, fmt.Errorf("no good round trip within %s", o.Wait))
	defer cancel()
	until := func(try func() error) error {
		var last error
		for {
			err := try()
			if err == nil {
				return nil
			}
			// The end of the time cuts a try off, which says nothing.
			if ctx.Err() == nil || last == nil {
				last = err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", context.Cause(ctx), last)
			case <-time.After(waitEvery):
			}
		}
	}
	if err := until(func() error { return kms.Listens(stop, o.Endpoint) }); err != nil {
		return nil, "", err
	}
	plugin, err := kms.RealClient(alive, o.Endpoint, providerName, o.Timeout)
	if err != nil {
		return nil, "", err
	}
	var keyID string
	err = until(func() error {
		var err error
		keyID, err = roundTrip(ctx, plugin)
		return err
	})
	return plugin, keyID, err
}

func roundTrip(ctx context.Context, plugin service.Service) (string, error) {
	status, err := plugin.Status(ctx)
	if err != nil {
		return "", err
	}
	if status.Healthz != "ok" {
		return "", fmt.Errorf("healthz is %q", status.Healthz)
	}
	seed := kms.RandomSeed()
	sealed, err := plugin.Encrypt(ctx, uid, seed)
	if err != nil {
		return "", err
	}
	opened, err := plugin.Decrypt(ctx, uid, requestFor(sealed))
	if err != nil {
		return "", err
	}
	if digestOf(opened) != digestOf(seed) {
		return "", ErrWrong
	}
	return status.KeyID, nil
}

// askStatus asks on its own, so that a slow call does not hide a slow Status.
func (w *watch) askStatus() {
	for w.sleeps(statusEvery) {
		waiting := w.keyIDs.unconfirmed()
		begun := time.Now()
		status, err := w.plugin.Status(w.alive)
		w.record.status(status, err, begun, time.Now())
		if err != nil || status.Healthz != "ok" {
			continue
		}
		for _, keyID := range w.keyIDs.confirm(status.KeyID, waiting) {
			w.record.wrong("Encrypt", fmt.Sprintf("key_id %q is not that of Status, which is %q", keyID, status.KeyID))
		}
	}
}
