package compare

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	tokenLabel = "compare"
	setupLimit = time.Minute
)

// token is a SoftHSM token that nobody else knows.
type token struct {
	dir     string
	pinFile string
	env     []string // what the module needs to find it
	module  string
}

func makeToken(ctx context.Context, dir, module string) (*token, error) {
	t := &token{
		dir:     dir,
		pinFile: filepath.Join(dir, "pin"),
		env:     []string{"SOFTHSM2_CONF=" + filepath.Join(dir, "softhsm2.conf")},
		module:  module,
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if err := os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	pin := rand.Text()
	if err := os.WriteFile(t.pinFile, []byte(pin), 0o600); err != nil {
		return nil, err
	}
	return t, t.run(ctx, "softhsm2-util", "--module", module, "--init-token", "--free",
		"--label", tokenLabel, "--so-pin", rand.Text(), "--pin", pin)
}

// run waits for a command that works on the token.
func (t *token) run(ctx context.Context, name string, args ...string) error {
	_, err := t.output(ctx, setupLimit, name, args...)
	return err
}

func (t *token) output(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Env = append(os.Environ(), t.env...)
	var complaints strings.Builder
	command.Stderr = &complaints
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", filepath.Base(name), err, output, complaints.String())
	}
	return output, nil
}
