package watch

import (
	"crypto/sha256"
	"math/rand/v2"
	"time"

	"k8s.io/kms/pkg/service"
	"p11-kms.test/client/internal/kms"
)

// How many older ciphertexts all callers together keep.
const oldPairs = 1000

// Every such call is a Decrypt of an older ciphertext.
const oldInTurn = 4

// digest stands for a seed: an older one itself need not stay in memory.
type digest [sha256.Size]byte

func digestOf(seed []byte) digest { return sha256.Sum256(seed) }

// pair is a ciphertext and what has to come back.
type pair struct {
	request *service.DecryptRequest
	seed    digest
}

func requestFor(sealed *service.EncryptResponse) *service.DecryptRequest {
	return &service.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyID: sealed.KeyID, Annotations: sealed.Annotations}
}

// caller makes one call after the other. What it keeps is its own, so no two
// callers ever ask for the same at the same time.
type caller struct {
	*watch
	calls int
	old   sample
}

func newCaller(w *watch, keeps int) *caller {
	return &caller{watch: w, old: sample{size: keeps}}
}

func (c *caller) run() {
	for c.stop.Err() == nil {
		if made, ok := c.encrypt(); ok {
			// Whatever was given out has to be readable ever after.
			c.old.add(made)
			c.oldInTurn()
			c.open(made, "another plaintext came back")
		}
	}
}

func (c *caller) encrypt() (pair, bool) {
	c.oldInTurn()
	seed := kms.RandomSeed()
	begun := time.Now()
	sealed, err := c.plugin.Encrypt(c.alive, uid, seed)
	if !c.done("Encrypt", begun, err) {
		return pair{}, false
	}
	c.keyIDs.encrypted(sealed.KeyID)
	return pair{requestFor(sealed), digestOf(seed)}, true
}

// oldInTurn proves now and then that what was written long ago can be read.
func (c *caller) oldInTurn() {
	if c.calls%oldInTurn == oldInTurn-1 && len(c.old.pairs) > 0 {
		c.open(c.old.pairs[rand.IntN(len(c.old.pairs))], "another plaintext came back for an older ciphertext")
	}
}

func (c *caller) open(p pair, wrong string) {
	begun := time.Now()
	opened, err := c.plugin.Decrypt(c.alive, uid, p.request)
	if c.done("Decrypt", begun, err) && digestOf(opened) != p.seed {
		c.record.wrong("Decrypt", wrong)
	}
}

// done notes a call, and rests after one that has failed.
func (c *caller) done(method string, begun time.Time, err error) bool {
	c.calls++
	c.record.call(method, err, begun, time.Now())
	if err != nil {
		c.sleeps(restAfterFailure)
	}
	return err == nil
}

// sample keeps some of all pairs that were ever added, each with the same chance:
// the first ones as well as the last ones.
type sample struct {
	size  int
	added int
	pairs []pair
}

func (s *sample) add(p pair) {
	s.added++
	if len(s.pairs) < s.size {
		s.pairs = append(s.pairs, p)
	} else if at := rand.IntN(s.added); at < s.size {
		s.pairs[at] = p
	}
}
