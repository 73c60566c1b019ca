package latency

import (
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	var times []time.Duration
	for i := 100; i >= 1; i-- {
		times = append(times, time.Duration(i)*time.Microsecond)
	}
	if got, want := Summarize(times), (Summary{P50: 50, P90: 90, P99: 99, Max: 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := Summarize(times[:1]), (Summary{P50: 1, P90: 1, P99: 1, Max: 1}); got != want {
		t.Errorf("of one value: got %+v, want %+v", got, want)
	}
	if got := Summarize(nil); got != (Summary{}) {
		t.Errorf("of nothing: got %+v", got)
	}
}
