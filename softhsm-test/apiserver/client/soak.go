package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"p11-kms.test/client/internal/soak"
)

func runSoak(ctx context.Context, flags *flag.FlagSet, args []string) error {
	o := soak.Options{Log: os.Stderr}
	flags.StringVar(&o.P11KMS, "p11-kms", "", "path of the program")
	flags.StringVar(&o.Module, "module", "", "path of the SoftHSM module")
	flags.IntVar(&o.Operations, "ops", 1_000_000, "how many calls, half of them Encrypts and half Decrypts")
	flags.IntVar(&o.Callers, "callers", 32, "calls at once")
	limit := flags.Duration("timeout", time.Hour, "give up after this time")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args, "p11-kms", "module"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if o.Operations < 2 || o.Callers < 1 {
		return complain(flags, "--ops has to be at least 2 and --callers at least 1")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, errors.New("--timeout has passed"))
	defer cancel()

	report, err := soak.Run(ctx, o)
	if err == nil {
		if err := show(*asJSON, report, func() { report.Table(os.Stdout) }); err != nil {
			return err
		}
		err = report.Failed()
	}
	verdict := os.Stdout
	if *asJSON {
		verdict = os.Stderr // nothing but JSON is on stdout
	}
	if err != nil {
		fmt.Fprintf(verdict, "soak: FAILED: %v\n", err)
		return errExplained
	}
	fmt.Fprintln(verdict, "soak: passed")
	return nil
}
