package process

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Command{
		Name: "sh", Argv: []string{"sh", "-c", script}, LogFile: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

func TestStopTakesTheWholeGroup(t *testing.T) {
	p := start(t, "setsid sleep 60 & sleep 60 & echo started; wait")
	err := Until(t.Context(), time.Second, "start", func(context.Context) error {
		if p.Tail() != "started" {
			return errors.New("not yet")
		}
		return nil
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	family := p.family()
	if err := p.Stop(time.Second); err == nil || !strings.Contains(err.Error(), "left processes behind") {
		t.Errorf("the orphan was not reported: %v", err)
	}
	if left := p.alive(family); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	p := start(t, "trap '' TERM; while :; do sleep 1; done")
	time.Sleep(100 * time.Millisecond) // for the trap
	if err := p.Stop(100 * time.Millisecond); err == nil {
		t.Error("that it had to be killed was not reported")
	}
}

func TestUntilShowsTheLogOfAProcessThatEnded(t *testing.T) {
	p := start(t, "echo the reason; exit 7")
	err := Until(t.Context(), 5*time.Second, "waiting", func(context.Context) error {
		return errors.New("not yet")
	}, p)
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("got %v", err)
	}
}

func TestUntilGivesUp(t *testing.T) {
	p := start(t, "sleep 60")
	err := Until(t.Context(), 150*time.Millisecond, "waiting", func(context.Context) error {
		return errors.New("not yet")
	}, p)
	if err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}
