package controlplane

import (
	"encoding/base64"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
)

func TestKeyID(t *testing.T) {
	s := Secret{Name: "secret", Value: "a value that nobody else has"}
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
		{"not encrypted", "it begins", []byte("k8s\x00" + s.Value)},
		{"another provider", "it begins", value("k8s:enc:kms:v2:other:", "key", "scrambled")},
		{"plaintext inside", "it holds plaintext", value(prefix, "key", "..."+s.Value)},
		{"base64 inside", "it holds plaintext", value(prefix, "key", base64.StdEncoding.EncodeToString([]byte(s.Value)))},
		{"no protobuf", "proto", []byte(prefix + "\xff")},
	} {
		keyID, err := Stored{"key", test.value}.KeyID(prefix, []Secret{s})
		switch {
		case test.wrong == "" && (err != nil || keyID != "key"):
			t.Errorf("%s: got %q, %v", test.name, keyID, err)
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}
