// Package load keeps a plugin busy with a fixed number of calls at once over one
// connection, as kube-apiserver has, and measures how many it answers.
package load

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/latency"
)

const prepareLimit = 30 * time.Second

// Options say what to do and for how long.
type Options struct {
	Method      string
	Concurrency int
	Duration    time.Duration
	Warmup      time.Duration
}

// Result is one measurement.
type Result struct {
	Method      string  `json:"method"`
	Concurrency int     `json:"concurrency"`
	Seconds     float64 `json:"seconds"`
	Calls       int     `json:"calls"`
	PerSecond   float64 `json:"per_second"`
	latency.Summary
}

// Run fails at the first wrong answer.
func Run(ctx context.Context, client kmsapi.KeyManagementServiceClient, o Options) (*Result, error) {
	call, err := prepare(ctx, client, o)
	if err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	if o.Warmup > 0 {
		if _, _, err := drive(ctx, call, o.Concurrency, o.Warmup); err != nil {
			return nil, err
		}
	}
	// What the warm-up left behind is not collected at the measurement's cost.
	runtime.GC()
	times, took, err := drive(ctx, call, o.Concurrency, o.Duration)
	if err != nil {
		return nil, err
	}
	return &Result{
		Method:      o.Method,
		Concurrency: o.Concurrency,
		Seconds:     took.Seconds(),
		Calls:       len(times),
		PerSecond:   float64(len(times)) / took.Seconds(),
		Summary:     latency.Summarize(times),
	}, nil
}

// prepare sees to it that a plugin that is not there is noticed at once.
func prepare(ctx context.Context, client kmsapi.KeyManagementServiceClient, o Options) (caller, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	if _, err := kms.Healthy(ctx, client); err != nil {
		return nil, err
	}
	return newCaller(ctx, client, o.Method, o.Concurrency)
}

// drive returns how long each call took, and all of them together.
func drive(ctx context.Context, call caller, concurrency int, duration time.Duration) ([]time.Duration, time.Duration, error) {
	perWorker := make([][]time.Duration, concurrency)
	errs := make([]error, concurrency)
	var failed atomic.Bool
	var wait sync.WaitGroup
	begin := time.Now()
	end := begin.Add(duration)
	for worker := range concurrency {
		wait.Go(func() {
			// Grown beforehand: copying it later would show in the times.
			times := make([]time.Duration, 0, 1<<16/concurrency)
			now := time.Now()
			// Numbers are dealt out without a counter that all would share.
			for number := worker; now.Before(end) && !failed.Load(); number += concurrency {
				if err := callOnce(ctx, call, number); err != nil {
					errs[worker] = err
					failed.Store(true)
					return
				}
				after := time.Now()
				times = append(times, after.Sub(now))
				now = after
			}
			perWorker[worker] = times
		})
	}
	wait.Wait()
	took := time.Since(begin)

	var all []time.Duration
	for worker, times := range perWorker {
		if errs[worker] != nil {
			return nil, 0, fmt.Errorf("after %s: %w", took.Round(time.Millisecond), errs[worker])
		}
		all = append(all, times...)
	}
	return all, took, ctx.Err()
}

func callOnce(ctx context.Context, call caller, number int) error {
	ctx, cancel := context.WithTimeout(ctx, kms.CallTimeout)
	defer cancel()
	return call(ctx, number)
}
