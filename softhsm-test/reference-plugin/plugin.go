package main

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"
	"k8s.io/kms/pkg/service"
)

const (
	keyBits = 256

	// Marks what this plugin encrypted, and in which form.
	annotation        = "form.reference-plugin.internal"
	annotationVersion = "1"
)

// plugin seals with AES-GCM on the token: nonce, ciphertext and tag in one blob,
// bound to the key's name.
type plugin struct {
	aead  cipher.AEAD
	keyID string
}

func newPlugin(token *crypto11.Context, keyLabel string) (*plugin, error) {
	key, err := findOrMakeKey(token, keyLabel)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", keyLabel, err)
	}
	aead, err := key.NewGCM()
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", keyLabel, err)
	}
	return &plugin{aead: aead, keyID: keyLabel}, nil
}

func findOrMakeKey(token *crypto11.Context, label string) (*crypto11.SecretKey, error) {
	found, err := token.FindKeys(nil, []byte(label))
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return found[0], nil
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	return token.GenerateSecretKeyWithLabel(id, []byte(label), keyBits, crypto11.CipherAES)
}

func (p *plugin) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: p.keyID}, nil
}

func (p *plugin) Encrypt(_ context.Context, _ string, plaintext []byte) (*service.EncryptResponse, error) {
	nonceSize := p.aead.NonceSize()
	blob := make([]byte, nonceSize, nonceSize+len(plaintext)+p.aead.Overhead())
	if _, err := rand.Read(blob); err != nil {
		return nil, err
	}
	return &service.EncryptResponse{
		Ciphertext:  p.aead.Seal(blob, blob, plaintext, []byte(p.keyID)),
		KeyID:       p.keyID,
		Annotations: map[string][]byte{annotation: []byte(annotationVersion)},
	}, nil
}

func (p *plugin) Decrypt(_ context.Context, _ string, request *service.DecryptRequest) ([]byte, error) {
	if request.KeyID != p.keyID {
		return nil, fmt.Errorf("key_id %q is not known here", request.KeyID)
	}
	if len(request.Annotations) != 1 || string(request.Annotations[annotation]) != annotationVersion {
		return nil, errors.New("the annotations are not ours")
	}
	nonceSize := p.aead.NonceSize()
	if len(request.Ciphertext) < nonceSize+p.aead.Overhead() {
		return nil, errors.New("the ciphertext is too short")
	}
	nonce, sealed := request.Ciphertext[:nonceSize], request.Ciphertext[nonceSize:]
	return p.aead.Open(nil, nonce, sealed, []byte(p.keyID))
}
