// Package kms reaches a KMS v2 plugin over its Unix socket, in the two ways the
// tests need: with Kubernetes' own client, and with bare gRPC calls.
package kms

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"
)

const (
	// CallTimeout is what kube-apiserver gives a call unless told otherwise.
	CallTimeout = 3 * time.Second

	// SeedLength is the length of what kube-apiserver has encrypted.
	SeedLength = 32
)

// RealClient is the client inside kube-apiserver. It lives as long as ctx and
// gives each call the timeout.
func RealClient(ctx context.Context, endpoint, providerName string, timeout time.Duration) (service.Service, error) {
	return kmsv2.NewGRPCService(ctx, endpoint, providerName, timeout)
}

// BareClient makes the same calls over the same kind of connection, without the
// metrics around each call. Load is measured with it.
func BareClient(endpoint string) (kmsapi.KeyManagementServiceClient, func(), error) {
	address, err := util.ParseEndpoint(endpoint)
	if err != nil {
		return nil, nil, err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", address)
	}
	connection, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(dial))
	if err != nil {
		return nil, nil, err
	}
	return kmsapi.NewKeyManagementServiceClient(connection), func() { _ = connection.Close() }, nil
}

// Listens says whether something accepts connections there. Both clients wait a
// second and more after a first connection that was refused.
func Listens(ctx context.Context, endpoint string) error {
	address, err := util.ParseEndpoint(endpoint)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", address)
	if err != nil {
		return err
	}
	return connection.Close()
}

// RandomSeed is as long as those of kube-apiserver.
func RandomSeed() []byte {
	seed := make([]byte, SeedLength)
	_, _ = rand.Read(seed) // never fails, by its documentation
	return seed
}

// Healthy asks once whether the plugin is well.
func Healthy(ctx context.Context, client kmsapi.KeyManagementServiceClient) (*kmsapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	status, err := client.Status(ctx, &kmsapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	if status.Healthz != "ok" {
		return nil, fmt.Errorf("healthz is %q", status.Healthz)
	}
	return status, nil
}
