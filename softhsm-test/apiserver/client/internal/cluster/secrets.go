package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	namespace   = "kms-client"
	secretsPath = "/api/v1/namespaces/" + namespace + "/secrets"
	secretField = "password"
)

// secret is what was written and has to come back.
type secret struct {
	name  string
	value string
}

func newSecret(number int) secret {
	return secret{name: fmt.Sprintf("secret-%04d", number), value: rand.Text()}
}

// object is as much of a Kubernetes object as the test needs.
type object struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Data       map[string][]byte `json:"data,omitempty"` // base64 in JSON, as the API has it
}

type metadata struct {
	Name string `json:"name"`
}

func (a *apiserver) createNamespace(ctx context.Context) error {
	return a.post(ctx, "/api/v1/namespaces", object{"v1", "Namespace", metadata{namespace}, nil})
}

func (a *apiserver) createSecret(ctx context.Context, s secret) error {
	data := map[string][]byte{secretField: []byte(s.value)}
	return a.post(ctx, secretsPath, object{"v1", "Secret", metadata{s.name}, data})
}

func (a *apiserver) checkSecret(ctx context.Context, s secret) error {
	var got object
	if err := a.get(ctx, secretsPath+"/"+s.name, &got); err != nil {
		return err
	}
	if string(got.Data[secretField]) != s.value {
		return errors.New("it has another value than was written")
	}
	return nil
}

// get decodes the answer into a value, unless that is nil.
func (a *apiserver) get(ctx context.Context, path string, into any) error {
	return a.do(ctx, http.MethodGet, path, nil, into)
}

func (a *apiserver) post(ctx context.Context, path string, from object) error {
	body, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return a.do(ctx, http.MethodPost, path, body, nil)
}

func (a *apiserver) do(ctx context.Context, method, path string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := a.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, bytes.TrimSpace(text))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
