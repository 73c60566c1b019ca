package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// A child says "ready", waits for a line, loops, and prints its count.
type child struct {
	command *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

func runChildren(o options) (*Result, error) {
	// The parent-death signal follows the thread that forked, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var children []*child
	defer func() {
		for _, c := range children {
			_ = c.command.Process.Kill()
			_ = c.command.Wait()
		}
	}()
	// One after the other: SoftHSM writes its token file anew at each login, and
	// who reads it at that moment finds no token.
	for range o.processes {
		c, err := startChild()
		if err != nil {
			return nil, err
		}
		children = append(children, c)
		if line, err := c.answers.ReadString('\n'); err != nil || line != "ready\n" {
			return nil, fmt.Errorf("a process did not get ready (%q, %v)", line, err)
		}
	}
	for _, c := range children {
		if _, err := io.WriteString(c.orders, "go\n"); err != nil {
			return nil, err
		}
	}
	result := &Result{Operation: o.operation, Processes: o.processes, Seconds: o.duration.Seconds()}
	for _, c := range children {
		line, err := c.answers.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("a process ended without a count: %w", err)
		}
		count, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return nil, err
		}
		result.Calls += count
	}
	result.PerSecond = float64(result.Calls) / result.Seconds
	return result, nil
}

func startChild() (*child, error) {
	command := exec.Command("/proc/self/exe", append(os.Args[1:], "--child")...)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	orders, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	return &child{command: command, orders: orders, answers: bufio.NewReader(answers)}, nil
}

func runChild(o options) error {
	token, err := openToken(o)
	if err != nil {
		return err
	}
	defer token.close()

	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	count, err := token.loop(o.operation, o.duration)
	if err != nil {
		return err
	}
	fmt.Println(count)
	return nil
}
