package contract

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"
	"p11-kms.test/client/internal/kms"
)

// Names the calls in the plugin's log.
const uid = "kms-client-roundtrip"

func statusIsWell(ctx context.Context, c *checker) error {
	answer, err := c.service.Status(ctx)
	if err != nil {
		return err
	}
	if answer.Version != "v2" && answer.Version != "v2beta1" {
		return fmt.Errorf("version is %q", answer.Version)
	}
	if answer.Healthz != "ok" {
		return fmt.Errorf("healthz is %q", answer.Healthz)
	}
	if _, err := kmsv2.ValidateKeyID(answer.KeyID); err != nil {
		return err
	}
	c.status = answer
	return nil
}

func statusIsStable(ctx context.Context, c *checker) error {
	answer, err := c.service.Status(ctx)
	if err != nil {
		return err
	}
	if *answer != *c.status {
		return fmt.Errorf("first %+v, then %+v", *c.status, *answer)
	}
	return nil
}

func encryptKeepsLimits(ctx context.Context, c *checker) error {
	seed := random(kms.SeedLength)
	answer, err := c.service.Encrypt(ctx, uid, seed)
	if err != nil {
		return err
	}
	if err := withinLimits(c, seed, answer); err != nil {
		return err
	}
	c.seed, c.sealed = seed, answer
	return nil
}

func withinLimits(c *checker, plaintext []byte, answer *service.EncryptResponse) error {
	if answer.KeyID != c.status.KeyID {
		return fmt.Errorf("key_id is %q, Status says %q", answer.KeyID, c.status.KeyID)
	}
	// The client's own judgement on sizes and on annotation keys. It looks at a
	// whole stored object, so the rest of one is made up.
	err := kmsv2.ValidateEncryptedObject(&kmstypes.EncryptedObject{
		EncryptedData:          []byte{0},
		KeyID:                  answer.KeyID,
		EncryptedDEKSource:     answer.Ciphertext,
		Annotations:            answer.Annotations,
		EncryptedDEKSourceType: kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED,
	})
	if err != nil {
		return err
	}
	if len(plaintext) >= 8 && bytes.Contains(answer.Ciphertext, plaintext) {
		return errors.New("the ciphertext holds the plaintext")
	}
	return nil
}

func decryptGivesBack(ctx context.Context, c *checker) error {
	return opensTo(ctx, c, c.sealed, c.seed)
}

func opensTo(ctx context.Context, c *checker, sealed *service.EncryptResponse, want []byte) error {
	got, err := c.service.Decrypt(ctx, uid, &service.DecryptRequest{
		Ciphertext: sealed.Ciphertext, KeyID: sealed.KeyID, Annotations: sealed.Annotations,
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came back as %d other ones", len(want), len(got))
	}
	return nil
}

func ciphertextsDiffer(ctx context.Context, c *checker) error {
	seen := map[string]bool{string(c.sealed.Ciphertext): true}
	for range 16 {
		answer, err := c.service.Encrypt(ctx, uid, random(kms.SeedLength))
		if err != nil {
			return err
		}
		if seen[string(answer.Ciphertext)] {
			return errors.New("two plaintexts have one ciphertext")
		}
		seen[string(answer.Ciphertext)] = true
	}
	return nil
}

func otherLengths(ctx context.Context, c *checker) error {
	for _, length := range []int{1, 4, 5, 8, 15, 16, 17, 24, 31, 33, 64, 100, 512} {
		plaintext := random(length)
		answer, err := c.service.Encrypt(ctx, uid, plaintext)
		if err == nil {
			err = withinLimits(c, plaintext, answer)
		}
		if err == nil {
			err = opensTo(ctx, c, answer, plaintext)
		}
		if err != nil {
			return fmt.Errorf("%d bytes: %w", length, err)
		}
	}
	return nil
}

func unknownKeyRefused(ctx context.Context, c *checker) error {
	return refuses(ctx, c, &service.DecryptRequest{
		Ciphertext:  c.sealed.Ciphertext,
		KeyID:       "not-" + c.sealed.KeyID,
		Annotations: c.sealed.Annotations,
	})
}

func damagedRefused(ctx context.Context, c *checker) error {
	// A bit of each end and one amid: a check of the header alone is not enough.
	for _, at := range []int{0, len(c.sealed.Ciphertext) / 2, len(c.sealed.Ciphertext) - 1} {
		damaged := bytes.Clone(c.sealed.Ciphertext)
		damaged[at] ^= 1
		err := refuses(ctx, c, &service.DecryptRequest{
			Ciphertext: damaged, KeyID: c.sealed.KeyID, Annotations: c.sealed.Annotations,
		})
		if err != nil {
			return fmt.Errorf("byte %d: %w", at, err)
		}
	}
	return nil
}

func emptyRefused(ctx context.Context, c *checker) error {
	return refuses(ctx, c, &service.DecryptRequest{
		KeyID: c.sealed.KeyID, Annotations: c.sealed.Annotations,
	})
}

// refuses wants a clear no: running into the deadline, or looking as if the
// plugin were down, is not one.
func refuses(ctx context.Context, c *checker, request *service.DecryptRequest) error {
	_, err := c.service.Decrypt(ctx, uid, request)
	switch code := status.Code(err); {
	case err == nil:
		return errors.New("it was decrypted")
	case code == codes.DeadlineExceeded || code == codes.Unavailable || code == codes.Canceled:
		return fmt.Errorf("it was not refused but failed: %w", err)
	default:
		return nil
	}
}

func random(length int) []byte {
	b := make([]byte, length)
	_, _ = rand.Read(b) // never fails, by its documentation
	return b
}
