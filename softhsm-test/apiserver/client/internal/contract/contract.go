// Package contract checks a plugin against the rules of KMS v2, one by one,
// through the client that kube-apiserver itself uses.
package contract

import (
	"context"
	"fmt"
	"time"

	"k8s.io/kms/pkg/service"
)

// Rule is one thing a plugin has to do. Broken is empty when it does.
type Rule struct {
	Name   string        `json:"name"`
	Broken string        `json:"broken,omitempty"`
	Took   time.Duration `json:"took_ns"`
}

// checker carries what one rule learns to the next.
type checker struct {
	service service.Service
	status  *service.StatusResponse
	seed    []byte
	sealed  *service.EncryptResponse
}

var rules = []struct {
	name string
	run  func(context.Context, *checker) error
}{
	{"Status reports version v2, healthz ok and a valid key_id", statusIsWell},
	{"Status says the same twice", statusIsStable},
	{"Encrypt answers within the limits, with the key_id of Status", encryptKeepsLimits},
	{"Decrypt gives the plaintext back", decryptGivesBack},
	{"different plaintexts give different ciphertexts", ciphertextsDiffer},
	{"other lengths come back unchanged", otherLengths},
	{"a key_id that is not known is refused", unknownKeyRefused},
	{"a damaged ciphertext is refused", damagedRefused},
	{"an empty ciphertext is refused", emptyRefused},
	{"after the refusals it is still well", statusIsStable},
}

// Check runs every rule, or those up to the first Status that fails: without a
// key_id the others have nothing to say.
func Check(ctx context.Context, plugin service.Service) []Rule {
	c := &checker{service: plugin}
	var checked []Rule
	for _, rule := range rules {
		start := time.Now()
		err := rule.run(ctx, c)
		result := Rule{Name: rule.name, Took: time.Since(start)}
		if err != nil {
			result.Broken = err.Error()
		}
		checked = append(checked, result)
		if c.status == nil || (c.sealed == nil && err != nil) {
			break
		}
	}
	return checked
}

// Failed turns broken rules into an error.
func Failed(checked []Rule) error {
	broken := 0
	for _, rule := range checked {
		if rule.Broken != "" {
			broken++
		}
	}
	switch {
	case broken > 0:
		return fmt.Errorf("%d rules of KMS v2 are broken", broken)
	case len(checked) < len(rules):
		return fmt.Errorf("only %d of %d rules were checked", len(checked), len(rules))
	default:
		return nil
	}
}
