package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"time"

	"p11-kms.test/client/internal/rotation"
)

func runRotation(ctx context.Context, flags *flag.FlagSet, args []string) error {
	o := rotation.Options{Log: os.Stderr}
	flags.StringVar(&o.P11KMS, "p11-kms", "", "path of the program")
	flags.StringVar(&o.Module, "module", "", "path of the SoftHSM module")
	flags.StringVar(&o.KubeAPIServer, "kube-apiserver", "", "path of the program")
	flags.StringVar(&o.Etcd, "etcd", "", "path of the program")
	flags.StringVar(&o.KeyCommand, "key-command", "rotate", "the command of p11-kms key that makes the next KEK: rotate or generate")
	flags.IntVar(&o.Rotations, "rotations", rotation.FewestRotations, "how many")
	flags.DurationVar(&o.ActivationDelay, "activation-delay", 2*time.Second, "of the daemons")
	flags.BoolVar(&o.Follow, "follow", false, "wait after each rotation until every kube-apiserver writes with its KEK: 20 s more for each")
	limit := flags.Duration("timeout", 15*time.Minute, "give up after this time")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args, "p11-kms", "module", "kube-apiserver", "etcd"); err != nil {
		return err
	}
	if err := noMore(flags); err != nil {
		return err
	}
	if o.Rotations < rotation.FewestRotations {
		return complain(flags, "--rotations has to be at least %d", rotation.FewestRotations)
	}
	if o.ActivationDelay <= 0 {
		return complain(flags, "--activation-delay has to be positive")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, errors.New("--timeout has passed"))
	defer cancel()

	report, failed := rotation.Run(ctx, o)
	if report == nil {
		return failed
	}
	// Also after a failure: what was counted is worth knowing.
	if err := show(*asJSON, report, func() { report.Line(os.Stdout) }); err != nil {
		return err
	}
	return failed
}
