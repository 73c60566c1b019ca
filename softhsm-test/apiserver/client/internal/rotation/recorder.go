package rotation

import (
	"context"
	"fmt"
	"sync"
	"time"

	kmsapi "k8s.io/kms/apis/v2"
	"p11-kms.test/client/internal/kms"
)

// recorder asks one daemon all the time, whether it runs or not.
type recorder struct {
	node *node

	mutex    sync.Mutex // guards what follows
	history  history
	statuses int
	encrypts int
	missed   int // while the node was away
	problems []error
}

// run goes on until ctx ends. Where a connection has broken the next one is made at
// once: gRPC itself would wait a second and more, and miss what a new daemon says.
func (r *recorder) run(ctx context.Context) {
	for ctx.Err() == nil {
		if kms.Listens(ctx, r.node.endpoint) == nil {
			r.connected(ctx)
		}
		pause(ctx, statusEvery)
	}
}

// connected ends with the first call that fails.
func (r *recorder) connected(ctx context.Context) {
	client, hangUp, err := kms.BareClient(r.node.endpoint)
	if err != nil {
		r.problem(err)
		return
	}
	defer hangUp()
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	for beat := 0; ctx.Err() == nil; beat++ {
		absence := r.node.absence()
		if err := r.ask(ctx, client, beat%encryptOneIn == 0); err != nil {
			if ctx.Err() == nil {
				r.failed(err, r.node.wasAway(absence))
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// ask sends a Status, or one before and one after an Encrypt.
func (r *recorder) ask(ctx context.Context, client kmsapi.KeyManagementServiceClient, encrypt bool) error {
	before, err := r.status(ctx, client)
	if err != nil || !encrypt {
		return err
	}
	call, cancel := context.WithTimeout(ctx, kms.CallTimeout)
	defer cancel()
	sealed, err := client.Encrypt(call, &kmsapi.EncryptRequest{Uid: uid, Plaintext: kms.RandomSeed()})
	if err != nil {
		return fmt.Errorf("Encrypt: %w", err)
	}
	after, err := r.status(ctx, client)
	if err != nil {
		return err
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.encrypts++
	if !agree(before, sealed.KeyId, after) {
		r.problems = append(r.problems, fmt.Errorf("%s: Encrypt has key_id %q, the Statuses around it %q and %q",
			r.node.name, sealed.KeyId, before, after))
	}
	return nil
}

// status takes note of the key_id also where the daemon is not well: kube-apiserver
// does so too.
func (r *recorder) status(ctx context.Context, client kmsapi.KeyManagementServiceClient) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, kms.CallTimeout)
	defer cancel()
	status, err := client.Status(ctx, &kmsapi.StatusRequest{})
	if err != nil {
		return "", fmt.Errorf("Status: %w", err)
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.statuses++
	// A daemon that starts knows none yet, and says that it is not well.
	if status.KeyId != "" {
		r.history.report(status.KeyId, time.Now())
	}
	if status.Healthz != "ok" {
		return "", fmt.Errorf("healthz is %q", status.Healthz)
	}
	return status.KeyId, nil
}

func (r *recorder) failed(err error, away bool) {
	if away {
		r.mutex.Lock()
		defer r.mutex.Unlock()
		r.missed++
		return
	}
	r.problem(err)
}

func (r *recorder) problem(err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.problems = append(r.problems, fmt.Errorf("%s: %w", r.node.name, err))
}

// keyIDs are all that it has reported, in order.
func (r *recorder) keyIDs() []string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var all []string
	for _, c := range r.history.changes {
		all = append(all, c.keyID)
	}
	return all
}

// last is the key_id that the node reports.
func (r *recorder) last() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.history.last()
}

// lastChange is when it began to.
func (r *recorder) lastChange() time.Time {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if len(r.history.changes) == 0 {
		return time.Time{}
	}
	return r.history.changes[len(r.history.changes)-1].at
}

// firstChangeAfter is the zero time if there is none.
func (r *recorder) firstChangeAfter(start time.Time) time.Time {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, c := range r.history.changes {
		if c.at.After(start) {
			return c.at
		}
	}
	return time.Time{}
}

// pause ends early with ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
