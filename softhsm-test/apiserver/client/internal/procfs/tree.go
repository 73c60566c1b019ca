package procfs

import (
	"slices"
	"time"
)

// CPUTime is what a process and all that it ever started have used, as far as
// they run or have been waited for.
func CPUTime(root int) (time.Duration, error) {
	// Reading is not atomic: a child that ends in between would be counted twice
	// or not at all. So it has to be the same set of processes before and after.
	before, err := Tree(root)
	for range 10 {
		if err != nil {
			return 0, err
		}
		var after []Process
		if after, err = Tree(root); err == nil && slices.EqualFunc(before, after, samePID) {
			break
		}
		before = after
	}
	var sum time.Duration
	for _, p := range before {
		sum += p.Own + p.Children
	}
	return sum, err
}

func samePID(a, b Process) bool { return a.PID == b.PID }

// Tree is a process and all its descendants.
func Tree(root int) ([]Process, error) {
	first, err := Read(root)
	if err != nil {
		return nil, err
	}
	rest, err := Descendants(root)
	return append([]Process{first}, rest...), err
}
