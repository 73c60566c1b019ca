package compare

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"p11-kms.test/client/internal/procfs"
)

// Machine is what a reader needs to place the numbers.
type Machine struct {
	CPUs   int    `json:"cpus"`
	Model  string `json:"model"`
	Kernel string `json:"kernel"`
}

func describeMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Model: "unknown"}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			m.Model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(kernel))
	return m
}

// foreignMeter finds out how much other programs disturbed a measurement.
type foreignMeter struct {
	began      time.Time
	busyBefore time.Duration
	selfBefore time.Duration
	ours       time.Duration // what the servers used
}

func startForeignMeter() (*foreignMeter, error) {
	m := &foreignMeter{began: time.Now()}
	var err error
	m.busyBefore, m.selfBefore, err = m.read()
	return m, err
}

// stop returns the others' share of all CPUs, from 0 to 1.
func (m *foreignMeter) stop() (float64, error) {
	busy, self, err := m.read()
	if err != nil {
		return 0, err
	}
	foreign := (busy - m.busyBefore) - (self - m.selfBefore) - m.ours
	capacity := time.Since(m.began) * time.Duration(runtime.NumCPU())
	return max(float64(foreign)/float64(capacity), 0), nil
}

func (m *foreignMeter) read() (busy, self time.Duration, err error) {
	us, err := procfs.Read(os.Getpid())
	if err != nil {
		return 0, 0, err
	}
	busy, err = busyTime()
	return busy, us.Own, err
}

// busyTime is the time that all CPUs together have not been idle, by the first
// line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
func busyTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins %q", line)
	}
	var ticks int
	for i, field := range fields[1:9] {
		const idle, iowait = 3, 4
		if i == idle || i == iowait {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * procfs.ClockTick, nil
}
