package compare

import (
	"slices"
	"time"

	"p11-kms.test/client/internal/procfs"
)

// cpuTime is what a process and all that it ever started have used, as far as
// they run or have been waited for.
func cpuTime(root int) (time.Duration, error) {
	// Reading is not atomic: a child that ends in between would be counted twice
	// or not at all. So it has to be the same set of processes before and after.
	before, err := tree(root)
	for range 10 {
		if err != nil {
			return 0, err
		}
		var after []procfs.Process
		if after, err = tree(root); err == nil && slices.EqualFunc(before, after, samePID) {
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

func samePID(a, b procfs.Process) bool { return a.PID == b.PID }

func tree(root int) ([]procfs.Process, error) {
	first, err := procfs.Read(root)
	if err != nil {
		return nil, err
	}
	rest, err := procfs.Descendants(root)
	return append([]procfs.Process{first}, rest...), err
}

func memory(root int) (int64, error) {
	processes, err := tree(root)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range processes {
		if p.Ended() {
			continue
		}
		bytes, err := procfs.PSS(p.PID)
		if err != nil {
			return 0, err
		}
		sum += bytes
	}
	return sum, nil
}
