package controlplane

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

const (
	namespace   = "kms-client"
	secretsPath = "/api/v1/namespaces/" + namespace + "/secrets"
	secretField = "password"

	// SecretsPrefix is where etcd has the Secrets of every namespace.
	SecretsPrefix = "/registry/secrets/"
)

// Secret is what was written and has to come back.
type Secret struct {
	Name  string
	Value string
}

// StorageKey is where etcd has it.
func (s Secret) StorageKey() string { return SecretsPrefix + namespace + "/" + s.Name }

// Object is as much of a Kubernetes object as the tests need.
type Object struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   Metadata          `json:"metadata"`
	Data       map[string][]byte `json:"data,omitempty"` // base64 in JSON, as the API has it
}

// Metadata is the same of its metadata.
type Metadata struct {
	Name              string `json:"name"`
	Namespace         string `json:"namespace,omitempty"`
	UID               string `json:"uid,omitempty"`
	CreationTimestamp string `json:"creationTimestamp,omitempty"`
	ResourceVersion   string `json:"resourceVersion,omitempty"`
}

// Object is the Secret as the API has it. Without a version it is written
// whatever is there.
func (s Secret) Object(version string) Object {
	data := map[string][]byte{secretField: []byte(s.Value)}
	return Object{"v1", "Secret", Metadata{Name: s.Name, Namespace: namespace, ResourceVersion: version}, data}
}

// CreateNamespace makes the one for all Secrets.
func (c *Client) CreateNamespace(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, "/api/v1/namespaces", Object{"v1", "Namespace", Metadata{Name: namespace}, nil}, nil)
}

// CreateSecret returns its resourceVersion.
func (c *Client) CreateSecret(ctx context.Context, s Secret) (version string, err error) {
	var written Object
	err = c.send(ctx, http.MethodPost, secretsPath, s.Object(""), &written)
	return written.Metadata.ResourceVersion, err
}

// UpdateSecret needs the version that it replaces, and returns the new one.
func (c *Client) UpdateSecret(ctx context.Context, s Secret, replaces string) (version string, err error) {
	var written Object
	err = c.send(ctx, http.MethodPut, secretsPath+"/"+s.Name, s.Object(replaces), &written)
	return written.Metadata.ResourceVersion, err
}

// IsConflict says that something else is there than the writer knew.
func IsConflict(err error) bool {
	var answer *refused
	return errors.As(err, &answer) && answer.code == http.StatusConflict
}

// IsNotFound says that nothing is there.
func IsNotFound(err error) bool {
	var answer *refused
	return errors.As(err, &answer) && answer.code == http.StatusNotFound
}

// ReadSecret returns the value and its version. Without notBefore etcd is read;
// with it the watch cache, once that has come as far as this version.
func (c *Client) ReadSecret(ctx context.Context, name, notBefore string) (value, version string, err error) {
	path := secretsPath + "/" + name
	if notBefore != "" {
		path += "?resourceVersion=" + url.QueryEscape(notBefore)
	}
	var got Object
	if err := c.Get(ctx, path, &got); err != nil {
		return "", "", err
	}
	return string(got.Data[secretField]), got.Metadata.ResourceVersion, nil
}

// CheckSecret reads it from etcd and compares.
func (c *Client) CheckSecret(ctx context.Context, s Secret) error {
	value, _, err := c.ReadSecret(ctx, s.Name, "")
	if err == nil && value != s.Value {
		return errors.New("it has another value than was written")
	}
	return err
}
