package rotation

import (
	"slices"
	"time"
)

// change is the first answer with another key_id than the one before.
type change struct {
	at    time.Time
	keyID string
}

// history is what one node has reported as its key_id. It outlives the daemon: for
// kube-apiserver the next one on that socket is the same plugin.
type history struct {
	changes []change
	flips   int
}

// report takes the key_id of one Status.
func (h *history) report(keyID string, at time.Time) {
	if keyID == h.last() {
		return
	}
	if slices.ContainsFunc(h.changes, func(c change) bool { return c.keyID == keyID }) {
		h.flips++
	}
	h.changes = append(h.changes, change{at, keyID})
}

// last is empty when nothing was reported yet.
func (h *history) last() string {
	if len(h.changes) == 0 {
		return ""
	}
	return h.changes[len(h.changes)-1].keyID
}

// agree says whether an Encrypt between two Statuses has the key_id of one of them.
func agree(before, encrypted, after string) bool {
	return encrypted == before || encrypted == after
}
