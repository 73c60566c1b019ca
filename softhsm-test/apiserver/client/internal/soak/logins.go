package soak

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
)

// logins reads from p11-kms's log which workers have logged in. Before that a
// worker has not loaded all that it needs.
type logins struct {
	file string
	read int64
	pids map[int]bool
}

// look reads what has been added since.
func (l *logins) look() error {
	file, err := os.Open(l.file)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, l.read, 1<<62))
	if err != nil {
		return err
	}
	// The last line may be half written.
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	l.read += int64(len(whole))
	for line := range bytes.Lines(whole) {
		var event struct {
			Message string `json:"message"`
			PID     int    `json:"pid"`
		}
		// A module may write to standard error too.
		if json.Unmarshal(line, &event) == nil && event.Message == "the worker is logged in" {
			l.pids[event.PID] = true
		}
	}
	return nil
}
