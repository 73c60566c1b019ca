package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

// mirror encrypts by turning bytes around. It does harm when it is told to.
type mirror struct {
	stop      func()
	stopAfter int
	calls     []string
	damage    func(call int, plaintext []byte) ([]byte, error)
}

func (m *mirror) Status(context.Context) (*service.StatusResponse, error) {
	return nil, errors.New("not asked here")
}

func (m *mirror) Encrypt(_ context.Context, _ string, plaintext []byte) (*service.EncryptResponse, error) {
	m.note("Encrypt")
	return &service.EncryptResponse{Ciphertext: turned(plaintext), KeyID: "1"}, nil
}

func (m *mirror) Decrypt(_ context.Context, _ string, request *service.DecryptRequest) ([]byte, error) {
	m.note("Decrypt")
	plaintext := turned(request.Ciphertext)
	if m.damage != nil {
		return m.damage(len(m.calls), plaintext)
	}
	return plaintext, nil
}

func (m *mirror) note(method string) {
	if m.calls = append(m.calls, method); len(m.calls) == m.stopAfter {
		m.stop()
	}
}

func turned(text []byte) []byte {
	text = bytes.Clone(text)
	slices.Reverse(text)
	return text
}

// run lets one caller make so many calls, and returns the events by their name.
func run(t *testing.T, m *mirror, calls int) (map[string][]map[string]any, error) {
	t.Helper()
	stop, cancel := context.WithCancel(t.Context())
	m.stop, m.stopAfter = cancel, calls
	var output bytes.Buffer
	w := &watch{
		plugin: m, stop: stop, alive: t.Context(),
		record: newRecord(&output, time.Now()), keyIDs: newKeyIDs("1"),
	}
	newCaller(w, 10).run()
	err := w.record.summary()

	found := map[string][]map[string]any{}
	for line := range bytes.Lines(output.Bytes()) {
		var event map[string]any
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		name := event["event"].(string)
		found[name] = append(found[name], event)
	}
	return found, err
}

func TestEveryFourthCallIsADecryptOfAnOlderOne(t *testing.T) {
	m := &mirror{}
	events, err := run(t, m, 13)
	const e, d = "Encrypt", "Decrypt"
	if want := []string{e, d, e, d, d, e, d, d, e, d, e, d, d}; err != nil || !slices.Equal(m.calls, want) {
		t.Errorf("got %v, %v", m.calls, err)
	}
	if good := events["summary"][0]["good"]; good != float64(len(m.calls)) {
		t.Errorf("%v of %d calls count as good", good, len(m.calls))
	}
}

func TestAWrongPlaintextIsTold(t *testing.T) {
	events, err := run(t, &mirror{damage: func(call int, plaintext []byte) ([]byte, error) {
		if call == 2 {
			plaintext[0]++
		}
		return plaintext, nil
	}}, 10)
	if !errors.Is(err, ErrWrong) || len(events["wrong"]) != 1 || events["summary"][0]["wrong"] != 1.0 {
		t.Errorf("got %v, %v", events, err)
	}
}

func TestFailuresAreToldByTheirCodeAndThenCounted(t *testing.T) {
	const more = 20
	events, err := run(t, &mirror{damage: func(int, []byte) ([]byte, error) {
		return nil, status.Error(codes.Unavailable, "the token is lost")
	}}, 2*(failuresTold+more))
	if err != nil || len(events["failed"]) != failuresTold {
		t.Fatalf("%d failures told, %v", len(events["failed"]), err)
	}
	first := events["failed"][0]
	if first["method"] != "Decrypt" || first["code"] != "Unavailable" || first["message"] != "the token is lost" {
		t.Errorf("told: %v", first)
	}
	got := events["summary"][0]["failed"].(map[string]any)
	if count := got["Unavailable"].(float64); len(got) != 1 || count < failuresTold+more {
		t.Errorf("counted: %v", got)
	}
}

func TestTheLongestGap(t *testing.T) {
	begun := time.Now()
	at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
	r := newRecord(&bytes.Buffer{}, begun)
	r.call("Encrypt", nil, at(0), at(1))
	r.call("Encrypt", errors.New("no"), at(1), at(3))
	r.call("Encrypt", nil, at(3), at(5))
	if r.longestGap != 4*time.Second {
		t.Errorf("between good calls: %s", r.longestGap)
	}
	r.stopped(at(12))
	r.call("Encrypt", nil, at(5), at(30))
	if r.longestGap != 7*time.Second {
		t.Errorf("at the end: %s", r.longestGap)
	}
}

func TestABeatHasItsOwnStatusTimes(t *testing.T) {
	begun := time.Now()
	var output bytes.Buffer
	r := newRecord(&output, begun)
	r.status(nil, status.Error(codes.DeadlineExceeded, "late"), begun, begun.Add(3*time.Second))
	output.Reset()
	r.beat(begun)
	r.status(&service.StatusResponse{Healthz: "ok"}, nil, begun, begun.Add(time.Millisecond))
	r.beat(begun)
	decoder := json.NewDecoder(&output)
	for _, want := range []beatEvent{
		{Event: "beat", StatusMost: 3000, Healthz: "Status failed: DeadlineExceeded"},
		{Event: "beat", StatusMost: 1, Healthz: "ok"},
	} {
		var got beatEvent
		if err := decoder.Decode(&got); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if r.statusMost != 3*time.Second || r.statusFailed != 1 {
		t.Errorf("in all: %s, %d failed", r.statusMost, r.statusFailed)
	}
}

func TestKeyIDs(t *testing.T) {
	k := newKeyIDs("1")
	k.encrypted("1")
	if got := k.unconfirmed(); len(got) != 0 {
		t.Errorf("what Status has said waits: %q", got)
	}
	// A rotation: the answer of Encrypt is seen first.
	k.encrypted("2")
	if wrong := k.confirm("1", nil); len(wrong) != 0 {
		t.Errorf("a Status asked before the Encrypt judges it: %q", wrong)
	}
	if wrong := k.confirm("2", k.unconfirmed()); len(wrong) != 0 {
		t.Errorf("a rotation is wrong: %q", wrong)
	}
	k.encrypted("3")
	if wrong := k.confirm("2", k.unconfirmed()); !slices.Equal(wrong, []string{"3"}) {
		t.Errorf("what no Status confirms: %q", wrong)
	}
	k.encrypted("3")
	if wrong := k.confirm("2", k.unconfirmed()); len(wrong) != 0 {
		t.Errorf("it is told twice: %q", wrong)
	}
}

func TestASampleKeepsTheFirstAsWellAsTheLast(t *testing.T) {
	s := sample{size: 100}
	seen := map[byte]int{}
	for i := range 10_000 {
		s.add(pair{seed: digest{byte(i / 1000)}})
	}
	for _, p := range s.pairs {
		seen[p.seed[0]]++
	}
	// Each tenth has 10 of 100 on average; none is as good as impossible.
	if len(s.pairs) != 100 || len(seen) < 8 {
		t.Errorf("%d pairs, of the tenths %v", len(s.pairs), slices.Sorted(maps.Keys(seen)))
	}
}
