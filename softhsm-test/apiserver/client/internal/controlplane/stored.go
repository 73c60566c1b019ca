package controlplane

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
)

// KeyID is the key_id that a stored value needs. It is an error if the value does
// not begin with the provider's prefix, or holds one of the secrets.
func (s Stored) KeyID(prefix string, secrets []Secret) (string, error) {
	rest, encrypted := bytes.CutPrefix(s.Value, []byte(prefix))
	if !encrypted {
		return "", fmt.Errorf("it begins %q", s.Value[:min(len(s.Value), 32)])
	}
	for _, secret := range secrets {
		text := []byte(base64.StdEncoding.EncodeToString([]byte(secret.Value)))
		if bytes.Contains(s.Value, []byte(secret.Value)) || bytes.Contains(s.Value, text) {
			return "", errors.New("it holds plaintext")
		}
	}
	var object kmstypes.EncryptedObject
	if err := proto.Unmarshal(rest, &object); err != nil {
		return "", err
	}
	return object.KeyID, nil
}
