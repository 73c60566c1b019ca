package compare

import (
	"fmt"
	"slices"
)

// Row is one line of the result: medians of both, and the median of the ratios
// p11-kms / reference of the single rounds.
type Row struct {
	What      string  `json:"what"`
	Unit      string  `json:"unit"`
	P11KMS    float64 `json:"p11_kms"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Target    *Target `json:"target,omitempty"`
	Reached   *bool   `json:"reached,omitempty"`
}

// Target is a bound for a ratio.
type Target struct {
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"at_least"` // otherwise at most
}

func atLeast(bound float64) *Target { return &Target{bound, true} }
func atMost(bound float64) *Target  { return &Target{bound, false} }

func (t *Target) reachedBy(ratio float64) bool {
	if t.AtLeast {
		return ratio >= t.Bound
	}
	return ratio <= t.Bound
}

// At 64 calls at once the throughput has to be better than the reference's.
var throughputTargets = map[string]*Target{
	"encrypt": atLeast(1.2),
	"decrypt": atLeast(1.05),
	"status":  atLeast(1.3),
}

// One call after the other is a matter of latency: p11-kms passes each to another
// process and may lose a little by that.
var singleTarget = atLeast(0.95)

var (
	p99Target = atMost(0.9)
	cpuTarget = atMost(0.85)
	pssTarget = atMost(1.0)
)

func summarize(rounds []Round) []Row {
	var rows []Row
	for i, concurrency := range concurrencies {
		for j, method := range methods {
			cell := func(run ServerRun) Cell { return run.Cells[i*len(methods)+j] }
			name := func(what string) string { return fmt.Sprintf("%s, %d at once, %s", method, concurrency, what) }
			throughput, p99 := singleTarget, (*Target)(nil)
			if concurrency > 1 {
				throughput, p99 = throughputTargets[method], p99Target
			}
			rows = append(rows,
				row(rounds, name("calls"), "/s", throughput, func(r ServerRun) float64 { return cell(r).PerSecond }),
				row(rounds, name("p50"), "us", nil, func(r ServerRun) float64 { return cell(r).P50 }),
				row(rounds, name("p99"), "us", p99, func(r ServerRun) float64 { return cell(r).P99 }),
				row(rounds, name("CPU a call"), "us", cpuTarget, func(r ServerRun) float64 { return cell(r).CPUPerCall }),
			)
		}
	}
	return append(rows, row(rounds, "memory (PSS)", "MiB", pssTarget,
		func(r ServerRun) float64 { return float64(r.PSS) / (1 << 20) }))
}

func row(rounds []Round, what, unit string, target *Target, value func(ServerRun) float64) Row {
	var ours, theirs, ratios []float64
	for _, round := range rounds {
		a, b := value(round.Servers[p11kmsName]), value(round.Servers[referenceName])
		ours, theirs = append(ours, a), append(theirs, b)
		// A ratio within a round: what slowed the machine slowed both.
		ratios = append(ratios, a/b)
	}
	r := Row{What: what, Unit: unit, P11KMS: median(ours), Reference: median(theirs), Ratio: median(ratios), Target: target}
	if target != nil {
		reached := target.reachedBy(r.Ratio)
		r.Reached = &reached
	}
	return r
}

func medianRaw(rounds []Round) []RawResult {
	results := slices.Clone(rounds[0].Raw)
	for i := range results {
		var rates []float64
		for _, round := range rounds {
			rates = append(rates, round.Raw[i].PerSecond)
		}
		results[i].PerSecond = median(rates)
	}
	return results
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
