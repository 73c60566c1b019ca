package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/encryption"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/process"
	"p11-kms.test/client/internal/token"
)

const (
	uid          = "kms-client-rotation"
	providerName = "p11-kms"

	// What p11-kms logs for each KEK that it sees for the first time.
	foundKEK = "found a KEK"
)

// node is one of the control plane's: a daemon, and a kube-apiserver on its socket.
type node struct {
	name             string
	config           string
	stateDir         string
	endpoint         string
	encryptionConfig string
	log              string
	command          process.Command

	daemon    *process.Process
	apiserver *controlplane.APIServer
	recorder  *recorder

	// Odd while the test has stopped a part of it, which nobody can call then.
	absences atomic.Int64
}

// newNode writes its files; the token has to be there.
func newNode(o Options, t *token.Token, dir string, number int) (*node, error) {
	own := filepath.Join(dir, fmt.Sprintf("node-%d", number))
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, err
	}
	n := &node{
		name:             fmt.Sprintf("node %d", number),
		config:           filepath.Join(own, "config.toml"),
		stateDir:         filepath.Join(own, "state"),
		endpoint:         "unix://" + filepath.Join(own, "kms.sock"),
		encryptionConfig: filepath.Join(own, "encryption.yaml"),
		log:              filepath.Join(own, "daemon.log"),
	}
	n.recorder = &recorder{node: n}
	n.command = process.Command{
		Name: "the daemon of " + n.name,
		// Without the line for each call.
		Argv: []string{
			o.P11KMS, "--config", n.config, "--log", "warn,p11_kms::keyring=info",
			"--log-format", "json", "serve",
		},
		Env:     t.Env,
		LogFile: n.log,
	}
	keyring := fmt.Sprintf("scan-interval = %q\nactivation-delay = %q\n", scanInterval, o.ActivationDelay)
	err := t.WriteNodeConfig(n.config, token.Node{
		Module: t.Module, Endpoint: n.endpoint, StateDir: n.stateDir, Keyring: keyring,
	})
	if err != nil {
		return nil, err
	}
	provider := encryption.Provider{Name: providerName, Endpoint: n.endpoint}
	return n, encryption.Write(n.encryptionConfig, provider)
}

// absence is to be kept before a call, for wasAway after it.
func (n *node) absence() int64 { return n.absences.Load() }

// wasAway says whether the test had stopped it at any time since.
func (n *node) wasAway(before int64) bool { return before%2 == 1 || n.absences.Load() != before }

func (n *node) leaves()  { n.absences.Add(1) }
func (n *node) returns() { n.absences.Add(1) }

// startDaemon waits until it is well.
func (n *node) startDaemon(ctx context.Context) error {
	daemon, err := process.Start(n.command)
	if err != nil {
		return err
	}
	n.daemon = daemon
	return process.Until(ctx, daemonLimit, "waiting for "+n.name+" to be well", func(ctx context.Context) error {
		if err := kms.Listens(ctx, n.endpoint); err != nil {
			return err
		}
		client, hangUp, err := kms.BareClient(n.endpoint)
		if err != nil {
			return err
		}
		defer hangUp()
		_, err = kms.Healthy(ctx, client)
		return err
	}, daemon)
}

// stopDaemon insists on an orderly end that leaves nothing.
func (n *node) stopDaemon() error {
	if err := n.daemon.Stop(daemonLimit); err != nil {
		return fmt.Errorf("%w\n--- the end of its log\n%s", err, n.daemon.Tail())
	}
	return nil
}

// forget leaves it with nothing but its config, as a new machine has it.
func (n *node) forget() error {
	return errors.Join(os.RemoveAll(n.stateDir), os.Mkdir(n.stateDir, 0o700))
}

// found is how many KEKs its daemons have told of.
func (n *node) found() (int, error) {
	text, err := os.ReadFile(n.log)
	return bytes.Count(text, []byte(foundKEK)), err
}

// activeKEKs are the key_ids that `key list` calls active.
func (n *node) activeKEKs(ctx context.Context, r *run) ([]string, error) {
	text, err := r.p11kms(ctx, n, "--output", "json", "key", "list")
	if err != nil {
		return nil, err
	}
	var lines []struct {
		State string
		KeyID string `json:"key-id"`
	}
	if err := json.Unmarshal(text, &lines); err != nil {
		return nil, fmt.Errorf("key list: %w", err)
	}
	var active []string
	for _, line := range lines {
		if line.State == "active" {
			active = append(active, line.KeyID)
		}
	}
	return active, nil
}

// kill is kill -9, for the daemon and its workers.
func (n *node) kill() error { return n.daemon.Kill() }

// until looks often; it gives up when the limit has passed or the daemon ends.
func (n *node) until(ctx context.Context, limit time.Duration, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: %s did not come within %s", n.name, what, limit))
	defer cancel()
	for {
		done, err := is()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\n--- the end of the log of its daemon\n%s", context.Cause(ctx), n.daemon.Tail())
		case <-n.daemon.Ended():
			return fmt.Errorf("%s: waiting for %s: its daemon ended\n--- the end of its log\n%s", n.name, what, n.daemon.Tail())
		case <-time.After(lookEvery):
		}
	}
}
