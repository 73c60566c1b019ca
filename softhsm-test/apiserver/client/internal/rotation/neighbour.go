package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"p11-kms.test/client/internal/controlplane"
	"p11-kms.test/client/internal/process"
	"p11-kms.test/client/internal/storage"
)

// neighbourWrites puts an object into etcd as a further kube-apiserver on that node
// would that has seen the new key_id already. The real ones take up to 20 s to see
// it; this does at once what has to work then: its seed is new, so every node needs
// its own daemon to read it, with a KEK that the daemon may not know yet.
func (r *run) neighbourWrites(ctx context.Context, n *node) (*object, error) {
	o := r.traffic.book.fresh("neighbour")
	s, number, _ := o.next()
	text, err := json.Marshal(storedForm(s))
	if err != nil {
		return nil, err
	}
	sealed, err := storage.Seal(ctx, n.encryptionConfig, s.StorageKey(), text)
	if err != nil {
		return nil, fmt.Errorf("%s: a seed for a neighbour: %w", n.name, err)
	}
	revision, err := r.etcd.Put(ctx, controlplane.Stored{Key: s.StorageKey(), Value: sealed})
	if err != nil {
		return nil, err
	}
	o.acknowledge(number, strconv.FormatInt(revision, 10))
	return o, nil
}

// storedForm has what kube-apiserver itself would have added.
func storedForm(s controlplane.Secret) any {
	object := s.Object("")
	object.Metadata.UID = s.Name
	object.Metadata.CreationTimestamp = time.Now().UTC().Format(time.RFC3339)
	return struct {
		controlplane.Object
		Type string `json:"type"`
	}{object, "Opaque"}
}

// everyNodeReads reads on all nodes, from etcd and from the cache, and counts it.
func (r *run) everyNodeReads(ctx context.Context, o *object) {
	for _, n := range r.nodes {
		for _, cached := range []bool{false, true} {
			r.traffic.read(ctx, n, o, cached)
		}
	}
}

// isBack ends the node's absence when its kube-apiserver has a connection to its
// daemon again: when it can read what has a seed that it never saw.
func (r *run) isBack(ctx context.Context, n, neighbour *node) error {
	o, err := r.neighbourWrites(ctx, neighbour)
	if err != nil {
		return err
	}
	err = process.Until(ctx, apiserverLimit, "waiting for "+n.name+" to decrypt again", func(ctx context.Context) error {
		_, _, err := n.apiserver.ReadSecret(ctx, o.name, "")
		return err
	}, n.daemon, n.apiserver.Process)
	if err != nil {
		return err
	}
	n.returns()
	r.traffic.book.giveBack(o)
	r.everyNodeReads(ctx, o)
	return nil
}
