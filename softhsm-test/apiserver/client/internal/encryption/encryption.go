// Package encryption reads and writes EncryptionConfiguration files.
package encryption

import (
	"fmt"
	"os"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Provider is the KMS v2 provider that a configuration writes with.
type Provider struct {
	Name     string
	Endpoint string
}

// Prefix is what every value that this provider encrypted begins with in etcd.
func (p Provider) Prefix() string { return "k8s:enc:kms:v2:" + p.Name + ":" }

const document = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms:
          apiVersion: v2
          name: %q
          endpoint: %q
          timeout: 3s
      - identity: {}
`

// Write makes a configuration that encrypts Secrets with the provider.
func Write(file string, provider Provider) error {
	return os.WriteFile(file, fmt.Appendf(nil, document, provider.Name, provider.Endpoint), 0o600)
}

// Read finds the provider that Secrets are written with.
func Read(file string) (Provider, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Provider{}, err
	}
	var configuration apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(text, &configuration); err != nil {
		return Provider{}, fmt.Errorf("%s: %w", file, err)
	}
	for _, rule := range configuration.Resources {
		for _, resource := range rule.Resources {
			if resource != "secrets" || len(rule.Providers) == 0 {
				continue
			}
			// The first provider is the one that writes.
			plugin := rule.Providers[0].KMS
			if plugin == nil || plugin.APIVersion != "v2" {
				return Provider{}, fmt.Errorf("%s: the first provider of secrets is not KMS v2", file)
			}
			return Provider{Name: plugin.Name, Endpoint: plugin.Endpoint}, nil
		}
	}
	return Provider{}, fmt.Errorf("%s: nothing is said about secrets", file)
}
