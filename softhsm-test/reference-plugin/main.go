// Command reference-plugin is the yardstick for p11-kms: a KMS v2 plugin with a
// key on a PKCS#11 token, built the way Kubernetes builds its own test plugin.
//
// The gRPC server is Kubernetes' (k8s.io/kms/pkg/service). The token is reached
// through crypto11, with that library's defaults: AES-GCM and a session pool.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ThalesGroup/crypto11"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"
)

// How long a new connection may take to set itself up.
const connectionTimeout = 5 * time.Second

type options struct {
	module, tokenLabel, pinFile, keyLabel, endpoint string
}

func main() {
	if err := run(parse()); err != nil {
		fmt.Fprintln(os.Stderr, "reference-plugin:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	flag.StringVar(&o.module, "module", "", "path of the PKCS#11 module")
	flag.StringVar(&o.tokenLabel, "token-label", "", "label of the token")
	flag.StringVar(&o.pinFile, "pin-file", "", "file that holds the user PIN")
	flag.StringVar(&o.keyLabel, "key-label", "reference-kek", "label of the AES key; made when absent")
	flag.StringVar(&o.endpoint, "endpoint", "", "unix:///path or unix:///@name")
	flag.Parse()
	for _, name := range []string{"module", "token-label", "pin-file", "endpoint"} {
		if flag.Lookup(name).Value.String() == "" || flag.NArg() > 0 {
			flag.Usage()
			os.Exit(2)
		}
	}
	return o
}

func run(o options) error {
	pin, err := os.ReadFile(o.pinFile)
	if err != nil {
		return err
	}
	token, err := crypto11.Configure(&crypto11.Config{
		Path:       o.module,
		TokenLabel: o.tokenLabel,
		Pin:        strings.TrimRight(string(pin), "\r\n"),
	})
	if err != nil {
		return fmt.Errorf("token %q of %s: %w", o.tokenLabel, o.module, err)
	}
	defer token.Close()

	plugin, err := newPlugin(token, o.keyLabel)
	if err != nil {
		return err
	}
	return serve(o.endpoint, plugin)
}

// serve answers requests until SIGTERM or SIGINT.
func serve(endpoint string, plugin service.Service) error {
	address, err := util.ParseEndpoint(endpoint)
	if err != nil {
		return err
	}
	// A socket left by a killed run would keep us from binding.
	if !strings.HasPrefix(address, "@") {
		if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()

	server := service.NewGRPCService(address, connectionTimeout, plugin)
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
		server.Close()
		return nil
	}
}
