package encryption

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteThenRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	want := Provider{Name: "p11-kms", Endpoint: "unix:///@name"}
	if err := Write(file, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(file); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestReadRefusesAFirstProviderThatIsNotKMS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n" +
		"resources: [{resources: [secrets], providers: [{identity: {}}]}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(file); err == nil {
		t.Errorf("got %+v", got)
	}
}
