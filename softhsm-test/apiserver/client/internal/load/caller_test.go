package load

import "testing"

func TestNoTwoWorkersShareASample(t *testing.T) {
	for _, concurrency := range []int{1, 3, 7, 64, 100, 256, 300, 1000} {
		samples := samplesFor(concurrency)
		if samples < decryptSamples {
			t.Errorf("%d at once: only %d samples", concurrency, samples)
		}
		owner := map[int]int{}
		for worker := range concurrency {
			// The numbers that drive deals out.
			for number := worker; number < 3*samples; number += concurrency {
				sample := number % samples
				if other, taken := owner[sample]; taken && other != worker {
					t.Fatalf("%d at once: workers %d and %d share sample %d", concurrency, other, worker, sample)
				}
				owner[sample] = worker
			}
		}
	}
}
