// Package storm does to a plugin what an apiserver that fills its watch cache
// does: thousands of Decrypts at the same moment, each with its own deadline.
package storm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/kms/pkg/service"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/latency"
)

// Making the ciphertexts is not the test, so it is done gently.
const encryptsAtOnce = 32

// Result counts failures by their text.
type Result struct {
	Count    int             `json:"count"`
	Failed   int             `json:"failed"`
	Failures map[string]int  `json:"failures,omitempty"`
	Took     time.Duration   `json:"took_ns"`
	Latency  latency.Summary `json:"latency"`
}

type sample struct {
	plaintext []byte
	request   *service.DecryptRequest
}

// Run makes count distinct ciphertexts and then decrypts them all at once.
func Run(ctx context.Context, plugin service.Service, count int) (*Result, error) {
	samples, err := prepare(ctx, plugin, count)
	if err != nil {
		return nil, fmt.Errorf("making the ciphertexts: %w", err)
	}
	return release(ctx, plugin, samples), nil
}

func prepare(ctx context.Context, plugin service.Service, count int) ([]sample, error) {
	samples := make([]sample, count)
	errs := make([]error, encryptsAtOnce)
	var wait sync.WaitGroup
	for worker := range encryptsAtOnce {
		wait.Go(func() {
			for i := worker; i < count && errs[worker] == nil; i += encryptsAtOnce {
				samples[i], errs[worker] = seal(ctx, plugin)
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err // the others say the same
		}
	}
	return samples, nil
}

func seal(ctx context.Context, plugin service.Service) (sample, error) {
	plaintext := kms.RandomSeed()
	answer, err := plugin.Encrypt(ctx, "kms-client-storm", plaintext)
	if err != nil {
		return sample{}, err
	}
	return sample{plaintext, &service.DecryptRequest{
		Ciphertext: answer.Ciphertext, KeyID: answer.KeyID, Annotations: answer.Annotations,
	}}, nil
}

func release(ctx context.Context, plugin service.Service, samples []sample) *Result {
	times := make([]time.Duration, len(samples))
	errs := make([]error, len(samples))
	gate := make(chan struct{})
	var begin time.Time
	var ready, done sync.WaitGroup
	for i, s := range samples {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-gate
			// The client gives each call its 3 s from here on.
			errs[i] = opens(ctx, plugin, s)
			times[i] = time.Since(begin)
		})
	}
	ready.Wait()
	begin = time.Now()
	close(gate)
	done.Wait()

	result := &Result{Count: len(samples), Failures: map[string]int{}, Took: time.Since(begin)}
	for _, err := range errs {
		if err != nil {
			result.Failed++
			result.Failures[err.Error()]++
		}
	}
	result.Latency = latency.Summarize(times)
	return result
}

func opens(ctx context.Context, plugin service.Service, s sample) error {
	got, err := plugin.Decrypt(ctx, "kms-client-storm", s.request)
	if err == nil && !bytes.Equal(got, s.plaintext) {
		return errors.New("another plaintext came back")
	}
	return err
}
