package watch

import "sync"

// keyIDs knows which key_ids are right. After a rotation an Encrypt may have the
// new one before we have seen it in a Status. So one that is not known waits for
// a Status that is asked later.
type keyIDs struct {
	mutex   sync.Mutex
	known   map[string]bool
	waiting map[string]bool
}

func newKeyIDs(first string) *keyIDs {
	return &keyIDs{known: map[string]bool{first: true}, waiting: map[string]bool{}}
}

// encrypted takes note of what an Encrypt has answered.
func (k *keyIDs) encrypted(keyID string) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if !k.known[keyID] {
		k.waiting[keyID] = true
	}
}

// unconfirmed are those that the next Status has to confirm.
func (k *keyIDs) unconfirmed() []string {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	var waiting []string
	for keyID := range k.waiting {
		waiting = append(waiting, keyID)
	}
	return waiting
}

// confirm takes what a Status has answered, and what waited for it when it was
// asked. It returns the key_ids that are wrong, each of them once.
func (k *keyIDs) confirm(keyID string, waiting []string) []string {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.known[keyID] = true
	delete(k.waiting, keyID)
	var wrong []string
	for _, other := range waiting {
		if !k.known[other] {
			wrong = append(wrong, other)
			k.known[other] = true // it has been told
			delete(k.waiting, other)
		}
	}
	return wrong
}
