// Package process runs the programs a test needs and sees to it that none of
// them outlives it: not after an error, not after a signal, not after a crash.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"p11-kms.test/client/internal/procfs"
)

const (
	// How long processes may take to vanish after SIGKILL.
	killLimit = 10 * time.Second
	killAgain = 10 * time.Millisecond

	// How long what a process has started may outlive it.
	orphanLimit = 2 * time.Second
)

// Command says what to run and where its output goes.
type Command struct {
	Name    string // in messages
	Argv    []string
	Env     []string // added to ours
	LogFile string
}

// Process is a running program, at the head of a process group of its own.
type Process struct {
	name    string
	logFile string
	command *exec.Cmd
	ended   chan struct{}
}

// Start runs the command with its output going to the end of the log file.
func Start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	command := exec.Command(c.Argv[0], c.Argv[1:]...)
	command.Env = append(os.Environ(), c.Env...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{
		// A group of its own: Ctrl-C reaches us alone, and we end the others in
		// the right order, with all that they started.
		Setpgid: true,
		// For the case that we are killed and cannot do that.
		Pdeathsig: syscall.SIGKILL,
	}
	if err := startOnLastingThread(command); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Name, err)
	}
	p := &Process{name: c.Name, logFile: c.LogFile, command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait() // how it ended is read from ProcessState
		close(p.ended)
	}()
	return p, nil
}

type startRequest struct {
	command *exec.Cmd
	answer  chan error
}

var startRequests = make(chan startRequest)

func init() {
	// The parent-death signal is sent when the thread that forked ends. Go ends
	// threads as it likes, except one that a goroutine holds on to.
	go func() {
		runtime.LockOSThread()
		for request := range startRequests {
			request.answer <- request.command.Start()
		}
	}()
}

func startOnLastingThread(command *exec.Cmd) error {
	request := startRequest{command, make(chan error)}
	startRequests <- request
	return <-request.answer
}

// PID is the process's number, also after it has ended.
func (p *Process) PID() int { return p.command.Process.Pid }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop asks with SIGTERM and waits up to grace. Afterwards nothing of it is left.
// It is an error if the process, or one that it had started, had to be killed.
func (p *Process) Stop(grace time.Duration) error {
	family := p.family()
	_ = p.command.Process.Signal(syscall.SIGTERM)
	return errors.Join(p.endsWithin(grace, family), p.kill(family))
}

func (p *Process) endsWithin(grace time.Duration, family []int) error {
	select {
	case <-p.ended:
	case <-time.After(grace):
		return fmt.Errorf("%s did not end within %s of SIGTERM", p.name, grace)
	}
	for end := time.Now().Add(orphanLimit); time.Now().Before(end); time.Sleep(pollEvery) {
		if len(p.alive(family)) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s ended and left processes behind: %v", p.name, p.alive(family))
}

// Kill ends the process and all that it has started, at once.
func (p *Process) Kill() error { return p.kill(p.family()) }

func (p *Process) kill(family []int) error {
	for end := time.Now().Add(killLimit); time.Now().Before(end); time.Sleep(killAgain) {
		left := p.alive(family)
		if len(left) == 0 {
			<-p.ended
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("%s: processes %v do not die", p.name, p.alive(family))
}

// family are the processes that descend from this one, also those that have
// left its group.
func (p *Process) family() []int {
	found, _ := procfs.Descendants(p.PID())
	var pids []int
	for _, other := range found {
		pids = append(pids, other.PID)
	}
	return pids
}

// alive are those of the group and the family that run. Ended ones do not count:
// an orphan's entry stays until the init process looks at it, which is not ours
// to wait for.
func (p *Process) alive(family []int) []int {
	all, _ := procfs.All()
	var pids []int
	for _, other := range all {
		ours := other.Group == p.PID() || slices.Contains(family, other.PID)
		if ours && !other.Ended() {
			pids = append(pids, other.PID)
		}
	}
	return pids
}
