// Package token makes SoftHSM tokens that nobody else knows, for tests.
package token

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
	// Label is how the token is found.
	Label = "kms-client"

	setupLimit = time.Minute
)

// Token is one of them, in a directory that is the caller's to remove.
type Token struct {
	Dir     string
	PINFile string
	Env     []string // what the module needs to find it
	Module  string   // the path of SoftHSM
}

// Make makes one without a KEK.
func Make(ctx context.Context, dir, module string) (*Token, error) {
	t := &Token{
		Dir:     dir,
		PINFile: filepath.Join(dir, "pin"),
		Env:     []string{"SOFTHSM2_CONF=" + filepath.Join(dir, "softhsm2.conf")},
		Module:  module,
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
	if err := os.WriteFile(t.PINFile, []byte(pin), 0o600); err != nil {
		return nil, err
	}
	return t, t.Run(ctx, "softhsm2-util", "--module", module, "--init-token", "--free",
		"--label", Label, "--so-pin", rand.Text(), "--pin", pin)
}

// WriteConfig writes a config of p11-kms for the token, with a module that is
// SoftHSM or passes calls on to it.
func (t *Token) WriteConfig(file, module, endpoint string) error {
	return t.WriteNodeConfig(file, Node{Module: module, Endpoint: endpoint, StateDir: filepath.Join(t.Dir, "state")})
}

// Node is what differs between the daemons on one token.
type Node struct {
	Module   string
	Endpoint string
	StateDir string
	Keyring  string // further lines of that part of the config
}

// WriteNodeConfig is WriteConfig for one of several daemons.
func (t *Token) WriteNodeConfig(file string, n Node) error {
	if err := os.MkdirAll(n.StateDir, 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf(`[token]
module = %q
uri = "pkcs11:token=%s"
pin-file = %q
profile = "softhsm"

[keyring]
label = "kms-client-kek"
state-dir = %q
%s
[server]
endpoint = %q
allow-uids = [%d]
`, n.Module, Label, t.PINFile, n.StateDir, n.Keyring, n.Endpoint, os.Getuid())
	return os.WriteFile(file, []byte(text), 0o600)
}

// Run waits for a command that works on the token.
func (t *Token) Run(ctx context.Context, name string, args ...string) error {
	_, err := t.Output(ctx, setupLimit, name, args...)
	return err
}

// Output is the same for a command whose output is wanted.
func (t *Token) Output(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Env = append(os.Environ(), t.Env...)
	var complaints strings.Builder
	command.Stderr = &complaints
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", filepath.Base(name), err, output, complaints.String())
	}
	return output, nil
}
