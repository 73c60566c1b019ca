package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	pollEvery   = 100 * time.Millisecond
	linesOfTail = 20
	tailBytes   = 16 << 10
)

// Until calls try until it returns nil. It gives up when the limit has passed or
// when one of the processes ends, and then shows the ends of their logs.
func Until(ctx context.Context, limit time.Duration, what string, try func(context.Context) error, processes ...*Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	for {
		err := try(ctx)
		// Looked at after a success too: it may have been another's server that
		// answered on this port.
		for _, p := range processes {
			select {
			case <-p.Ended():
				return describe(what, fmt.Errorf("%s ended: %s", p.name, p.command.ProcessState), err, processes)
			default:
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return describe(what, context.Cause(ctx), err, processes)
		case <-time.After(pollEvery):
		}
	}
}

func describe(what string, reason, last error, processes []*Process) error {
	text := fmt.Sprintf("%s: %v (last seen: %v)", what, reason, last)
	for _, p := range processes {
		text += fmt.Sprintf("\n--- the end of the log of %s\n%s", p.name, p.Tail())
	}
	return errors.New(text)
}

// Tail is the end of what the process has written.
func (p *Process) Tail() string {
	file, err := os.Open(p.logFile)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(info.Size()-tailBytes, 0)
	text := make([]byte, info.Size()-from)
	n, _ := file.ReadAt(text, from)
	lines := strings.Split(strings.TrimRight(string(text[:n]), "\n"), "\n")
	return strings.Join(lines[max(len(lines)-linesOfTail, 0):], "\n")
}
