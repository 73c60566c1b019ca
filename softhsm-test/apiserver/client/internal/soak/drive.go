package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
)

const uid = "kms-client-soak"

// drive makes so many calls, half of them Encrypts and half Decrypts of what
// these gave. It stops at the first that fails, and returns why.
func drive(ctx context.Context, client kmsapi.KeyManagementServiceClient, operations, callers int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var pairs atomic.Int64
	pairs.Store(int64(operations / 2))
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for pairs.Add(-1) >= 0 && ctx.Err() == nil {
				if err := pair(ctx, client); err != nil {
					cancel(err) // only the first one counts
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

// pair is an Encrypt and its Decrypt.
func pair(ctx context.Context, client kmsapi.KeyManagementServiceClient) error {
	seed := kms.RandomSeed()
	sealed, err := encrypt(ctx, client, seed)
	if err != nil {
		return fmt.Errorf("an Encrypt failed: %w", err)
	}
	opened, err := decrypt(ctx, client, sealed)
	if err != nil {
		return fmt.Errorf("a Decrypt failed: %w", err)
	}
	if !bytes.Equal(opened, seed) {
		return errors.New("a Decrypt gave another plaintext back")
	}
	return nil
}

func encrypt(ctx context.Context, client kmsapi.KeyManagementServiceClient, seed []byte) (*kmsapi.EncryptResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, kms.CallTimeout)
	defer cancel()
	return client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seed, Uid: uid})
}

func decrypt(ctx context.Context, client kmsapi.KeyManagementServiceClient, sealed *kmsapi.EncryptResponse) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kms.CallTimeout)
	defer cancel()
	answer, err := client.Decrypt(ctx, &kmsapi.DecryptRequest{
		Ciphertext: sealed.Ciphertext, Uid: uid, KeyId: sealed.KeyId, Annotations: sealed.Annotations,
	})
	return answer.GetPlaintext(), err
}
