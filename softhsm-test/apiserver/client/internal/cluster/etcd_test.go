package cluster

import (
	"encoding/base64"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"p11-kms.test/client/internal/encryption"
)

func TestIsCiphertext(t *testing.T) {
	s := newSecret(1)
	c := &Cluster{provider: encryption.Provider{Name: "p11-kms"}, secrets: []secret{s}}
	value := func(prefix, keyID, data string) []byte {
		object, err := proto.Marshal(&kmstypes.EncryptedObject{KeyID: keyID, EncryptedData: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte(prefix), object...)
	}
	const prefix = "k8s:enc:kms:v2:p11-kms:"
	for _, test := range []struct {
		name, wrong string
		value       []byte
	}{
		{"as it should be", "", value(prefix, "key", "scrambled")},
		{"not encrypted", "it begins", []byte("k8s\x00" + s.value)},
		{"another provider", "it begins", value("k8s:enc:kms:v2:other:", "key", "scrambled")},
		{"plaintext inside", "it holds plaintext", value(prefix, "key", "..."+s.value)},
		{"base64 inside", "it holds plaintext", value(prefix, "key", base64.StdEncoding.EncodeToString([]byte(s.value)))},
		{"another KEK", "it needs key_id", value(prefix, "other", "scrambled")},
		{"no protobuf", "proto", []byte(prefix + "\xff")},
	} {
		err := c.isCiphertext(stored{"key", test.value}, "key")
		if (err == nil) != (test.wrong == "") || (err != nil && !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}
