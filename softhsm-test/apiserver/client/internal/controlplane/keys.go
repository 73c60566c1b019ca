package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files in the directory of the control plane.
const (
	tokenFile      = "tokens.csv"
	tlsCertFile    = "tls.crt"
	tlsKeyFile     = "tls.key"
	accountKeyFile = "service-account.key"
)

// WriteKeys makes what every kube-apiserver of one control plane wants to have
// before it starts, and the token that we show to them.
func WriteKeys(dir string) error {
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := writeCertificate(file(tlsCertFile), file(tlsKeyFile)); err != nil {
		return err
	}
	accountKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writePrivateKey(file(accountKeyFile), accountKey); err != nil {
		return err
	}
	return os.WriteFile(file(tokenFile), []byte(rand.Text()+",kms-client,kms-client\n"), 0o600)
}

// writeCertificate makes one that signs itself: we know it and ask for no other.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if err := writePEM(certFile, "CERTIFICATE", certificate); err != nil {
		return err
	}
	return writePrivateKey(keyFile, key)
}

func writePrivateKey(file string, key *ecdsa.PrivateKey) error {
	text, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, "EC PRIVATE KEY", text)
}

func writePEM(file, kind string, content []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
}
