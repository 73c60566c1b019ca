package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"p11-kms.test/client/internal/controlplane"
)

// counts are those of all nodes.
type counts struct {
	reads        int
	readsExcused int // of those that failed: the test had stopped the node
	readsFailed  int
	writes       int
	writesTried  int // again: the test had stopped the node, or a first try was done after all
	writesFailed int
}

// traffic writes and reads on all nodes all the time.
type traffic struct {
	nodes []*node
	book  book

	stop context.CancelFunc
	done sync.WaitGroup

	mutex    sync.Mutex // guards what follows
	counts   counts
	problems []error
}

// start begins one writer, a reader of etcd, a reader of the watch cache and a
// load balancer's questions for each node.
func (t *traffic) start(ctx context.Context) {
	ctx, t.stop = context.WithCancel(ctx)
	for number, n := range t.nodes {
		t.repeat(ctx, writeEvery, func(ctx context.Context) { t.write(ctx, number) })
		t.repeat(ctx, readEvery, func(ctx context.Context) { t.read(ctx, n, t.book.any(), false) })
		t.repeat(ctx, readEvery, func(ctx context.Context) { t.read(ctx, n, t.book.any(), true) })
		// With nobody to ask, a kube-apiserver takes a minute to see a new key_id.
		t.repeat(ctx, askEvery, func(ctx context.Context) { _ = n.apiserver.KMSHealth(ctx) })
	}
}

// end waits for what is in flight.
func (t *traffic) end() {
	if t.stop != nil {
		t.stop()
	}
	t.done.Wait()
}

// repeat makes a request every so often until ctx ends, beside all others.
func (t *traffic) repeat(ctx context.Context, every time.Duration, request func(context.Context)) {
	t.done.Go(func() { controlplane.Repeat(ctx, every, request) })
}

// read is never tried again. It wants what was acknowledged before it began, or
// something newer, also from the watch cache.
func (t *traffic) read(ctx context.Context, n *node, o *object, cached bool) {
	absence := n.absence()
	known, version := o.now()
	from := "the watch cache"
	if !cached {
		from, version = "etcd", ""
	}
	value, _, err := n.apiserver.ReadSecret(ctx, o.name, version)
	away := err != nil && n.wasAway(absence)
	if err == nil {
		err = o.check(value, known)
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.counts.reads++
	switch {
	case err == nil:
	case away:
		t.counts.readsExcused++
	default:
		t.counts.readsFailed++
		t.problems = append(t.problems, fmt.Errorf("%s: reading %s from %s: %w", n.name, o.name, from, err))
	}
}

// write makes or changes one object, on another node where the first one is away.
func (t *traffic) write(ctx context.Context, first int) {
	o := t.book.borrow()
	defer t.book.giveBack(o)
	s, number, replaces := o.next()
	for try := range writeTries {
		n := t.nodes[(first+try)%len(t.nodes)]
		version, err := t.tryToWrite(ctx, n, s, replaces, try > 0)
		if err == nil {
			o.acknowledge(number, version)
			t.count(func(c *counts) { c.writes++ })
			return
		}
		t.count(func(c *counts) { c.writesTried++ })
		time.Sleep(lookEvery)
	}
	t.count(func(c *counts) { c.writesFailed++ })
	t.problem(fmt.Errorf("writing %s: it was tried %d times", s.Name, writeTries))
}

// tryToWrite looks first when it may have been done already: a try whose answer was
// lost is no failure. On a node that is not away every try has to succeed.
func (t *traffic) tryToWrite(ctx context.Context, n *node, s controlplane.Secret, replaces string, again bool) (string, error) {
	absence := n.absence()
	version, err := put(ctx, n, s, replaces, again)
	if err != nil && !n.wasAway(absence) && !controlplane.IsConflict(err) {
		t.problem(fmt.Errorf("%s: writing %s: %w", n.name, s.Name, err))
	}
	return version, err
}

func put(ctx context.Context, n *node, s controlplane.Secret, replaces string, again bool) (string, error) {
	if again {
		value, version, err := n.apiserver.ReadSecret(ctx, s.Name, "")
		switch {
		case controlplane.IsNotFound(err):
			replaces = ""
		case err != nil:
			return "", err
		case value == s.Value:
			return version, nil
		default:
			replaces = version
		}
	}
	if replaces == "" {
		return n.apiserver.CreateSecret(ctx, s)
	}
	return n.apiserver.UpdateSecret(ctx, s, replaces)
}

func (t *traffic) count(one func(*counts)) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	one(&t.counts)
}

func (t *traffic) problem(err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.problems = append(t.problems, err)
}

// look returns what has been counted so far, and whether anything was wrong.
func (t *traffic) look() (counts, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.counts, firstOf(t.problems)
}

// problemsShown: one cause fails many calls in the same way.
const problemsShown = 5

func firstOf(problems []error) error {
	if len(problems) <= problemsShown {
		return errors.Join(problems...)
	}
	more := fmt.Errorf("and %d more", len(problems)-problemsShown)
	return errors.Join(append(problems[:problemsShown:problemsShown], more)...)
}
