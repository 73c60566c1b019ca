package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
)

// Methods are the names that Options.Method takes.
var Methods = []string{"encrypt", "decrypt", "status"}

// How many different ciphertexts Decrypt is asked for in turn.
const decryptSamples = 256

const uid = "kms-client-load"

// caller makes one call and checks its answer. Many workers use it at once;
// number differs from call to call.
type caller func(ctx context.Context, number int) error

func newCaller(ctx context.Context, client kmsapi.KeyManagementServiceClient, method string) (caller, error) {
	switch method {
	case "encrypt":
		return encrypts(ctx, client)
	case "decrypt":
		return decrypts(ctx, client)
	case "status":
		return asksStatus(ctx, client)
	default:
		return nil, fmt.Errorf("method %q is none of %v", method, Methods)
	}
}

func encrypts(ctx context.Context, client kmsapi.KeyManagementServiceClient) (caller, error) {
	seed := randomSeed()
	first, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seed, Uid: uid})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error {
		got, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: randomSeed(), Uid: uid})
		if err != nil {
			return err
		}
		if len(got.Ciphertext) != len(first.Ciphertext) || got.KeyId != first.KeyId {
			return errors.New("encrypt: the answer has another length or key_id than the first one")
		}
		return nil
	}, nil
}

func decrypts(ctx context.Context, client kmsapi.KeyManagementServiceClient) (caller, error) {
	seeds := make([][]byte, decryptSamples)
	requests := make([]*kmsapi.DecryptRequest, decryptSamples)
	for i := range decryptSamples {
		seeds[i] = randomSeed()
		sealed, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seeds[i], Uid: uid})
		if err != nil {
			return nil, err
		}
		requests[i] = &kmsapi.DecryptRequest{
			Ciphertext: sealed.Ciphertext, Uid: uid, KeyId: sealed.KeyId, Annotations: sealed.Annotations,
		}
	}
	return func(ctx context.Context, number int) error {
		i := number % decryptSamples
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

func randomSeed() []byte {
	seed := make([]byte, kms.SeedLength)
	_, _ = rand.Read(seed) // never fails, by its documentation
	return seed
}
