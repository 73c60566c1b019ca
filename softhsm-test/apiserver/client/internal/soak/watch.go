package soak

import (
	"sync"
	"time"

	"p11-kms.test/client/internal/procfs"
)

const sampleEvery = 100 * time.Millisecond

// watcher looks at the front and its workers ten times a second.
type watcher struct {
	front  int
	logins logins
	ended  chan struct{}
	done   sync.WaitGroup

	mutex  sync.Mutex // guards what follows
	seen   seen
	failed error
}

func startWatching(front int, log string) *watcher {
	w := &watcher{
		front:  front,
		logins: logins{file: log, pids: map[int]bool{}},
		ended:  make(chan struct{}),
		seen:   seen{workers: map[int]*Worker{}},
	}
	w.done.Go(func() {
		for {
			w.look()
			select {
			case <-w.ended:
				return
			case <-time.After(sampleEvery):
			}
		}
	})
	return w
}

func (w *watcher) stop() {
	close(w.ended)
	w.done.Wait()
}

// begin forgets what the front held so far: from here on it must not grow.
func (w *watcher) begin() {
	w.look()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.seen.begin()
}

func (w *watcher) report() (*Report, error) {
	w.look()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.seen.report(), w.failed
}

func (w *watcher) look() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.failed == nil {
		w.failed = w.sample()
	}
}

func (w *watcher) sample() error {
	if err := w.logins.look(); err != nil {
		return err
	}
	front, err := procfs.SizeOf(w.front)
	if err != nil {
		return err
	}
	children, err := procfs.Children(w.front)
	if err != nil {
		return err
	}
	workers, zombies := map[int]procfs.Size{}, 0
	for _, child := range children {
		switch {
		case child.Ended():
			zombies++
		case w.logins.pids[child.PID]:
			// One that has ended meanwhile is simply not there.
			if size, err := procfs.SizeOf(child.PID); err == nil {
				workers[child.PID] = size
			}
		}
	}
	w.seen.add(front, workers, zombies)
	return nil
}
