// Package procfs reads what Linux says about processes.
package procfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ClockTick is USER_HZ, which is 100 on every architecture Go runs on.
const ClockTick = 10 * time.Millisecond

// Process is one line of /proc/PID/stat, as far as it is needed.
type Process struct {
	PID, Parent, Group int
	State              byte
	Own                time.Duration // CPU time of its threads
	Children           time.Duration // CPU time of children that it has waited for
}

// Ended says that only the entry is left, until the parent looks at it.
func (p Process) Ended() bool { return p.State == 'Z' || p.State == 'X' }

// Read describes one process.
func Read(pid int) (Process, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	return parse(string(line))
}

// parse follows proc(5). The name, in brackets, may hold blanks and brackets.
func parse(line string) (Process, error) {
	start, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if start < 0 || end < start {
		return Process{}, fmt.Errorf("not a stat line: %q", line)
	}
	fields := strings.Fields(line[end+1:])
	if len(fields) < 15 {
		return Process{}, fmt.Errorf("a short stat line: %q", line)
	}
	var failed error
	number := func(text string) int {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			failed = err
		}
		return n
	}
	ticks := func(field int) time.Duration { return time.Duration(number(fields[field])) * ClockTick }
	p := Process{
		PID:      number(line[:start]),
		State:    fields[0][0],
		Parent:   number(fields[1]),
		Group:    number(fields[2]),
		Own:      ticks(11) + ticks(12),
		Children: ticks(13) + ticks(14),
	}
	return p, failed
}

// All describes every process there is.
func All() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// One that has ended meanwhile is simply not there.
		if p, err := Read(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// Descendants are the children of a process, theirs, and so on.
func Descendants(root int) ([]Process, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	children := map[int][]Process{}
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p)
	}
	found := children[root]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].PID]...)
	}
	return found, nil
}

// Children are those of one process, also those that have ended and that it has
// not looked at.
func Children(parent int) ([]Process, error) {
	all, err := All()
	return slices.DeleteFunc(all, func(p Process) bool { return p.Parent != parent }), err
}

// PSS is the memory of one process in bytes, with shared pages counted in part.
func PSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "Pss:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("process %d: smaps_rollup has no Pss", pid)
}
