package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Client talks to one kube-apiserver.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// NewClient shows the token to whatever is at that URL.
func NewClient(base, token string, over *http.Client) *Client {
	return &Client{base, token, over}
}

// KMSHealth is what a load balancer or a monitor would ask.
func (c *Client) KMSHealth(ctx context.Context) error {
	return c.Get(ctx, "/healthz/kms-providers", nil)
}

// Get decodes the answer into a value, unless that is nil.
func (c *Client) Get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

// refused is an answer that says no.
type refused struct {
	request string
	code    int
	text    string
}

func (r *refused) Error() string {
	return fmt.Sprintf("%s: %d %s: %s", r.request, r.code, http.StatusText(r.code), r.text)
}

func (c *Client) send(ctx context.Context, method, path string, from Object, into any) error {
	body, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return c.do(ctx, method, path, body, into)
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return &refused{method + " " + path, answer.StatusCode, string(bytes.TrimSpace(text))}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
