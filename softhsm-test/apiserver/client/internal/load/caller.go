package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
)

// Methods are the names that Options.Method takes.
var Methods = []string{"encrypt", "decrypt", "status"}

// How many different ciphertexts Decrypt is asked for in turn, at least.
const decryptSamples = 256

const uid = "kms-client-load"

// caller makes one call and checks its answer. Many workers use it at once;
// number differs from call to call. A worker's numbers are its own, plus the
// concurrency from one to the next.
type caller func(ctx context.Context, number int) error

func newCaller(ctx context.Context, client kmsapi.KeyManagementServiceClient, method string, concurrency int) (caller, error) {
	switch method {
	case "encrypt":
		return encrypts(ctx, client)
	case "decrypt":
		return decrypts(ctx, client, samplesFor(concurrency))
	case "status":
		return asksStatus(ctx, client)
	default:
		return nil, fmt.Errorf("method %q is none of %v", method, Methods)
	}
}

func encrypts(ctx context.Context, client kmsapi.KeyManagementServiceClient) (caller, error) {
	seed := kms.RandomSeed()
	first, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seed, Uid: uid})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error {
		got, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: kms.RandomSeed(), Uid: uid})
		if err != nil {
			return err
		}
		if len(got.Ciphertext) != len(first.Ciphertext) || got.KeyId != first.KeyId {
			return errors.New("encrypt: the answer has another length or key_id than the first one")
		}
		return nil
	}, nil
}

// samplesFor is a multiple of the concurrency. So no two workers ever have the
// same sample, and no two calls in flight are the same: a plugin may answer such
// calls together, which says nothing about its speed.
func samplesFor(concurrency int) int {
	rounds := (decryptSamples + concurrency - 1) / concurrency
	return rounds * concurrency
}

func decrypts(ctx context.Context, client kmsapi.KeyManagementServiceClient, samples int) (caller, error) {
	seeds := make([][]byte, samples)
	requests := make([]*kmsapi.DecryptRequest, samples)
	for i := range samples {
		seeds[i] = kms.RandomSeed()
		sealed, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seeds[i], Uid: uid})
		if err != nil {
			return nil, err
		}
		requests[i] = &kmsapi.DecryptRequest{
			Ciphertext: sealed.Ciphertext, Uid: uid, KeyId: sealed.KeyId, Annotations: sealed.Annotations,
		}
	}
	return func(ctx context.Context, number int) error {
		i := number % samples
		got, err := client.Decrypt(ctx, requests[i])
		if err != nil {
			return err
		}
		if !bytes.Equal(got.Plaintext, seeds[i]) {
			return errors.New("decrypt: another plaintext came back")
		}
		return nil
	}, nil
}

func asksStatus(ctx context.Context, client kmsapi.KeyManagementServiceClient) (caller, error) {
	first, err := kms.Healthy(ctx, client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error {
		got, err := client.Status(ctx, &kmsapi.StatusRequest{})
		if err != nil {
			return err
		}
		if got.Healthz != "ok" || got.KeyId != first.KeyId {
			return fmt.Errorf("status: healthz %q, key_id %q", got.Healthz, got.KeyId)
		}
		return nil
	}, nil
}
