// Package storage does what kube-apiserver does between a Secret and etcd, with
// kube-apiserver's own code: it loads an EncryptionConfiguration, writes, reads,
// and asks the health check.
package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"p11-kms.test/client/internal/encryption"
)

// Result says how long each part took.
type Result struct {
	Write time.Duration `json:"write_ns"`
	// With the seed at hand, as in a running apiserver.
	Read time.Duration `json:"read_ns"`
	// With nothing cached, as in an apiserver that has just started.
	FirstRead time.Duration `json:"first_read_ns"`
	// Of the stored value.
	Length int `json:"stored_length"`
}

// The first Status and the first seed are fetched in the background.
const startLimit = 10 * time.Second

var key = value.DefaultContext("/registry/secrets/default/kms-client")

// Check needs a configuration that encrypts Secrets with the provider.
func Check(ctx context.Context, file string, provider encryption.Provider) (*Result, error) {
	plaintext := []byte("the value of a Secret, at " + time.Now().String())
	result := &Result{}

	writer, err := start(ctx, file)
	if err != nil {
		return nil, err
	}
	defer writer.stop()
	begin := time.Now()
	stored, err := writer.secrets.TransformToStorage(ctx, plaintext, key)
	if err != nil {
		return nil, fmt.Errorf("writing: %w", err)
	}
	result.Write, result.Length = time.Since(begin), len(stored)
	if !bytes.HasPrefix(stored, []byte(provider.Prefix())) {
		return nil, fmt.Errorf("what was written does not begin with %s", provider.Prefix())
	}
	if bytes.Contains(stored, plaintext) {
		return nil, errors.New("what was written holds the plaintext")
	}
	if result.Read, err = writer.reads(ctx, stored, plaintext); err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}

	// The writer still knows its seed and needs no Decrypt; a new one does.
	reader, err := start(ctx, file)
	if err != nil {
		return nil, err
	}
	defer reader.stop()
	if result.FirstRead, err = reader.reads(ctx, stored, plaintext); err != nil {
		return nil, fmt.Errorf("reading after a restart: %w", err)
	}
	return result, nil
}

// Seal makes of a plaintext what a kube-apiserver would write under that key of
// etcd that has just asked the plugin for a seed: nobody else has this one cached.
func Seal(ctx context.Context, file, key string, plaintext []byte) ([]byte, error) {
	writer, err := start(ctx, file)
	if err != nil {
		return nil, err
	}
	defer writer.stop()
	return writer.secrets.TransformToStorage(ctx, plaintext, value.DefaultContext(key))
}

// apiserver is the part of one that talks to the plugin.
type apiserver struct {
	secrets value.Transformer
	stop    context.CancelFunc
}

func start(ctx context.Context, file string) (*apiserver, error) {
	ctx, stop := context.WithCancel(ctx)
	// Reloading is a matter of the file alone; without it one thing less runs.
	const reload = false
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, file, reload, "kms-client")
	if err != nil {
		stop()
		return nil, err
	}
	if err := untilHealthy(ctx, config); err != nil {
		stop()
		return nil, fmt.Errorf("the health check of kms-providers: %w", err)
	}
	secrets := encryptionconfig.StaticTransformers(config.Transformers).
		TransformerForResource(schema.GroupResource{Resource: "secrets"})
	return &apiserver{secrets: secrets, stop: stop}, nil
}

func untilHealthy(ctx context.Context, config *encryptionconfig.EncryptionConfiguration) error {
	if len(config.HealthChecks) == 0 {
		return errors.New("there is none")
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz/kms-providers", nil)
	if err != nil {
		return err
	}
	for {
		err := checkAll(config, request)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func checkAll(config *encryptionconfig.EncryptionConfiguration, request *http.Request) error {
	for _, check := range config.HealthChecks {
		if err := check.Check(request); err != nil {
			return err
		}
	}
	return nil
}

func (a *apiserver) reads(ctx context.Context, stored, want []byte) (time.Duration, error) {
	begin := time.Now()
	got, stale, err := a.secrets.TransformFromStorage(ctx, stored, key)
	took := time.Since(begin)
	switch {
	case err != nil:
		return took, err
	case !bytes.Equal(got, want):
		return took, errors.New("something else came back")
	case stale:
		return took, errors.New("what was just written counts as stale")
	default:
		return took, nil
	}
}
