package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
	"p11-kms.test/client/internal/process"
)

const (
	// What the misbehaving PKCS#11 module reads in its control directory.
	rulesFile = "rules"
	tokenLost = "token lost\n"
	noRules   = ""

	// How long p11-kms may take to be well after its token is back.
	recoveryLimit = 5 * time.Second

	statusEvery = 100 * time.Millisecond
)

// lostSteps are run when the token is to be lost. For the plugin's PKCS#11 module
// the directory Options.FaultControl decides whether there is a token.
var lostSteps = []step{
	{"the plugin starts", func(ctx context.Context, c *Cluster) error { return c.startPlugin(ctx) }},
	{"etcd starts", func(ctx context.Context, c *Cluster) error { return c.startEtcd(ctx) }},
	{"kube-apiserver starts", func(ctx context.Context, c *Cluster) error { return c.startAPIServer(ctx) }},
	{"Secrets are written", writeSecrets},
	{"from now on Secrets are written and read all the time; the token is lost", tokenGoesAway},
	{"kube-apiserver becomes unhealthy and shows the plugin's reason", reasonIsShown},
	{"until the token is back every Secret is read", readWithoutToken},
	{"with the token the plugin is well again", tokenComesBack},
	{"kube-apiserver becomes healthy, and then no write fails", healthyWithToken},
	{"kube-apiserver restarts", apiserverRestarts},
	{"every Secret whose write was acknowledged reads back", secretsReadBack},
	{"etcd holds them encrypted", etcdHoldsCiphertext},
	{"the plugin ends in order and leaves nothing", func(_ context.Context, c *Cluster) error { return c.stopPlugin() }},
}

// setRules replaces the file as a whole: the module never reads half of it.
func (c *Cluster) setRules(text string) error {
	file := filepath.Join(c.options.FaultControl, rulesFile)
	next := file + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return err
	}
	// A file system stamps files of one tick alike, and the module looks at stamps.
	now := time.Now()
	if err := os.Chtimes(next, now, now); err != nil {
		return err
	}
	return os.Rename(next, file)
}

// untilStatus asks the plugin itself until its answer is the wanted one.
func (c *Cluster) untilStatus(ctx context.Context, limit time.Duration, wanted func(healthz string) bool) (string, error) {
	client, hangUp, err := kms.BareClient(c.provider.Endpoint)
	if err != nil {
		return "", err
	}
	defer hangUp()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	last := "no answer"
	for {
		// Never a failed call: Status is answered whatever the token does.
		status, err := client.Status(ctx, &kmsapi.StatusRequest{})
		switch {
		case err == nil && wanted(status.Healthz):
			return status.Healthz, nil
		case err == nil:
			last = status.Healthz
		case ctx.Err() == nil:
			return "", fmt.Errorf("the plugin's Status: %w", err)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the plugin's Status: %w (last seen: %s)\n--- the end of its log\n%s",
				context.Cause(ctx), last, c.plugin.Tail())
		case <-time.After(statusEvery):
		}
	}
}

func isOK(healthz string) bool    { return healthz == "ok" }
func isNotOK(healthz string) bool { return healthz != "ok" }

func tokenGoesAway(ctx context.Context, c *Cluster) error {
	c.traffic = startTraffic(ctx, &c.apiservers[0].Client, c.secrets)
	c.lostAt = time.Now()
	c.countsBefore, _, _ = c.traffic.look()
	if err := c.setRules(tokenLost); err != nil {
		return err
	}
	reason, err := c.untilStatus(ctx, pluginLimit, isNotOK)
	if err != nil {
		return err
	}
	c.say("after %s the plugin's Status is: %s", since(c.lostAt), reason)
	return nil
}

// reasonIsShown looks at the one place where kube-apiserver says why: the check's
// own path. In /healthz?verbose it withholds reasons from everybody.
func reasonIsShown(ctx context.Context, c *Cluster) error {
	server := c.apiservers[0]
	var reason, shown string
	err := process.Until(ctx, unhealthyLimit, "waiting for the reason in /healthz/kms-providers", func(ctx context.Context) error {
		health := server.KMSHealth(ctx)
		if health == nil {
			return errors.New("it is still ok")
		}
		var err error
		// Asked each time: the reason may become a clearer one.
		if reason, err = c.untilStatus(ctx, pluginLimit, isNotOK); err != nil {
			return err
		}
		if shown = health.Error(); !strings.Contains(shown, reason) {
			return fmt.Errorf("the plugin's Status is %q, and there is only %q", reason, shown)
		}
		return nil
	}, server.Process, c.plugin)
	if err != nil {
		return err
	}
	c.say("after %s: %s", since(c.lostAt), shown)
	if all := server.Get(ctx, "/healthz?verbose", nil); all != nil {
		c.say("in /healthz?verbose: %s", lineWith(all.Error(), "kms-providers"))
	}
	log, err := os.ReadFile(server.LogFile)
	if err != nil {
		return err
	}
	c.say("in its log: %t", strings.Contains(string(log), reason))
	return nil
}

func lineWith(text, words string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, words) {
			return strings.TrimSpace(line)
		}
	}
	return "nothing of " + words
}

func readWithoutToken(ctx context.Context, c *Cluster) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Until(c.lostAt.Add(c.options.LostFor))):
	}
	now, writeError, readError := c.traffic.look()
	during := now.since(c.countsBefore)
	c.say("in %s without a token: %s", since(c.lostAt), during)
	if writeError != nil {
		c.say("the first write that failed: %v", writeError)
	}
	if readError == nil && during.read == 0 {
		return errors.New("nothing was read")
	}
	return readError
}

func tokenComesBack(ctx context.Context, c *Cluster) error {
	start := time.Now()
	if err := c.setRules(noRules); err != nil {
		return err
	}
	if _, err := c.untilStatus(ctx, recoveryLimit, isOK); err != nil {
		return err
	}
	c.say("the plugin's Status is ok after %s", since(start))
	return nil
}

func healthyWithToken(ctx context.Context, c *Cluster) error {
	start := time.Now()
	if err := c.becomesHealthy(ctx); err != nil {
		return err
	}
	c.say("healthy after %s", since(start))
	before, _, _ := c.traffic.look()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(5 * writeEvery):
	}
	c.secrets = c.traffic.end()
	all, writeError, readError := c.traffic.look()
	c.traffic = nil
	c.say("in all: %s", all)
	after := all.since(before)
	switch {
	case readError != nil:
		return readError
	case after.writesFailed > 0:
		return fmt.Errorf("%d writes have failed since it is healthy; the first of all: %w", after.writesFailed, writeError)
	case after.written == 0:
		return errors.New("nothing was written since it is healthy")
	default:
		return nil
	}
}

func since(start time.Time) time.Duration { return time.Since(start).Round(100 * time.Millisecond) }
