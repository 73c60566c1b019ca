package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"p11-kms.test/client/internal/controlplane"
)

const (
	// Ten Secrets a second in all.
	writers    = 2
	writeEvery = 200 * time.Millisecond

	readers   = 4
	readEvery = 100 * time.Millisecond
)

// traffic writes and reads Secrets all the time.
type traffic struct {
	server *controlplane.Client
	stop   context.CancelFunc
	done   sync.WaitGroup

	mutex  sync.Mutex            // guards what follows
	next   int                   // the number of the next Secret
	stored []controlplane.Secret // whose writes were acknowledged
	counts counts
	// The first of each kind.
	writeError, readError error
}

type counts struct{ written, writesFailed, read, readsFailed int }

func (c counts) since(before counts) counts {
	return counts{
		c.written - before.written, c.writesFailed - before.writesFailed,
		c.read - before.read, c.readsFailed - before.readsFailed,
	}
}

func (c counts) String() string {
	return fmt.Sprintf("%d writes (%d more failed), %d reads (%d more failed)",
		c.written, c.writesFailed, c.read, c.readsFailed)
}

// startTraffic begins with what is stored already, which is not empty.
func startTraffic(ctx context.Context, server *controlplane.Client, stored []controlplane.Secret) *traffic {
	ctx, stop := context.WithCancel(ctx)
	t := &traffic{server: server, stop: stop, next: len(stored) + 1, stored: stored}
	for range writers {
		t.done.Go(func() { controlplane.Repeat(ctx, writeEvery, t.write) })
	}
	for range readers {
		t.done.Go(func() { controlplane.Repeat(ctx, readEvery, t.read) })
	}
	return t
}

// end waits for the requests in flight, and returns what is stored now.
func (t *traffic) end() []controlplane.Secret {
	t.stop()
	t.done.Wait()
	return t.stored
}

func (t *traffic) write(ctx context.Context) {
	t.mutex.Lock()
	s := newSecret(t.next)
	t.next++
	t.mutex.Unlock()

	_, err := t.server.CreateSecret(ctx, s)

	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err == nil {
		t.counts.written++
		t.stored = append(t.stored, s)
		return
	}
	t.counts.writesFailed++
	if t.writeError == nil {
		t.writeError = fmt.Errorf("writing %s: %w", s.Name, err)
	}
}

func (t *traffic) read(ctx context.Context) {
	t.mutex.Lock()
	s := t.stored[rand.IntN(len(t.stored))]
	t.mutex.Unlock()

	err := t.server.CheckSecret(ctx, s)

	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err == nil {
		t.counts.read++
		return
	}
	t.counts.readsFailed++
	if t.readError == nil {
		t.readError = fmt.Errorf("reading %s: %w", s.Name, err)
	}
}

// look returns what has been counted so far, and the first errors.
func (t *traffic) look() (now counts, writeError, readError error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.counts, t.writeError, t.readError
}
