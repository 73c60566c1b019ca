package rotation

import (
	"strings"
	"testing"
	"time"
)

func TestAKeyIDThatComesBackIsAFlip(t *testing.T) {
	for _, test := range []struct {
		reported string
		changes  int
		flips    int
	}{
		{"", 0, 0},
		{"A A A", 1, 0},
		{"A A B B C", 3, 0},
		{"A B A", 3, 1},
		{"A B C A A B", 5, 2},
	} {
		h := history{}
		for keyID := range strings.FieldsSeq(test.reported) {
			h.report(keyID, time.Now())
		}
		if len(h.changes) != test.changes || h.flips != test.flips {
			t.Errorf("%q: %d changes, %d flips", test.reported, len(h.changes), h.flips)
		}
		if !strings.HasSuffix(test.reported, h.last()) {
			t.Errorf("%q: the last is %q", test.reported, h.last())
		}
	}
}

func TestEncryptAgreesWithAStatusBesideIt(t *testing.T) {
	for _, test := range []struct {
		before, encrypted, after string
		want                     bool
	}{
		{"A", "A", "A", true},
		{"A", "B", "A", false},
		{"A", "A", "B", true},
		{"A", "B", "B", true},
		{"A", "C", "B", false},
	} {
		if agree(test.before, test.encrypted, test.after) != test.want {
			t.Errorf("%+v", test)
		}
	}
}
