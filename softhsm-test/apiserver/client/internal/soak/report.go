package soak

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"p11-kms.test/client/internal/procfs"
)

const (
	mostGrowth = 4 << 20

	// Each of the two workers that the profile of SoftHSM wants makes half as
	// many objects, which is more than it allows one to make.
	operationsThatReplace = 60_000

	// The connection that the calls go over: p11-kms may have closed it meanwhile.
	ownConnections = 1
)

// Worker is what was seen of one worker, from its login on.
type Worker struct {
	First   procfs.Size `json:"first"`
	Highest procfs.Size `json:"highest"`
}

func (w *Worker) growth() int64 { return w.Highest.RSS - w.First.RSS }

// seen is what the samples have shown.
type seen struct {
	front   Worker // First is from the end of the warm-up
	last    procfs.Size
	workers map[int]*Worker
	early   int // how many workers there were until then
	zombies int // in the last sample
}

func (s *seen) add(front procfs.Size, workers map[int]procfs.Size, zombies int) {
	s.last, s.zombies = front, zombies
	s.front.Highest = highest(s.front.Highest, front)
	for pid, size := range workers {
		if known := s.workers[pid]; known != nil {
			known.Highest = highest(known.Highest, size)
		} else {
			s.workers[pid] = &Worker{size, size}
		}
	}
}

func (s *seen) begin() {
	s.front = Worker{s.last, s.last}
	s.early = len(s.workers)
}

func highest(a, b procfs.Size) procfs.Size {
	return procfs.Size{
		RSS:         max(a.RSS, b.RSS),
		Threads:     max(a.Threads, b.Threads),
		Descriptors: max(a.Descriptors, b.Descriptors),
	}
}

// Report is everything that was measured, and what is wrong with it.
type Report struct {
	Operations int         `json:"operations"`
	Seconds    float64     `json:"seconds"`
	CPUPerCall float64     `json:"cpu_us_per_call"` // of all processes of p11-kms
	Front      Worker      `json:"front"`
	FrontLast  procfs.Size `json:"front_last"`
	Workers    int         `json:"workers"`
	Replaced   int         `json:"replaced"`
	// Of the worker that grew most, and the most of any worker.
	WorkerGrowth int64       `json:"worker_growth_bytes"`
	WorkerFirst  procfs.Size `json:"worker_first"`
	WorkerMost   procfs.Size `json:"worker_most"`
	Zombies      int         `json:"zombies"`
	Problems     []string    `json:"problems"`
}

func (s *seen) report() *Report {
	r := &Report{
		Front: s.front, FrontLast: s.last, Zombies: s.zombies,
		Workers: len(s.workers), Replaced: len(s.workers) - s.early,
	}
	for _, w := range s.workers {
		if w.growth() >= r.WorkerGrowth {
			r.WorkerGrowth, r.WorkerFirst = w.growth(), w.First
		}
		r.WorkerMost = highest(r.WorkerMost, w.Highest)
	}
	return r
}

// judge says what is not as it should be.
func judge(r *Report) []string {
	problems := []string{}
	complain := func(format string, values ...any) {
		problems = append(problems, fmt.Sprintf(format, values...))
	}
	if grown := r.FrontLast.RSS - r.Front.First.RSS; grown > mostGrowth {
		complain("the front has grown by %s", megabytes(grown))
	}
	if r.Workers == 0 {
		complain("no worker was seen")
	}
	if r.WorkerGrowth > mostGrowth {
		complain("a worker grew by %s", megabytes(r.WorkerGrowth))
	}
	if more := r.FrontLast.Descriptors - r.Front.First.Descriptors; max(more, -more) > ownConnections {
		complain("the front had %d descriptors and has %d", r.Front.First.Descriptors, r.FrontLast.Descriptors)
	}
	if r.Zombies > 0 {
		complain("%d children have ended and the front has not looked at them", r.Zombies)
	}
	if r.Operations >= operationsThatReplace && r.Replaced == 0 {
		complain("no worker was replaced")
	}
	return problems
}

// Failed turns problems into an error.
func (r *Report) Failed() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.Problems, "; "))
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }

// Table prints the report for people.
func (r *Report) Table(to io.Writer) {
	fmt.Fprintf(to, "%d calls in %.1f s: %.0f/s, %.0f us of CPU each\n",
		r.Operations, r.Seconds, float64(r.Operations)/r.Seconds, r.CPUPerCall)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, s procfs.Size) {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t\n", name, megabytes(s.RSS), s.Threads, s.Descriptors)
	}
	fmt.Fprintln(table, "\tmemory\tthreads\tdescriptors\t")
	row("front, warmed up", r.Front.First)
	row("front, most", r.Front.Highest)
	row("front, at the end", r.FrontLast)
	row("worker, after its login", r.WorkerFirst)
	row("worker, most", r.WorkerMost)
	_ = table.Flush()
	fmt.Fprintf(to, "%d workers, %d of them replacements; the most that one grew is %s\n",
		r.Workers, r.Replaced, megabytes(r.WorkerGrowth))
}
