// Package latency sums up how long calls took.
package latency

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Summary holds percentiles in microseconds.
type Summary struct {
	P50 float64 `json:"p50_us"`
	P90 float64 `json:"p90_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

// Summarize sorts times in place.
func Summarize(times []time.Duration) Summary {
	if len(times) == 0 {
		return Summary{}
	}
	slices.Sort(times)
	at := func(share float64) float64 {
		rank := int(math.Ceil(share * float64(len(times))))
		return float64(times[max(rank, 1)-1]) / float64(time.Microsecond)
	}
	return Summary{P50: at(0.50), P90: at(0.90), P99: at(0.99), Max: at(1)}
}

func (s Summary) String() string {
	return fmt.Sprintf("p50 %.0f us, p90 %.0f us, p99 %.0f us, max %.0f us", s.P50, s.P90, s.P99, s.Max)
}
