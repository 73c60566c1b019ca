package rotation

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Report says what was counted.
type Report struct {
	Seconds       float64        `json:"seconds"`
	Reads         int            `json:"reads"`
	ReadsExcused  int            `json:"reads_failed_on_stopped_nodes"`
	ReadsFailed   int            `json:"reads_failed"`
	Writes        int            `json:"writes"`
	WritesAgain   int            `json:"writes_tried_again"`
	WritesFailed  int            `json:"writes_failed"`
	Objects       int            `json:"objects"`
	Statuses      int            `json:"statuses"`
	Encrypts      int            `json:"encrypts"`
	Missed        int            `json:"calls_failed_on_stopped_nodes"`
	KeyIDs        [][]string     `json:"key_ids"` // of each node, in order
	Flips         int            `json:"flips"`
	ObjectsByKEKs map[string]int `json:"objects_by_key_id"`
}

func (r *run) report(start time.Time) *Report {
	c, _ := r.traffic.look()
	report := &Report{
		Seconds: time.Since(start).Seconds(),
		Reads:   c.reads, ReadsExcused: c.readsExcused, ReadsFailed: c.readsFailed,
		Writes: c.writes, WritesAgain: c.writesTried, WritesFailed: c.writesFailed,
		Objects: len(r.traffic.book.all()), ObjectsByKEKs: r.usedBy,
	}
	for _, n := range r.nodes {
		n.recorder.addTo(report)
		report.KeyIDs = append(report.KeyIDs, n.recorder.keyIDs())
	}
	return report
}

func (r *recorder) addTo(report *Report) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	report.Statuses += r.statuses
	report.Encrypts += r.encrypts
	report.Missed += r.missed
	report.Flips += r.history.flips
}

// wrong is everything that no trouble of the test excuses.
func (r *recorder) wrong() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	err := firstOf(r.problems)
	if r.history.flips > 0 {
		err = errors.Join(err, fmt.Errorf("%s: a key_id came back after another: %v", r.node.name, r.history.changes))
	}
	return err
}

// Line is the whole result in one line.
func (r *Report) Line(to io.Writer) {
	seen := map[string]bool{}
	for _, keyIDs := range r.KeyIDs {
		for _, keyID := range keyIDs {
			seen[keyID] = true
		}
	}
	fmt.Fprintf(to, "%.0f s: %d reads, %d failed (and %d on stopped nodes); %d writes, %d failed, %d tried again; "+
		"%d objects under %d KEKs; %d Statuses, %d Encrypts; %d key_ids, %d flips\n",
		r.Seconds, r.Reads, r.ReadsFailed, r.ReadsExcused, r.Writes, r.WritesFailed, r.WritesAgain,
		r.Objects, len(r.ObjectsByKEKs), r.Statuses, r.Encrypts, len(seen), r.Flips)
}
