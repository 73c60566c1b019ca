package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/process"
)

// step is one thing to do or to see. The next feature to test is a line here and
// a function below.
type step struct {
	name string
	run  func(context.Context, *Cluster) error
}

var ordinarySteps = []step{
	{"the plugin starts", func(ctx context.Context, c *Cluster) error { return c.startPlugin(ctx) }},
	{"etcd starts", func(ctx context.Context, c *Cluster) error { return c.startEtcd(ctx) }},
	{"kube-apiserver starts", func(ctx context.Context, c *Cluster) error { return c.startAPIServer(ctx) }},
	{"Secrets are written", writeSecrets},
	{"etcd holds them encrypted", etcdHoldsCiphertext},
	{"every Secret reads back", secretsReadBack},
	{"without the plugin kube-apiserver becomes unhealthy, and still reads", pluginGoesAway},
	{"with the plugin it becomes healthy again", pluginComesBack},
	{"the plugin restarts, more Secrets are written", pluginRestarts},
	{"kube-apiserver restarts", apiserverRestarts},
	{"every Secret reads back after the restarts", secretsReadBack},
	{"etcd holds the later ones encrypted too", etcdHoldsCiphertext},
	{"the plugin ends in order and leaves nothing", func(_ context.Context, c *Cluster) error { return c.stopPlugin() }},
}

func writeSecrets(ctx context.Context, c *Cluster) error {
	server := c.apiservers[0]
	if len(c.secrets) == 0 {
		if err := server.CreateNamespace(ctx); err != nil {
			return err
		}
	}
	for range c.options.Secrets {
		s := newSecret(len(c.secrets) + 1)
		if _, err := server.CreateSecret(ctx, s); err != nil {
			return fmt.Errorf("%s: %w\n--- the end of the log of kube-apiserver\n%s", s.Name, err, server.Process.Tail())
		}
		c.secrets = append(c.secrets, s)
	}
	c.say("%d Secrets in all", len(c.secrets))
	return nil
}

func newSecret(number int) controlplane.Secret {
	return controlplane.Secret{Name: fmt.Sprintf("secret-%04d", number), Value: rand.Text()}
}

func secretsReadBack(ctx context.Context, c *Cluster) error {
	for _, server := range c.apiservers {
		for _, s := range c.secrets {
			if err := server.CheckSecret(ctx, s); err != nil {
				return fmt.Errorf("%s: %w\n--- the end of the log of kube-apiserver\n%s", s.Name, err, server.Process.Tail())
			}
		}
	}
	return nil
}

func etcdHoldsCiphertext(ctx context.Context, c *Cluster) error {
	keyID, err := c.keyID(ctx)
	if err != nil {
		return err
	}
	values, err := c.etcd.List(ctx, controlplane.SecretsPrefix)
	if err != nil {
		return err
	}
	if len(values) < len(c.secrets) {
		return fmt.Errorf("etcd holds %d Secrets of %d", len(values), len(c.secrets))
	}
	for _, v := range values {
		needed, err := v.KeyID(c.provider.Prefix(), c.secrets)
		if err == nil && needed != keyID {
			err = fmt.Errorf("it needs key_id %q, the plugin has %q", needed, keyID)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.Key, err)
		}
	}
	c.say("%d values, all %s... under key_id %s", len(values), c.provider.Prefix(), keyID)
	return nil
}

func pluginGoesAway(ctx context.Context, c *Cluster) error {
	start := time.Now()
	if err := c.stopPlugin(); err != nil {
		return err
	}
	for _, server := range c.apiservers {
		err := process.Until(ctx, unhealthyLimit, "waiting for /healthz/kms-providers to fail", func(ctx context.Context) error {
			if server.KMSHealth(ctx) == nil {
				return errors.New("it is still ok")
			}
			return nil
		}, server.Process)
		if err != nil {
			return err
		}
	}
	c.say("unhealthy after %s", since(start))
	return secretsReadBack(ctx, c)
}

func pluginComesBack(ctx context.Context, c *Cluster) error {
	start := time.Now()
	if err := c.startPlugin(ctx); err != nil {
		return err
	}
	if err := c.becomesHealthy(ctx); err != nil {
		return err
	}
	c.say("healthy after %s", since(start))
	return nil
}

func (c *Cluster) becomesHealthy(ctx context.Context) error {
	for _, server := range c.apiservers {
		err := process.Until(ctx, healthyLimit, "waiting for /healthz/kms-providers to be ok",
			server.KMSHealth, server.Process, c.plugin)
		if err != nil {
			return err
		}
	}
	return nil
}

func pluginRestarts(ctx context.Context, c *Cluster) error {
	if err := c.stopPlugin(); err != nil {
		return err
	}
	if err := c.startPlugin(ctx); err != nil {
		return err
	}
	if err := c.becomesHealthy(ctx); err != nil {
		return err
	}
	return writeSecrets(ctx, c)
}

// apiserverRestarts loses every seed that is cached: what follows needs Decrypt.
func apiserverRestarts(ctx context.Context, c *Cluster) error {
	for _, server := range c.apiservers {
		if err := server.Restart(ctx); err != nil {
			return err
		}
	}
	return c.becomesHealthy(ctx)
}
