package compare

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/token"
)

const (
	countedRequests = 300
	// The first requests open sessions. The reference's library hands its pool
	// of 1023 out in turn, so that many pass before none is opened any more.
	uncountedRequests = 1100
)

// Calls is what one request costs in PKCS#11 calls, on average.
type Calls struct {
	Server string             `json:"server"`
	Method string             `json:"method"`
	Total  float64            `json:"per_request"`
	Each   map[string]float64 `json:"each"`
}

// countCalls runs each server on the module through pkcs11-spy, which writes a
// line for each call.
func countCalls(ctx context.Context, o Options, t *token.Token) ([]Calls, error) {
	spied, err := servers(ctx, o, t, o.Spy, "spy")
	if err != nil {
		return nil, err
	}
	var counted []Calls
	for _, s := range spied {
		trace := filepath.Join(t.Dir, "calls-"+s.name)
		s.env = append(s.env, "PKCS11SPY="+o.Module, "PKCS11SPY_OUTPUT="+trace)
		found, err := countOf(ctx, s, trace)
		if err != nil {
			return nil, fmt.Errorf("counting the calls of %s: %w", s.name, err)
		}
		counted = append(counted, found...)
	}
	return counted, nil
}

func countOf(ctx context.Context, s server, trace string) ([]Calls, error) {
	r, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	defer r.hangUp()
	// Killed: with the spy in between an orderly end proves nothing.
	defer func() { _ = r.Kill() }()

	var counted []Calls
	for _, method := range methods {
		request, err := requestOf(ctx, r.client, method)
		if err != nil {
			return nil, err
		}
		if err := repeat(ctx, request, uncountedRequests); err != nil {
			return nil, err
		}
		start, err := settledSize(trace)
		if err != nil {
			return nil, err
		}
		if err := repeat(ctx, request, countedRequests); err != nil {
			return nil, err
		}
		end, err := settledSize(trace)
		if err != nil {
			return nil, err
		}
		each, err := namesBetween(trace, start, end)
		if err != nil {
			return nil, err
		}
		c := Calls{Server: s.name, Method: method, Each: map[string]float64{}}
		for name, count := range each {
			c.Each[name] = float64(count) / countedRequests
			c.Total += c.Each[name]
		}
		counted = append(counted, c)
	}
	return counted, nil
}

func requestOf(ctx context.Context, client kmsapi.KeyManagementServiceClient, method string) (func(context.Context) error, error) {
	seed := make([]byte, kms.SeedLength)
	sealed, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seed, Uid: "kms-client-compare"})
	if err != nil {
		return nil, err
	}
	switch method {
	case "encrypt":
		return func(ctx context.Context) error {
			_, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: seed, Uid: "kms-client-compare"})
			return err
		}, nil
	case "decrypt":
		return func(ctx context.Context) error {
			_, err := client.Decrypt(ctx, &kmsapi.DecryptRequest{
				Ciphertext: sealed.Ciphertext, Uid: "kms-client-compare",
				KeyId: sealed.KeyId, Annotations: sealed.Annotations,
			})
			return err
		}, nil
	default:
		return func(ctx context.Context) error {
			_, err := client.Status(ctx, &kmsapi.StatusRequest{})
			return err
		}, nil
	}
}

func repeat(ctx context.Context, request func(context.Context) error, times int) error {
	for range times {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, kms.CallTimeout)
			defer cancel()
			return request(ctx)
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// settledSize waits until nothing more is written: an answer may be out before
// its last call (destroying an object) is.
func settledSize(file string) (int64, error) {
	for last := int64(-1); ; time.Sleep(100 * time.Millisecond) {
		info, err := os.Stat(file)
		if err != nil {
			return 0, err
		}
		if info.Size() == last {
			return last, nil
		}
		last = info.Size()
	}
}

// Every call begins with its number and its name on a line of their own.
var callLine = regexp.MustCompile(`(?m)^\d+: (C_\w+)`)

func namesBetween(file string, start, end int64) (map[string]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, io.NewSectionReader(f, start, end-start)); err != nil {
		return nil, err
	}
	names := map[string]int{}
	for _, match := range callLine.FindAllSubmatch(text.Bytes(), -1) {
		names[string(match[1])]++
	}
	return names, nil
}
