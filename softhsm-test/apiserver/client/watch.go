package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"time"

	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/watch"
)

func runWatch(ctx context.Context, flags *flag.FlagSet, args []string) error {
	o := watch.Options{Events: os.Stdout}
	flags.StringVar(&o.Endpoint, "endpoint", "", "unix:///path or unix:///@name")
	flags.IntVar(&o.Callers, "callers", 8, "calls at once")
	flags.DurationVar(&o.Timeout, "timeout", kms.CallTimeout, "how long a call may take")
	flags.DurationVar(&o.Wait, "wait", 30*time.Second, "how long to wait for the first good round trip")
	if err := parse(flags, args, "endpoint"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if o.Callers < 1 || o.Timeout <= 0 || o.Wait <= 0 {
		return complain(flags, "--callers, --timeout and --wait have to be positive")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		// Whoever started us holds the other end.
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop(errors.New("standard input has ended"))
	}()
	return watch.Run(ctx, o)
}
