package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"

	"p11-kms.test/client/internal/cluster"
)

// kube-apiserver trusts a good Status for 20 s. After that there has to be time
// to see what it does without a token.
const shortestLoss = 40 * time.Second

func runCluster(ctx context.Context, flags *flag.FlagSet, args []string) error {
	o := cluster.Options{Log: os.Stderr}
	flags.StringVar(&o.KubeAPIServer, "kube-apiserver", "", "path of the program")
	flags.StringVar(&o.Etcd, "etcd", "", "path of the program")
	flags.IntVar(&o.Secrets, "secrets", 20, "how many Secrets to write at a time")
	p11kms := flags.String("p11-kms", "", "path of the plugin")
	config := flags.String("config", "", "its config file; the token and the KEK have to be there")
	encryptionConfig := flags.String("encryption-config", "", "an EncryptionConfiguration, to test another plugin: its command comes behind --")
	flags.StringVar(&o.FaultControl, "fault-control", "", "the control directory of the misbehaving PKCS#11 module that the plugin runs on: other steps, in which it loses its token")
	flags.DurationVar(&o.LostFor, "lost-for", time.Minute, "how long, with --fault-control")
	limit := flags.Duration("timeout", 15*time.Minute, "give up after this time")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := parse(flags, args, "kube-apiserver", "etcd"); err != nil {
		return err
	}
	if o.Secrets < 1 {
		return complain(flags, "--secrets has to be at least 1")
	}
	if o.FaultControl != "" && o.LostFor < shortestLoss {
		return complain(flags, "--lost-for has to be at least %s: kube-apiserver needs half of it to notice", shortestLoss)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, errors.New("--timeout has passed"))
	defer cancel()

	var err error
	switch {
	case *p11kms != "" && *config != "" && *encryptionConfig == "" && flags.NArg() == 0:
		o.Plugin = []string{*p11kms, "--config", *config, "serve"}
		o.EncryptionConfig, err = printed(ctx, *p11kms, "--config", *config, "encryption-config")
	case *p11kms == "" && *config == "" && *encryptionConfig != "" && flags.NArg() > 0:
		o.Plugin = flags.Args()
		o.EncryptionConfig, err = os.ReadFile(*encryptionConfig)
	default:
		return complain(flags, "either --p11-kms and --config, or --encryption-config FILE -- COMMAND is needed")
	}
	if err != nil {
		return err
	}

	steps, failed := cluster.Run(ctx, o)
	// Also after a failure: how far it came is worth knowing.
	if err := show(*asJSON, steps, func() { fmt.Printf("%d steps are done\n", len(steps)) }); err != nil {
		return err
	}
	return failed
}

// printed is what a command writes to stdout; its stderr goes to ours.
func printed(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return output, nil
}
