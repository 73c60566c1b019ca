package compare

import "p11-kms.test/client/internal/procfs"

// memory is the PSS of a process and all its descendants.
func memory(root int) (int64, error) {
	processes, err := procfs.Tree(root)
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
