package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"time"

	"p11-kms.test/client/internal/compare"
)

func runCompare(ctx context.Context, flags *flag.FlagSet, args []string) error {
	o := compare.Options{Log: os.Stderr}
	flags.StringVar(&o.P11KMS, "p11-kms", "", "path of the program")
	flags.StringVar(&o.Reference, "reference", "", "path of the reference plugin")
	flags.StringVar(&o.RawLoop, "raw-loop", "", "path of the program")
	flags.StringVar(&o.Module, "module", "", "path of the SoftHSM module")
	flags.StringVar(&o.Spy, "spy", "", "path of pkcs11-spy.so; calls are not counted without it")
	flags.IntVar(&o.Rounds, "rounds", 5, "how often each server runs")
	seconds := flags.Float64("seconds", 3, "how long each method is measured")
	jsonFile := flags.String("json", "", "a file for the result as JSON")
	limit := flags.Duration("timeout", time.Hour, "give up after this time")
	if err := parse(flags, args, "p11-kms", "reference", "raw-loop", "module"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	o.Cell = time.Duration(*seconds * float64(time.Second))
	if o.Rounds < 1 || o.Cell <= 0 {
		return complain(flags, "--rounds and --seconds have to be positive")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, errors.New("--timeout has passed"))
	defer cancel()

	report, err := compare.Run(ctx, o)
	if err != nil {
		return err
	}
	report.Markdown(os.Stdout)
	if *jsonFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*jsonFile, append(text, '\n'), 0o644)
}
