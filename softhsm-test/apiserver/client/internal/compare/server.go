package compare

import (
	"context"
	"path/filepath"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/process"
	"p11-kms.test/client/internal/token"
)

const (
	p11kmsName    = "p11-kms"
	referenceName = "reference"

	startLimit = 30 * time.Second
	stopLimit  = 15 * time.Second
)

// server is one of the two, and how to start it.
type server struct {
	name     string
	endpoint string
	argv     []string
	env      []string
	logFile  string
}

// servers describes both, p11-kms first. The suffix keeps the files of two such
// pairs apart.
func servers(ctx context.Context, o Options, t *token.Token, module, suffix string) ([]server, error) {
	path := func(name string) string { return filepath.Join(t.Dir, name+"-"+suffix) }

	config := path("p11-kms.toml")
	ours := server{
		name:     p11kmsName,
		endpoint: "unix://" + path("p11-kms.sock"),
		argv:     []string{o.P11KMS, "--config", config, "serve"},
		env:      t.Env,
		logFile:  path("p11-kms.log"),
	}
	if err := t.WriteConfig(config, module, ours.endpoint); err != nil {
		return nil, err
	}
	// The KEK is made through the module itself, once.
	if module == t.Module {
		if err := t.Run(ctx, o.P11KMS, "--config", config, "key", "generate"); err != nil {
			return nil, err
		}
	}

	endpoint := "unix://" + path("reference.sock")
	theirs := server{
		name:     referenceName,
		endpoint: endpoint,
		argv: []string{
			o.Reference, "--module", module, "--token-label", token.Label,
			"--pin-file", t.PINFile, "--endpoint", endpoint,
		},
		env:     t.Env,
		logFile: path("reference.log"),
	}
	return []server{ours, theirs}, nil
}

// running is a server that answers, and the one connection to it.
type running struct {
	*process.Process
	client kmsapi.KeyManagementServiceClient
	hangUp func()
}

func (s server) start(ctx context.Context) (*running, error) {
	p, err := process.Start(process.Command{Name: s.name, Argv: s.argv, Env: s.env, LogFile: s.logFile})
	if err != nil {
		return nil, err
	}
	client, hangUp, err := kms.BareClient(s.endpoint)
	if err == nil {
		err = process.Until(ctx, startLimit, "waiting for "+s.name+" to be well", func(ctx context.Context) error {
			_, err := kms.Healthy(ctx, client)
			return err
		}, p)
	}
	if err != nil {
		_ = p.Kill()
		return nil, err
	}
	return &running{p, client, hangUp}, nil
}

// stop reports a server that does not end in order: its numbers are not worth
// much then.
func (r *running) stop() error {
	r.hangUp()
	return r.Stop(stopLimit)
}
