package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"p11-kms.test/client/internal/controlplane"
)

// store is as much of kube-apiserver as the traffic needs. It refuses every third
// write, after it has been done.
type store struct {
	mutex   sync.Mutex
	objects map[string]controlplane.Object
	writes  int
}

func (s *store) ServeHTTP(to http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if request.Method == http.MethodGet {
		_ = json.NewEncoder(to).Encode(s.objects[path.Base(request.URL.Path)])
		return
	}
	var written controlplane.Object
	if err := json.NewDecoder(request.Body).Decode(&written); err != nil {
		http.Error(to, err.Error(), http.StatusBadRequest)
		return
	}
	s.objects[written.Metadata.Name] = written
	if s.writes++; s.writes%3 == 0 {
		http.Error(to, "the seed has expired", http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(to).Encode(written)
}

func TestOnlyAcknowledgedWritesCountAsWritten(t *testing.T) {
	s := &store{objects: map[string]controlplane.Object{}}
	web := httptest.NewServer(s)
	defer web.Close()
	server := controlplane.NewClient(web.URL, "", web.Client())
	first := newSecret(1)
	if _, err := server.CreateSecret(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	traffic := startTraffic(t.Context(), server, []controlplane.Secret{first})
	stored := traffic.end()
	before, _, _ := traffic.look()

	for range 6 {
		traffic.write(context.Background())
		traffic.read(context.Background())
	}
	counts, writeError, readError := traffic.look()
	if got := counts.since(before); got.written != 4 || got.writesFailed != 2 || got.read != 6 || got.readsFailed != 0 {
		t.Errorf("counted: %s", got)
	}
	if len(traffic.end()) != len(stored)+4 || readError != nil {
		t.Errorf("%d are stored, reading: %v", len(traffic.end()), readError)
	}
	if writeError == nil || !strings.Contains(writeError.Error(), "the seed has expired") {
		t.Errorf("the first error: %v", writeError)
	}

	s.mutex.Lock()
	clear(s.objects)
	s.mutex.Unlock()
	traffic.read(context.Background())
	if counts, _, err := traffic.look(); err == nil || counts.readsFailed != 1 {
		t.Errorf("a Secret that is gone was read: %s, %v", counts, err)
	}
}

func TestRulesAreReplacedAsAWhole(t *testing.T) {
	c := &Cluster{options: Options{FaultControl: t.TempDir()}}
	for _, want := range []string{tokenLost, noRules} {
		if err := c.setRules(want); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(c.options.FaultControl)
		if err != nil || len(entries) != 1 || entries[0].Name() != rulesFile {
			t.Errorf("there is %v, %v", entries, err)
		}
		got, err := os.ReadFile(filepath.Join(c.options.FaultControl, rulesFile))
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestLineWith(t *testing.T) {
	text := "[+]ping ok\n[-]kms-providers failed: reason withheld\nhealthz check failed\n"
	if got, want := lineWith(text, "kms-providers"), "[-]kms-providers failed: reason withheld"; got != want {
		t.Errorf("got %q", got)
	}
	if got := lineWith("[+]ping ok\n", "kms-providers"); !strings.Contains(got, "nothing") {
		t.Errorf("got %q", got)
	}
}
