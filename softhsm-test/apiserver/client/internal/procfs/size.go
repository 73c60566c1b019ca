package procfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Size is what a process holds.
type Size struct {
	RSS         int64 `json:"rss_bytes"`
	Threads     int   `json:"threads"`
	Descriptors int   `json:"descriptors"`
}

// SizeOf needs root for a process that is not dumpable, such as p11-kms.
func SizeOf(pid int) (Size, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Size{}, err
	}
	size, err := parseStatus(string(text))
	if err != nil {
		return Size{}, fmt.Errorf("process %d: %w", pid, err)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	size.Descriptors = len(open)
	return size, err
}

// parseStatus refuses what has no memory, as a process that has ended.
func parseStatus(text string) (Size, error) {
	var size Size
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		var err error
		switch fields[0] {
		case "VmRSS:":
			size.RSS, err = strconv.ParseInt(fields[1], 10, 64)
			size.RSS <<= 10
		case "Threads:":
			size.Threads, err = strconv.Atoi(fields[1])
		}
		if err != nil {
			return Size{}, err
		}
	}
	if size.RSS == 0 || size.Threads == 0 {
		return Size{}, fmt.Errorf("its status has no VmRSS or no Threads")
	}
	return size, nil
}
