package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/load"
)

func runLoad(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var o load.Options
	endpoint := flags.String("endpoint", "", "unix:///path or unix:///@name")
	flags.StringVar(&o.Method, "method", "", strings.Join(load.Methods, ", "))
	flags.IntVar(&o.Concurrency, "concurrency", 1, "calls at once")
	flags.DurationVar(&o.Duration, "duration", 3*time.Second, "how long to measure")
	flags.DurationVar(&o.Warmup, "warmup", 0, "how long to run before that")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args, "endpoint"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if !slices.Contains(load.Methods, o.Method) {
		return complain(flags, "--method has to be one of %v", load.Methods)
	}
	if o.Concurrency < 1 || o.Duration <= 0 {
		return complain(flags, "--concurrency and --duration have to be positive")
	}

	client, hangUp, err := kms.BareClient(*endpoint)
	if err != nil {
		return err
	}
	defer hangUp()
	result, err := load.Run(ctx, client, o)
	if err != nil {
		return err
	}
	return show(*asJSON, result, func() {
		fmt.Printf("%s, %d at once: %.0f calls/s, %s\n", result.Method, result.Concurrency, result.PerSecond, result.Summary)
	})
}
