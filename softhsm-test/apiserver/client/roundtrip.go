package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"p11-kms.test/client/internal/contract"
	"p11-kms.test/client/internal/encryption"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/storage"
)

const (
	// The name in a configuration that we make ourselves.
	providerName = "p11-kms"

	roundtripLimit = 2 * time.Minute
)

type roundtripResult struct {
	Endpoint string          `json:"endpoint"`
	Rules    []contract.Rule `json:"rules"`
	Storage  *storage.Result `json:"storage,omitempty"`
}

func roundtrip(ctx context.Context, flags *flag.FlagSet, args []string) error {
	endpoint := flags.String("endpoint", "", "unix:///path or unix:///@name")
	configFile := flags.String("config-file", "", "an EncryptionConfiguration to use; made for the endpoint when not given")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if *endpoint == "" && *configFile == "" {
		return complain(flags, "--endpoint or --config-file is needed")
	}
	ctx, cancel := context.WithTimeout(ctx, roundtripLimit)
	defer cancel()

	file, provider, cleanUp, err := configuration(*configFile, *endpoint)
	if err != nil {
		return err
	}
	defer cleanUp()

	result := roundtripResult{Endpoint: provider.Endpoint}
	plugin, err := kms.RealClient(ctx, provider.Endpoint, provider.Name, kms.CallTimeout)
	if err != nil {
		return err
	}
	result.Rules = contract.Check(ctx, plugin)
	failed := contract.Failed(result.Rules)
	if failed == nil {
		if result.Storage, failed = storage.Check(ctx, file, provider); failed != nil {
			failed = fmt.Errorf("between a Secret and etcd: %w", failed)
		}
	}
	if err := show(*asJSON, result, func() { describeRoundtrip(result) }); err != nil {
		return err
	}
	return failed
}

// configuration finds or makes the file, and says what is in it.
func configuration(file, endpoint string) (string, encryption.Provider, func(), error) {
	nothing := func() {}
	if file != "" {
		provider, err := encryption.Read(file)
		if err == nil && endpoint != "" && endpoint != provider.Endpoint {
			err = fmt.Errorf("%s has endpoint %s, not %s", file, provider.Endpoint, endpoint)
		}
		return file, provider, nothing, err
	}
	dir, err := os.MkdirTemp("", "kms-client-")
	if err != nil {
		return "", encryption.Provider{}, nothing, err
	}
	cleanUp := func() { _ = os.RemoveAll(dir) }
	file = filepath.Join(dir, "encryption.yaml")
	provider := encryption.Provider{Name: providerName, Endpoint: endpoint}
	if err := encryption.Write(file, provider); err != nil {
		cleanUp()
		return "", encryption.Provider{}, nothing, err
	}
	return file, provider, cleanUp, nil
}

func describeRoundtrip(result roundtripResult) {
	for _, rule := range result.Rules {
		verdict := "ok    "
		if rule.Broken != "" {
			verdict = "BROKEN"
		}
		fmt.Printf("%s %s (%s)\n", verdict, rule.Name, rule.Took.Round(10*time.Microsecond))
		if rule.Broken != "" {
			fmt.Printf("       %s\n", rule.Broken)
		}
	}
	if s := result.Storage; s != nil {
		fmt.Printf("ok     a Secret is written (%s) and read (%s), also with nothing cached (%s)\n",
			s.Write.Round(time.Microsecond), s.Read.Round(time.Microsecond), s.FirstRead.Round(time.Microsecond))
	}
}
