// Command kms-client tests a KMS v2 plugin from kube-apiserver's side: with
// kube-apiserver's own client, under load, and with a whole kube-apiserver.
//
// Exit codes: 0 all is well, 1 something is not, 2 usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

type command struct {
	name    string
	summary string
	run     func(ctx context.Context, flags *flag.FlagSet, args []string) error
}

var commands = []command{
	{"roundtrip", "check every rule of KMS v2, then write and read as kube-apiserver does", roundtrip},
	{"storm", "thousands of Decrypts at the same moment", runStorm},
	{"watch", "call without end and tell what fails, until SIGTERM or the end of standard input", runWatch},
	{"load", "measure throughput and latency of one method", runLoad},
	{"cluster", "the end-to-end test with a real etcd and kube-apiserver", runCluster},
	{"rotation", "KEKs are rotated under three daemons and three kube-apiservers, nodes are lost meanwhile", runRotation},
	{"soak", "a million calls to p11-kms, on a token of its own; no process may grow", runSoak},
	{"compare", "measure p11-kms against the reference plugin, on a token of its own", runCompare},
}

// What has been explained already.
var (
	errUsage     = errors.New("usage")
	errExplained = errors.New("explained")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := dispatch(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case errors.Is(err, errExplained):
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "kms-client %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(ctx, flag.NewFlagSet(c.name, flag.ContinueOnError), args[1:])
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: kms-client COMMAND [flags]; COMMAND --help says more")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", c.name, c.summary)
	}
	return errUsage
}

// parse reads the flags. All that are named in required have to be given.
func parse(flags *flag.FlagSet, args []string, required ...string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage // the flag package has said what is wrong
	}
	for _, name := range required {
		if flags.Lookup(name).Value.String() == "" {
			return complain(flags, "--%s is needed", name)
		}
	}
	return nil
}

func complain(flags *flag.FlagSet, format string, values ...any) error {
	fmt.Fprintf(flags.Output(), "kms-client %s: "+format+"\n", append([]any{flags.Name()}, values...)...)
	return errUsage
}

// noMore refuses what is left behind the flags.
func noMore(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return complain(flags, "what is %q?", flags.Arg(0))
	}
	return nil
}

// show prints a result: as JSON, or in the words of text.
func show(asJSON bool, result any, text func()) error {
	if !asJSON {
		text()
		return nil
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}
