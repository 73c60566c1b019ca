package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"p11-kms.test/client/internal/load"
	"p11-kms.test/client/internal/procfs"
	"p11-kms.test/client/internal/token"
)

// Both servers get these, in this order.
var (
	concurrencies = []int{1, 64}
	methods       = load.Methods
)

const (
	warmup = 500 * time.Millisecond

	rawCell = time.Second
	// Starting and logging in may take its time on a busy machine.
	rawLimit = rawCell + 30*time.Second
)

var (
	rawOperations = []string{"wrap", "unwrap", "gcm-encrypt", "gcm-decrypt"}
	rawProcesses  = []int{1, 2}
)

// Round is one run of each server and of the raw loops.
type Round struct {
	Servers map[string]ServerRun `json:"servers"`
	Raw     []RawResult          `json:"raw"`
	// The share of all CPUs that went to neither the server nor the client.
	ForeignCPU float64 `json:"foreign_cpu"`
}

// ServerRun is one run of one server.
type ServerRun struct {
	Cells []Cell `json:"cells"`
	// Of all its processes together, at the end of the run.
	PSS int64 `json:"pss_bytes"`
}

// Cell is one method at one number of calls at once.
type Cell struct {
	load.Result
	// CPU time of all the server's processes.
	CPUPerCall float64 `json:"cpu_us_per_call"`
}

// RawResult is what raw-loop prints.
type RawResult struct {
	Operation string  `json:"operation"`
	Processes int     `json:"processes"`
	PerSecond float64 `json:"per_second"`
}

type bench struct {
	options Options
	token   *token.Token
	servers []server
}

func (b *bench) round(ctx context.Context, number int) (*Round, error) {
	round := &Round{Servers: map[string]ServerRun{}}
	meter, err := startForeignMeter()
	if err != nil {
		return nil, err
	}
	for i := range b.servers {
		// Whoever comes second has a warmer machine, so they take turns.
		s := b.servers[(i+number)%len(b.servers)]
		run, err := b.run(ctx, s, meter)
		if err != nil {
			return nil, err
		}
		round.Servers[s.name] = *run
	}
	if round.ForeignCPU, err = meter.stop(); err != nil {
		return nil, err
	}
	round.Raw, err = b.raw(ctx)
	return round, err
}

func (b *bench) run(ctx context.Context, s server, meter *foreignMeter) (run *ServerRun, err error) {
	r, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if used, failed := procfs.CPUTime(r.PID()); failed == nil {
			meter.ours += used
		}
		err = errors.Join(err, r.stop())
		if err != nil {
			err = fmt.Errorf("%w\n--- the end of the log of %s\n%s", err, s.name, r.Tail())
		}
	}()
	run = &ServerRun{}
	for _, concurrency := range concurrencies {
		for _, method := range methods {
			cell, err := b.cell(ctx, r, method, concurrency)
			if err != nil {
				return nil, fmt.Errorf("%s, %s, %d at once: %w", s.name, method, concurrency, err)
			}
			fmt.Fprintf(b.options.Log, "  %-9s %-7s %2d at once: %6.0f/s, p99 %5.0f us, CPU %3.0f us a call\n",
				s.name, method, concurrency, cell.PerSecond, cell.P99, cell.CPUPerCall)
			run.Cells = append(run.Cells, *cell)
		}
	}
	if run.PSS, err = memory(r.PID()); err != nil {
		return nil, err
	}
	return run, nil
}

func (b *bench) cell(ctx context.Context, r *running, method string, concurrency int) (*Cell, error) {
	options := load.Options{Method: method, Concurrency: concurrency, Duration: warmup}
	if _, err := load.Run(ctx, r.client, options); err != nil {
		return nil, err
	}
	options.Duration = b.options.Cell
	before, err := procfs.CPUTime(r.PID())
	if err != nil {
		return nil, err
	}
	result, err := load.Run(ctx, r.client, options)
	if err != nil {
		return nil, err
	}
	after, err := procfs.CPUTime(r.PID())
	if err != nil {
		return nil, err
	}
	used := float64(after-before) / float64(time.Microsecond)
	return &Cell{Result: *result, CPUPerCall: used / float64(result.Calls)}, nil
}

func (b *bench) raw(ctx context.Context) ([]RawResult, error) {
	var results []RawResult
	for _, operation := range rawOperations {
		for _, processes := range rawProcesses {
			output, err := b.token.Output(ctx, rawLimit, b.options.RawLoop,
				"--module", b.options.Module, "--token-label", token.Label, "--pin-file", b.token.PINFile,
				"--operation", operation, "--processes", strconv.Itoa(processes), "--duration", rawCell.String())
			if err != nil {
				return nil, err
			}
			var result RawResult
			if err := json.Unmarshal(output, &result); err != nil {
				return nil, fmt.Errorf("raw-loop: %w", err)
			}
			results = append(results, result)
		}
	}
	return results, nil
}
