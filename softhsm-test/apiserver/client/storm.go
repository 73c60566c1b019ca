package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/storm"
)

const stormLimit = 3 * time.Minute

func runStorm(ctx context.Context, flags *flag.FlagSet, args []string) error {
	endpoint := flags.String("endpoint", "", "unix:///path or unix:///@name")
	count := flags.Int("count", 5000, "how many Decrypts")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args, "endpoint"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if *count < 1 {
		return complain(flags, "--count has to be at least 1")
	}
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()

	plugin, err := kms.RealClient(ctx, *endpoint, providerName, kms.CallTimeout)
	if err != nil {
		return err
	}
	result, err := storm.Run(ctx, plugin, *count)
	if err != nil {
		return err
	}
	err = show(*asJSON, result, func() {
		fmt.Printf("%d Decrypts at once, %d failed, all answered after %s\n%s\n",
			result.Count, result.Failed, result.Took.Round(time.Millisecond), result.Latency)
		for text, times := range result.Failures {
			fmt.Printf("%d times: %s\n", times, text)
		}
	})
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("%d of %d Decrypts failed", result.Failed, result.Count)
	}
	return err
}
